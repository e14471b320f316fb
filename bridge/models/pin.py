"""Pins: which downloads a node takes, each with the SHA-256 it must have.

A list of them is text: a line has name, version, SHA-256 (``-``: not known yet),
architecture and URL; ``#`` starts a comment line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from bridge.errors import ConfigError

ARCHITECTURES: Final = ("amd64", "arm64")

_UNKNOWN: Final = "-"
_FIELDS: Final = (
    ("name", re.compile(r"[a-z0-9][a-z0-9.-]*")),
    ("version", re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")),
    ("SHA-256", re.compile(r"-|[0-9a-f]{64}")),
    ("architecture", re.compile("|".join(ARCHITECTURES))),
    # Plain enough to stand in any shell's or curl's configuration as it is.
    ("URL", re.compile(r"https://[A-Za-z0-9.:-]+(?:/[A-Za-z0-9._~+@-]+)+")),
)


class Pin(msgspec.Struct, frozen=True):
    """One download of a node. ``sha256`` is None when nobody has filled it in yet."""

    name: str
    version: str
    sha256: str | None
    architecture: str
    url: str

    @property
    def file_name(self) -> str:
        """What the download is called in a folder."""
        return self.url.rpartition("/")[2]

    def __str__(self) -> str:
        digest = self.sha256 or _UNKNOWN
        return f"{self.name} {self.version} {digest} {self.architecture} {self.url}"


def parse(text: str) -> tuple[Pin, ...]:
    """The pins of a list, in its order.

    Raises ConfigError naming the line.
    """
    found: dict[tuple[str, str], Pin] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        pin = _pin(line, number)
        if pin is None:
            continue
        if (pin.name, pin.architecture) in found:
            raise ConfigError(
                f"pins, line {number}: {pin.name} for {pin.architecture} is there already.",
                "Keep one line for each name and architecture.",
            )
        found[pin.name, pin.architecture] = pin
    return tuple(found.values())


def filled(text: str, digests: Mapping[Pin, str]) -> str:
    """The list with the SHA-256 of some pins put in; everything else stays as it is."""
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        pin = _pin(line, number)
        if pin is not None and pin in digests:
            lines.append(str(msgspec.structs.replace(pin, sha256=digests[pin])))
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def _pin(line: str, number: int) -> Pin | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    if len(words) != len(_FIELDS):
        raise ConfigError(
            f"pins, line {number}: {len(words)} words instead of {len(_FIELDS)}.",
            "Write: name version SHA-256 architecture URL.",
        )
    for word, (what, form) in zip(words, _FIELDS, strict=True):
        if not form.fullmatch(word):
            raise ConfigError(
                f"pins, line {number}: {word!r} is no {what}.",
                "See the list that nomad-bridge brings, node-setup/pins.",
            )
    name, version, digest, architecture, url = words
    return Pin(name, version, None if digest == _UNKNOWN else digest, architecture, url)
