"""The bundle: one tar file with all that turns a machine into a node of a group.

It holds group token and compute secret, and never a key of the storage. The same
input gives the same bytes, so that two bundles can be compared.
"""

from __future__ import annotations

import hashlib
import io
import re
import ssl
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

import bridge
from bridge import resources
from bridge.errors import BridgeError, ConfigError
from bridge.models import pin as pins

FOLDER: Final = "nomadrun"

# Of node-setup/: what goes in, files and whole folders.
_PARTS: Final = ("README.md", "get-started.sh", "run.sh", "bin", "lib", "systemd")
# 1980-01-01: old versions of tar warn of files from 1970.
_MTIME: Final = 315_532_800
_SECRET: Final = 0o600
_PROGRAM: Final = 0o755
_PLAIN: Final = 0o644

_VALUE: Final = re.compile(r"[!-~]+")
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL
)


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is made of, apart from the compute secret.

    ``pins`` is a list of pins as text, ``ca`` PEM or empty, ``scripts`` the files of
    ``node-setup`` by their path.
    """

    url: str
    group_token: str
    pins: str
    ca: str
    scripts: Mapping[str, bytes]

    @property
    def version(self) -> str:
        """Names the scripts: the program's version, and a part of their own SHA-256."""
        return version(self.scripts)


def contents(
    *,
    url: str,
    group_token: str,
    pins_text: str,
    architectures: Collection[str],
    ca_file: Path | None = None,
    source: Path | None = None,
) -> Contents:
    """Gather what a bundle needs; ``source`` is a folder like ``node-setup``.

    Raises ConfigError for a pin without SHA-256, an architecture without pins, a file
    that holds no certificate or a value that does not fit on a line, BridgeError when
    the installation lacks a file.
    """
    _line("BRIDGE_URL", url)
    _line("BRIDGE_GROUP_TOKEN", group_token)
    return Contents(
        url=url,
        group_token=group_token,
        pins=_pins(pins_text, architectures),
        ca=certificates(ca_file) if ca_file else "",
        scripts=scripts(source),
    )


def pack(contents: Contents, compute_secret: str) -> bytes:
    """The tar file. Raises ConfigError for a value that does not fit on a line."""
    files = {name: (content, _mode(content)) for name, content in contents.scripts.items()}
    files["node.conf"] = (_settings(contents, compute_secret).encode(), _SECRET)
    files["pins"] = (contents.pins.encode(), _PLAIN)
    if contents.ca:
        files["ca.pem"] = (contents.ca.encode(), _PLAIN)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in _folders(files):
            tar.addfile(_member(folder, _PROGRAM, tarfile.DIRTYPE))
        for name, (content, mode) in sorted(files.items()):
            member = _member(f"{FOLDER}/{name}", mode)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def version(files: Mapping[str, bytes] | None = None) -> str:
    """Names the scripts that a bundle of this installation brings, for example ``0.1.0+3f9a0c1d``.

    Raises BridgeError when the installation lacks them.
    """
    whole = hashlib.sha256()
    for name, content in sorted((scripts() if files is None else files).items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{bridge.__version__}+{whole.hexdigest()[:8]}"


def scripts(source: Path | None = None) -> dict[str, bytes]:
    """What nodes run, by its path below ``source``, by default this installation's.

    Raises BridgeError for a part that is missing.
    """
    root = source or resources.path("node-setup")
    found: dict[str, bytes] = {}
    for part in _PARTS:
        path = root / part
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        # Editors and Python leave hidden files, copies and caches behind.
        mine = [file for file in files if file.is_file() and _is_kept(file.relative_to(root))]
        if not mine:
            raise BridgeError(
                f"{part} of node-setup is missing from this installation.",
                "Install nomad-bridge again.",
            )
        found |= {file.relative_to(root).as_posix(): file.read_bytes() for file in mine}
    return found


def certificates(path: Path) -> str:
    """The certificates of a PEM file, and nothing else of it.

    Raises ConfigError when it cannot be read, holds none, or holds a private key.
    """
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not PEM"
        raise ConfigError(f"The certificate {path} cannot be read: {reason}.") from error
    if "PRIVATE KEY-----" in text:
        raise ConfigError(
            f"{path} holds a private key.", "Give a file with the certificate of the CA alone."
        )
    found = "".join(f"{one}\n" for one in _CERTIFICATE.findall(text))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{path} holds no certificate.", "Give the CA's certificate as PEM."
        ) from error
    return found


def _pins(text: str, architectures: Collection[str]) -> str:
    """The lines for some architectures, all of them with a SHA-256."""
    wanted = [pin for pin in pins.parse(text) if pin.architecture in architectures]
    missing = [f"{pin.name} ({pin.architecture})" for pin in wanted if pin.sha256 is None]
    if missing:
        raise ConfigError(
            f"The SHA-256 is not known of {', '.join(missing)}.",
            "Download them to a folder, run `nomad-bridge nodes pins --from DIR`, then give the "
            "list that it writes: --pins FILE.",
        )
    for architecture in architectures:
        if not any(pin.architecture == architecture for pin in wanted):
            raise ConfigError(f"No download is pinned for {architecture}.", "See --pins.")
    return "".join(f"{pin}\n" for pin in wanted)


def _settings(contents: Contents, compute_secret: str) -> str:
    values = {
        "BRIDGE_URL": contents.url,
        "BRIDGE_GROUP_TOKEN": contents.group_token,
        "BRIDGE_COMPUTE_SECRET": compute_secret,
        "BRIDGE_BUNDLE": contents.version,
    }
    return "".join(_line(name, value) for name, value in values.items())


def _line(name: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise ConfigError(f"{name} is empty or has characters that it cannot have.")
    return f"{name}={value}\n"


def _is_kept(path: Path) -> bool:
    hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
    return not hidden and not path.name.endswith("~")


def _mode(content: bytes) -> int:
    # Not as it is on this disk: an installed package may have lost it.
    return _PROGRAM if content.startswith(b"#!") else _PLAIN


def _folders(files: Collection[str]) -> list[str]:
    parents = {str(parent) for name in files for parent in Path(FOLDER, name).parents}
    return sorted(parents - {"."})


def _member(name: str, mode: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.mtime = mode, kind, _MTIME
    return member
