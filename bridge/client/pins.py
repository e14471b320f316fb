"""The SHA-256 of a node's downloads, taken from files that an operator brought.

A file is believed for what it holds, not for its name: an error page saved under
a program's name, or the other architecture's archive, must not be pinned.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from bridge import resources
from bridge.errors import ConfigError
from bridge.models import pin as pins
from bridge.models.pin import Pin

# Byte 18 of an ELF file: for which machine it is.
_MACHINES: Final = {62: "amd64", 183: "arm64"}
_HEAD: Final = 20
_SUM: Final = re.compile(r"([0-9A-Fa-f]{64})[ \t]+\*?(\S+)")
_SUMS_BYTES: Final = 1_000_000
# RuntimeError: what zipfile raises for members that are encrypted or packed unusually.
_DAMAGED: Final = (
    EOFError,
    RuntimeError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class Checked(msgspec.Struct, frozen=True):
    """What was found for a pin. ``sha256`` is None, and ``file`` too, when nothing was.

    ``against`` says what the file agreed with: ``the list`` of pins, or the name
    of the vendor's list of hashes; it is empty when there was neither.
    """

    pin: Pin
    file: Path | None = None
    sha256: str | None = None
    against: tuple[str, ...] = ()


def shipped() -> Path:
    """The list that comes with this installation. Raises BridgeError when it lacks it."""
    return resources.path("node-setup/pins")


def read(path: Path) -> str:
    """The text of a list of pins. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"The pins {path} cannot be read: {reason}.") from error


def check(wanted: Sequence[Pin], folder: Path) -> list[Checked]:
    """Look for every pin's download in ``folder`` or its folder of the architecture's name.

    Raises ConfigError for a file that is not what it should be: another SHA-256
    than the list or the vendor says, damaged, or without a program for the
    architecture.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder.", "Give the folder with the downloads.")
    try:
        return [_check(pin, folder) for pin in wanted]
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from error


def fill(text: str, checked: Iterable[Checked]) -> str:
    """The list ``text`` with what was found put in."""
    return pins.filled(text, {one.pin: one.sha256 for one in checked if one.sha256})


def _check(pin: Pin, folder: Path) -> Checked:
    file = _find(pin, folder)
    if file is None:
        return Checked(pin)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    against = []
    for who, said in _said(pin, file):
        if said != digest:
            raise ConfigError(
                f"{file} has the SHA-256 {digest}, but {who} says {said}.",
                "Download it again; if that does not help, somebody changed it: do not use it.",
            )
        against.append(who)
    return Checked(pin, file, digest, tuple(against))


def _said(pin: Pin, file: Path) -> Iterator[tuple[str, str]]:
    """Who says which SHA-256 the file must have."""
    if pin.sha256:
        yield "the list", pin.sha256
    for sums in sorted(file.parent.iterdir()):
        if "sha256" not in sums.name.lower() or not sums.is_file():
            continue
        with sums.open("rb") as opened:
            text = opened.read(_SUMS_BYTES).decode("utf-8", "replace")
        # A list may be wrapped in a signature: lines of another form are left out.
        for line in text.splitlines():
            match = _SUM.fullmatch(line.strip())
            if match and Path(match[2]).name == pin.file_name:
                yield sums.name, match[1].lower()


def _find(pin: Pin, folder: Path) -> Path | None:
    own, shared = folder / pin.architecture / pin.file_name, folder / pin.file_name
    for file in (own, shared):
        if not file.is_file():
            continue
        machines = _machines(file)
        if pin.architecture in machines:
            return file
        # Beside the folders of the architectures it may be meant for the other one.
        if file == own or not machines:
            held = f"programs for {', '.join(sorted(machines))}" if machines else "no program"
            raise ConfigError(
                f"{file} holds {held}, not one for {pin.architecture}.", f"Download {pin.url}"
            )
    return None


def _machines(file: Path) -> set[str]:
    """For which machines the programs in a file or archive are."""
    try:
        return {_MACHINES[head[18]] for head in _heads(file) if _is_program(head)}
    except _DAMAGED as error:
        raise ConfigError(f"{file} is damaged: {error}.", "Download it again.") from error


def _is_program(head: bytes) -> bool:
    return len(head) == _HEAD and head.startswith(b"\x7fELF") and head[18] in _MACHINES


def _heads(file: Path) -> Iterator[bytes]:
    """The first bytes of the file, or of everything in it if it is an archive."""
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
        opened.seek(0)
        if head.startswith(b"PK\x03\x04"):
            yield from _zip_heads(opened)
        elif head.startswith(b"\x1f\x8b"):
            yield from _tar_heads(opened)
        else:
            yield head


def _zip_heads(opened: IO[bytes]) -> Iterator[bytes]:
    with zipfile.ZipFile(opened) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                yield member.read(_HEAD)


def _tar_heads(opened: IO[bytes]) -> Iterator[bytes]:
    with tarfile.open(fileobj=opened, mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield content.read(_HEAD)
