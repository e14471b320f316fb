"""Where the client finds the service, the storage and its secrets.

Explicit values win over a credentials file, the file over the environment;
in both, ``BRIDGE_*`` names win over the ``LERULI_*`` names of the public client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bridge import log
from bridge.errors import ConfigError
from bridge.process import environment

FILE_VARIABLE: Final = "BRIDGE_CREDENTIALS"
COMPUTE_VARIABLE: Final = "BRIDGE_COMPUTE_SECRET"

# Field of Credentials → the names it goes by, the first one found wins.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "url": ("BRIDGE_URL", "LERULI_BASEURL"),
    "secret": ("BRIDGE_API_SECRET", "LERULI_API_SECRET"),
    "admin_secret": ("BRIDGE_ADMIN_SECRET",),
    "group_token": ("BRIDGE_GROUP_TOKEN", "LERULI_GROUP_TOKEN"),
    "compute_secret": (COMPUTE_VARIABLE,),
    "s3_server": ("BRIDGE_S3_SERVER", "LERULI_S3_SERVER"),
    "s3_access": ("BRIDGE_S3_ACCESS", "LERULI_S3_ACCESS"),
    "s3_secret": ("BRIDGE_S3_SECRET", "LERULI_S3_SECRET"),
    "s3_region": ("BRIDGE_S3_REGION",),
    "ca_file": ("BRIDGE_CA_FILE",),
}
_SECRET_FIELDS: Final = (
    "secret",
    "admin_secret",
    "group_token",
    "compute_secret",
    "s3_access",
    "s3_secret",
)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Addresses and secrets of one user. Empty text means: not given.

    ``ca_file`` is a PEM file of certificate authorities to trust instead of the
    system's, for the service and for the storage.
    """

    url: str = ""
    secret: str = ""
    admin_secret: str = ""
    group_token: str = ""
    compute_secret: str = ""
    s3_server: str = ""
    s3_access: str = ""
    s3_secret: str = ""
    s3_region: str = "us-east-1"
    ca_file: str = ""

    def __post_init__(self) -> None:
        for name in _SECRET_FIELDS:
            log.redact(getattr(self, name))

    def __repr__(self) -> str:
        given = [name for name in _SECRET_FIELDS if getattr(self, name)]
        return f"Credentials(url={self.url!r}, s3_server={self.s3_server!r}, has={given})"

    def require(self, *fields: str) -> None:
        """Check that fields are given.

        Raises ConfigError naming the variable of the first that is missing.
        """
        for field in fields:
            if not getattr(self, field):
                raise ConfigError(
                    f"{_NAMES[field][0]} is not set",
                    f"Give a credentials file (--credentials FILE or {FILE_VARIABLE}), "
                    f"or set {' or '.join(_NAMES[field])} in the environment.",
                )


def load(path: str | Path | None = None, **explicit: str | None) -> Credentials:
    """Credentials from explicit values, then a file, then the environment.

    ``path`` defaults to the variable BRIDGE_CREDENTIALS. With a file, the
    environment's secrets are not mixed in: one or the other.

    Raises ConfigError for a file that cannot be read or has a bad line.
    """
    variables = environment()
    path = path or variables.get(FILE_VARIABLE)
    found = _named(read_file(Path(path)) if path else variables)
    found.update({name: value for name, value in explicit.items() if value})
    result = Credentials(**found)
    for name in ("url", "s3_server"):
        if value := getattr(result, name):
            result = replace(result, **{name: _address(value, _NAMES[name][0])})
    return result


def read_file(path: Path) -> dict[str, str]:
    """The ``NAME=value`` lines of a file; ``#`` starts a comment line.

    Raises ConfigError naming file and line, never a value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(
            f"credentials file {path} cannot be read: {reason}",
            "Check the path; `nomad-bridge init` writes such a file.",
        ) from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(
                f"{path}, line {number}: not of the form NAME=value",
                "Remove the line or start it with #.",
            )
        values[name] = value
    return values


def _named(variables: Mapping[str, str]) -> dict[str, str]:
    found = {
        field: next((variables[name] for name in names if variables.get(name)), "")
        for field, names in _NAMES.items()
    }
    return {field: value for field, value in found.items() if value}


def _address(value: str, name: str) -> str:
    # The public client reads the same text in two ways that agree only on this
    # form: a scheme, a host, perhaps a port, and nothing behind.
    parts = urlsplit(value)
    try:
        port_is_number = parts.port is None or parts.port > 0
    except ValueError:
        port_is_number = False
    bare_host = parts.username is None and not parts.query and not parts.fragment
    allowed_path = parts.path in ("", "/") or name == "BRIDGE_URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_number:
        raise ConfigError(f"{name} is not a URL", "Write http://HOST:PORT or https://HOST.")
    if not bare_host or not allowed_path:
        raise ConfigError(f"{name} has more than host and port", "Write http(s)://HOST:PORT only.")
    return value.rstrip("/")
