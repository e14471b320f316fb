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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from bridge.connectors.base import Room
from bridge.db.queue import Level, Line, UnderWay, Waiting
from bridge.models.sizes import ANY_SIZE, Sizes
from bridge.models.usage import Share

__all__ = [
    "Chosen",
    "Level",
    "Levels",
    "Line",
    "Member",
    "Reserve",
    "Waiting",
    "ahead",
    "choose",
    "members_of",
    "reserve",
]

# What a job under way counts for beyond what it used so far: without it, the member with the
# least use would get everything at once.
_NOMINAL_S: Final = 60.0
# Jobs without a place now, before the rest of a line, and then of a pass, is left alone: each
# pass reads them anew.
_OF_A_LINE: Final = 50
_OF_A_PASS: Final = 1000


class Member(msgspec.Struct, frozen=True):
    """What a user has and had: attempts under way, and core-seconds, decayed, of these and
    of earlier ones.
    """

    running: int = 0
    use: float = 0.0


def members_of(
    under_way: Mapping[UUID, UnderWay],
    shares: Mapping[UUID, Share],
    *,
    now: float,
    half_life_s: float,
) -> dict[UUID, Member]:
    """By user; who is not in there has nothing under way and used nothing."""
    found = {user: Member(use=share.now(now, half_life_s)) for user, share in shares.items()}
    for user, has in under_way.items():
        use = found.get(user, Member()).use + has.use + has.cores * _NOMINAL_S
        found[user] = Member(has.attempts, use)
    return found


class Reserve(msgspec.Struct, frozen=True):
    """Bounds of what waits at a scheduler, and for how many seconds it shall last."""

    least: int = 8
    most: int = 64
    ahead_s: float = 5.0


def reserve(starts_per_s: float, bounds: Reserve) -> int:
    """How many attempts may wait at the scheduler: those that start in ``ahead_s``."""
    return max(bounds.least, min(bounds.most, math.ceil(starts_per_s * bounds.ahead_s)))


# Levels by falling priority, each with a line for each member who waits there; that gives the
# member's jobs, oldest first, and is read only as far as needed. Jobs are left out that fit
# none of the sizes, which are asked for anew for each.
Levels = Callable[[Callable[[], Sizes]], Iterable[Level]]


class Chosen(msgspec.Struct, frozen=True):
    """A job that is handed over now. ``avoid``: names of machines that are kept for others,
    which a scheduler that packs them tightly would fill first.
    """

    job: Waiting
    avoid: tuple[str, ...] = ()


class _Place:
    """What is still free while jobs are picked one by one."""

    def __init__(self, slots: int, at_once: int, room: Room | None) -> None:
        self._room = room
        self._reserve = slots if room is None or room.queues else 0
        self._slots = at_once if room is None else min(at_once, room.slots)
        self._ready = _ready(room)
        self._sizes = self._that_matter()

    def is_full(self) -> bool:
        """Whether nothing goes any more, whatever its size."""
        return self._slots <= 0 or (self._room is not None and not self._room.ready)

    def sizes(self) -> Sizes:
        """What fits none of these neither gets a place now nor keeps a machine."""
        return self._sizes

    def may_come(self, job: Waiting) -> bool:
        """Whether a place for it may become free on the machines that are ready."""
        return self._ready.hold(job.cores, job.memory_mb)

    def _that_matter(self) -> Sizes:
        room = self._room
        if room is None or room.complete:
            return ANY_SIZE
        # With a place in the reserve a job may wait for a machine that others wait for, too.
        return Sizes.of(
            (one.cores, one.memory_mb)
            for one in room.machines
            if one.ready and (self._reserve > 0 or one.cores_free > 0 or not one.kept)
        )

    def take(self, job: Waiting) -> Chosen | None:
        """Give it a place: a free one, else one in the reserve; None when there is none."""
        size, chosen = (job.cores, job.memory_mb), Chosen(job)
        if self._room and (left := self._room.after_start(*size)):
            chosen = Chosen(job, self._room.kept)
            self._room = left
        elif self._is_refused(job):
            pass  # by the scheduler, in its words
        elif self._reserve > 0 and self.may_come(job) and not self._overtakes(job):
            self._reserve -= 1
            self._room = self._room and self._room.after_wait(*size)
            self._sizes = self._that_matter()
        else:
            return None
        self._slots -= 1
        return chosen

    def keep(self, job: Waiting) -> None:
        """It has no place: nothing behind it takes what it waits for, here or there."""
        self._reserve = 0
        self._room = self._room and self._room.kept_for(job.cores, job.memory_mb)
        if self._room is None or not self._room.has_free:
            self._slots = 0
        self._sizes = self._that_matter()

    def _is_refused(self, job: Waiting) -> bool:
        return self._room is not None and self._room.complete and not self.may_come(job)

    def _overtakes(self, job: Waiting) -> bool:
        """Whether it could start before one that waits at the scheduler for more than it needs:
        schedulers place whatever fits.
        """
        room = self._room
        return room is not None and (
            job.cores < room.waiting_cores or job.memory_mb < room.waiting_memory_mb
        )


def _ready(room: Room | None) -> Sizes:
    """Sizes of the machines that are ready; any where no room is known."""
    if room is None:
        return ANY_SIZE
    return Sizes.of((one.cores, one.memory_mb) for one in room.machines if one.ready)


