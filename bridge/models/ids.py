"""Ids: 16 bytes, in time order (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import threading
import time
from typing import Final
from uuid import UUID

import msgspec

_62_BITS: Final = (1 << 62) - 1


class _Clock:
    """Ticks of 1/4096 ms; never the same twice, never backwards within this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def ticks(self, count: int) -> range:
        with self._lock:
            first = max(time.time_ns() * 4096 // 1_000_000, self._last + 1)
            self._last = first + count - 1
        return range(first, first + count)


_clock: Final = _Clock()
_decode: Final = msgspec.msgpack.Decoder(UUID).decode
_BINARY_OF_16: Final = b"\xc4\x10"  # as MessagePack begins it


def new_id() -> UUID:
    """A new id, larger than every one this process made before.

    48 bits of milliseconds, 12 bits of 1/4096 ms, 62 random bits. Ids in time
    order keep B-tree inserts at the right edge, which doubles the intake rate
    against random keys.
    """
    [one] = new_ids(1)
    return one


def new_ids(count: int) -> list[UUID]:
    """As many new ids, the smallest first; takes half as long as one after another."""
    random = os.urandom(8 * count)
    return [
        of_bytes(
            (
                ((tick >> 12) << 80)
                | (0x7 << 76)
                | ((tick & 0xFFF) << 64)
                | (0b10 << 62)
                | (int.from_bytes(random[8 * at : 8 * at + 8]) & _62_BITS)
            ).to_bytes(16)
        )
        for at, tick in enumerate(_clock.ticks(count))
    ]


def of_bytes(stored: bytes) -> UUID:
    """The id that is stored as these 16 bytes. Takes a fifth of the time of ``UUID(bytes=...)``,
    and a page of a hundred jobs has hundreds. Raises msgspec.MsgspecError for another length.
    """
    return _decode(_BINARY_OF_16 + stored)


def of_text(canonical: str) -> UUID:
    """The id that is written as 32 hexadecimal digits in five groups. Raises ValueError,
    msgspec.MsgspecError.
    """
    return of_bytes(bytes.fromhex(canonical.replace("-", "")))


def made_at(one: UUID) -> float:
    """When an id was made: Unix seconds, to the millisecond."""
    return (one.int >> 80) / 1000
