"""Sizes of machines: what a job may ask for to fit one of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec


class Sizes(msgspec.Struct, frozen=True):
    """Cores and memory (MiB) of machines, of which none is as large as another in both."""

    each: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, machines: Iterable[tuple[int, int]]) -> Sizes:
        """Of these machines, without those that another one can stand in for."""
        found: list[tuple[int, int]] = []
        for cores, memory_mb in sorted(machines, reverse=True):
            if not found or memory_mb > found[-1][1]:
                found.append((cores, memory_mb))
        return cls(tuple(found))

    def hold(self, cores: int, memory_mb: int) -> bool:
        """Whether so much fits one of them."""
        return any(cores <= most and memory_mb <= most_mb for most, most_mb in self.each)

    def within(self, others: Sizes) -> bool:
        """Whether whatever fits these fits the others."""
        return all(others.hold(cores, memory_mb) for cores, memory_mb in self.each)


ANY_SIZE: Final = Sizes(((2**62, 2**62),))