class _Tally:
    """What each member has and had, while jobs are picked."""

    def __init__(self, members: Mapping[UUID, Member], per_user: int) -> None:
        self._per_user = per_user
        self._running = Counter({user: one.running for user, one in members.items()})
        self._passed_over: Counter[tuple[UUID, int]] = Counter()
        self.use: Final = {user: one.use for user, one in members.items()}

    def bounded(self, line: Line) -> Line:
        """The line as far as its member may start jobs, and as far as it pays to look."""
        return Line(line.user_id, self._bounded(line))

    def _bounded(self, line: Line) -> Iterator[Waiting]:
        user = line.user_id
        for job in line.jobs:
            if self._per_user and self._running[user] >= self._per_user:
                return
            if self._passed_over[user, job.priority] >= _OF_A_LINE:
                return
            yield job

    def took(self, job: Waiting) -> None:
        """It goes: so much less is its member's turn."""
        self._running[job.user_id] += 1
        self.use[job.user_id] = self.use.get(job.user_id, 0.0) + job.cores * _NOMINAL_S

    def passed_over(self, job: Waiting) -> bool:
        """It has no place; whether enough was looked at for one pass."""
        self._passed_over[job.user_id, job.priority] += 1
        return self._passed_over.total() >= _OF_A_PASS


def choose(
    levels: Levels,
    *,
    members: Mapping[UUID, Member],
    slots: int,
    room: Room | None,
    per_user: int = 0,
    at_once: int,
) -> tuple[Chosen, ...]:
    """Pick what is handed over now, at most ``at_once`` attempts.

    What fits into ``room``, where the pool knows it, goes; where the scheduler keeps
    what cannot start yet, or does not know its room, up to ``slots`` more wait there.

    A job that has no place now keeps every machine that could hold it, so that a large job is
    not overtaken for ever by small ones; these go where it could never run. One that no ready
    machine could hold is passed over: a larger one may return or join. ``per_user`` bounds a
    member's attempts under way (0: no bound).
    """
    place, tally = _Place(slots, at_once, room), _Tally(members, per_user)
    now: list[Chosen] = []
    for level in () if place.is_full() else levels(place.sizes):
        for job in _fair(map(tally.bounded, level.lines), tally.use):
            if (chosen := place.take(job)) is not None:
                now.append(chosen)
                tally.took(job)
            else:
                if place.may_come(job):
                    place.keep(job)
                if tally.passed_over(job):
                    return tuple(now)
            if place.is_full():
                return tuple(now)
    return tuple(now)


def ahead(
    job: Waiting,
    levels: Levels,
    *,
    members: Mapping[UUID, Member],
    room: Room | None = None,
    per_user: int = 0,
    at_most: int,
) -> dict[UUID, int]:
    """By user: the jobs that would go before ``job`` if all went now, counted up to ``at_most``.

    Arguments as for ``choose``, but of the job's owner all elder ones count. What no machine of
    ``room`` could hold is not before anything, where some machine is ready.
    ``job`` need not be in a line, as one that is held is not.
    """
    counts: Counter[UUID] = Counter()
    tally = _Tally(members, per_user)
    ready = _ready(room if room and room.ready else None)
    for level in _down_to(job.priority, levels(lambda: ANY_SIZE)):
        here = [
            line if line.user_id == job.user_id else tally.bounded(line) for line in level.lines
        ]
        if level.priority == job.priority:
            here = _up_to(job, here)
        for one in _fair(here, tally.use):
            if one.id == job.id or counts.total() >= at_most:
                return counts
            if ready.hold(one.cores, one.memory_mb):
                counts[one.user_id] += 1
                tally.took(one)
            elif tally.passed_over(one):
                return counts
    return counts


def _down_to(priority: int, levels: Iterable[Level]) -> Iterator[Level]:
    """The levels from ``priority`` on, which is there in any case."""
    for level in levels:
        if level.priority <= priority:
            yield level if level.priority == priority else Level(priority, [])
            return
        yield level
    yield Level(priority, [])


def _up_to(job: Waiting, lines: Iterable[Line]) -> list[Line]:
    """Lines of one priority, that of the job's owner ending with the job."""
    older: Iterable[Waiting] = ()
    others = []
    for line in lines:
        if line.user_id == job.user_id:
            older = itertools.takewhile(lambda one: one.id < job.id, line.jobs)
        else:
            others.append(line)
    return [*others, Line(job.user_id, itertools.chain(older, [job]))]


def _fair(lines: Iterable[Line], use: Mapping[UUID, float]) -> Iterator[Waiting]:
    """Jobs of one priority in the order of fair share, by the ``use`` that each member has
    when it is asked for the next one.
    """
    heap: list[tuple[float, bytes, int, Waiting, Iterator[Waiting]]] = []
    for order, line in enumerate(lines):
        jobs = iter(line.jobs)
        if (head := next(jobs, None)) is not None:
            heap.append((use.get(line.user_id, 0.0), head.id.bytes, order, head, jobs))
    heapq.heapify(heap)
    while heap:
        _, _, order, job, jobs = heap[0]
        yield job
        if (head := next(jobs, None)) is None:
            heapq.heappop(heap)
        else:
            more = use.get(job.user_id, 0.0)
            heapq.heapreplace(heap, (more, head.id.bytes, order, head, jobs))
