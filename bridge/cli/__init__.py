"""The command line, ``nomad-bridge …``."""
