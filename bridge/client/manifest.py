"""``.bridge/manifest``: what a node uploaded, written by it after everything else.

A JSON object ``{"version": 1, "attempt", "alloc", "files": [{"key", "size", "sha256"}]}``.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge.errors import ResultsError

MANIFEST_KEY: Final = ".bridge/manifest"
_VERSION: Final = 1


class Result(msgspec.Struct, frozen=True):
    """A result file: its key, size in bytes and SHA-256 (empty: not known)."""

    key: str
    size: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True):
    version: int
    files: list[Result]


def parse(data: bytes) -> list[Result]:
    """The results that a manifest lists. Raises ResultsError when it is damaged."""
    try:
        manifest = msgspec.json.decode(data, type=_Manifest)
    except msgspec.DecodeError as error:
        raise ResultsError(
            f"the list of results is damaged: {error}", "Fetch the files with an S3 tool."
        ) from error
    if manifest.version != _VERSION:
        raise ResultsError(
            f"the list of results has version {manifest.version}, {_VERSION} is known",
            "Use a newer nomad-bridge.",
        )
    return manifest.files
