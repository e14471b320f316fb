"""Who goes next: pure, so that every rule can be tested as a value in, a value out.

Priority first. Within a priority, the members of a group take turns by fair
share: who used least lately goes first, where use is core-seconds that lose
half their weight every half-life. Of one member's jobs, the oldest goes first.

The deep queue stays here; a pool is handed only what can start now plus a small
reserve (``reserve``), because a scheduler with thousands of blocked jobs melts
and places them in any order.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from bridge.connectors.base import Room
from bridge.db.queue import Line, Waiting

__all__ = ["Choice", "Line", "Member", "Reserve", "Waiting", "choose", "reserve"]

# What a job that was just picked counts for until its real use is known: without
# it, the member with the least use would get everything at once.
_NOMINAL_S: Final = 60.0


class Member(msgspec.Struct, frozen=True):
    """What a user has and had: attempts under way, and decayed core-seconds."""

    running: int = 0
    use: float = 0.0


class Choice(msgspec.Struct, frozen=True):
    """What goes now, and what never can on this pool."""

    now: tuple[Waiting, ...]
    too_big: tuple[Waiting, ...]


class Reserve(msgspec.Struct, frozen=True):
    """Bounds of what waits at a scheduler, and for how many seconds it shall last."""

    least: int = 8
    most: int = 64
    ahead_s: float = 5.0


def reserve(starts_per_s: float, bounds: Reserve) -> int:
    """How many attempts may wait at the scheduler: those that start in ``ahead_s``."""
    return max(bounds.least, min(bounds.most, math.ceil(starts_per_s * bounds.ahead_s)))


class _Place:
    """What is still free while jobs are picked one by one."""

    def __init__(self, slots: int, at_once: int, room: Room | None) -> None:
        self._room = room
        self._reserve = slots if room is None or room.queues else 0
        self._slots = at_once if room is None else min(at_once, room.slots)
        if room is not None and not room.queues:
            self._slots = min(self._slots, slots)
        self._cores = room.cores_free if room else 0
        self._memory = room.memory_free_mb if room else 0

    def never(self, job: Waiting) -> bool:
        room = self._room
        return (
            room is not None
            and room.ready
            and (job.cores > room.cores_total or job.memory_mb > room.memory_total_mb)
        )

    def take(self, job: Waiting) -> bool:
        """Whether there is a place, which is then taken: a free one, else one in the reserve."""
        if self._slots <= 0 or (self._room is not None and not self._room.ready):
            return False
        if self._room and job.cores <= self._cores and job.memory_mb <= self._memory:
            self._cores -= job.cores
            self._memory -= job.memory_mb
        elif self._reserve > 0:
            self._reserve -= 1
        else:
            return False
        self._slots -= 1
        return True


def choose(
    lines: Iterable[Line],
    *,
    members: Mapping[UUID, Member],
    slots: int,
    room: Room | None,
    per_user: int = 0,
    at_once: int,
) -> Choice:
    """Pick what is handed over now, at most ``at_once`` attempts.

    What fits into ``room``, where the pool knows it, goes; where the scheduler keeps
    what cannot start yet, or does not know its room, up to ``slots`` more wait there.

    ``lines`` come by falling priority, one for each member who waits there; each
    gives that member's jobs, oldest first, and is read only as far as needed.
    The first job that has no place now closes the door behind it, so that a large job is not
    overtaken for ever by small ones; one that no machine could ever hold is set
    aside instead. ``per_user`` bounds a member's attempts under way (0: no bound).
    """
    if at_once <= 0:
        return Choice((), ())
    place = _Place(slots, at_once, room)
    now: list[Waiting] = []
    too_big: list[Waiting] = []
    counts = {user: member.running for user, member in members.items()}
    for _, level in itertools.groupby(lines, key=lambda line: line.priority):
        allowed = [_at_most(line, per_user, counts) for line in level]
        for job in _fair(allowed, members):
            if place.never(job):
                too_big.append(job)
            elif place.take(job):
                now.append(job)
                counts[job.user_id] = counts.get(job.user_id, 0) + 1
            else:
                return Choice(tuple(now), tuple(too_big))
    return Choice(tuple(now), tuple(too_big))


def _at_most(line: Line, per_user: int, counts: Mapping[UUID, int]) -> Line:
    """A member's line, cut to what the member may still start."""
    if not per_user:
        return line
    left = max(per_user - counts.get(line.user_id, 0), 0)
    return Line(line.priority, line.user_id, itertools.islice(line.jobs, left))


def _fair(lines: Iterable[Line], members: Mapping[UUID, Member]) -> Iterator[Waiting]:
    """Jobs of one priority in the order of fair share."""
    heap: list[tuple[float, bytes, int, Waiting, Iterator[Waiting]]] = []
    for order, line in enumerate(lines):
        jobs = iter(line.jobs)
        if (head := next(jobs, None)) is not None:
            use = members.get(line.user_id, Member()).use
            heap.append((use, head.id.bytes, order, head, jobs))
    heapq.heapify(heap)
    while heap:
        use, _, order, job, jobs = heap[0]
        yield job
        if (head := next(jobs, None)) is None:
            heapq.heappop(heap)
        else:
            more = use + job.cores * _NOMINAL_S
            heapq.heapreplace(heap, (more, head.id.bytes, order, head, jobs))
