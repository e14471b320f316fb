"""Who goes next: pure, so that every rule can be tested as a value in, a value out.

First in, first out within a priority. The deep queue stays here; a pool is
handed only what can start now plus a small reserve (``window``), because a
scheduler with thousands of blocked jobs melts and places them in any order.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bridge.connectors.base import Room
from bridge.db.jobs import Waiting

__all__ = ["Choice", "Waiting", "choose"]


class Choice(msgspec.Struct, frozen=True):
    """What goes now, and what never can on this pool."""

    now: tuple[Waiting, ...]
    too_big: tuple[Waiting, ...]


def choose(waiting: Iterable[Waiting], *, window: int, room: Room | None) -> Choice:
    """Pick from ``waiting`` (already in order) what is handed over now.

    ``window`` bounds how many; ``room``, where the pool knows it, bounds cores
    and memory too. The first job that does not fit now closes the door behind
    it, so that a large job is not overtaken for ever by small ones. A job that
    no machine of the pool could ever hold is set aside instead.
    """
    now: list[Waiting] = []
    too_big: list[Waiting] = []
    slots = window if room is None else min(window, room.slots)
    cores = room.cores_free if room else 0
    memory = room.memory_free_mb if room else 0
    for job in waiting:
        if room and (job.cores > room.cores_total or job.memory_mb > room.memory_total_mb):
            too_big.append(job)
            continue
        if len(now) >= slots:
            break
        if room:
            if job.cores > cores or job.memory_mb > memory:
                break
            cores -= job.cores
            memory -= job.memory_mb
        now.append(job)
    return Choice(tuple(now), tuple(too_big))
