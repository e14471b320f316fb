"""The deep queue: who waits, read only as far as somebody asks.

With a million jobs waiting, the next hundred are found by a few dozen looks
into one index: the priorities, the users who wait at each, and the oldest jobs
of each user.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    BindParameter,
    Connection,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    union_all,
)
from sqlalchemy.sql import Select

from bridge.db.statements import Prepared
from bridge.db.tables import groups, is_under_way, is_waiting, jobs
from bridge.models.ids import of_bytes
from bridge.models.job import JobState

# Jobs of one user that are read at once: of most users who wait few are taken. The fewest
# are read of all users with one statement.
_FEWEST: Final = 2
_MOST: Final = 64
_ABOVE_ALL: Final = 2**31 - 1  # no priority is as high


# Cores and memory (MiB) of machines.
Sizes = Sequence[tuple[int, int]]
EVERY_SIZE: Final[Sizes] = ((2**31 - 1, 2**31 - 1),)
_SIZES: Final = 4  # that one statement tells apart


class Waiting(msgspec.Struct, frozen=True):
    """What the queue needs to know of a job that waits. Memory in MiB."""

    id: UUID
    user_id: UUID
    priority: int
    cores: int
    memory_mb: int


class Line(msgspec.Struct, frozen=True):
    """One user's jobs of one priority, oldest first; read as they are taken."""

    user_id: UUID
    jobs: Iterator[Waiting]


class Level(msgspec.Struct, frozen=True):
    """All who wait with one priority."""

    priority: int
    lines: list[Line]


class UnderWay(msgspec.Struct, frozen=True):
    """A user's attempts that have not ended, and those of them that have not started; their
    cores, and their use so far, decayed.
    """

    attempts: int
    pending: int
    cores: int
    use: float


def _groups_waiting() -> Prepared:
    # A scalar subquery with a limit is one look into an index for each group, where EXISTS may
    # be planned as a join over every waiting job; the order makes it the index without held jobs.
    one = (
        select(jobs.c.priority)
        .where(jobs.c.group_id == groups.c.id, is_waiting)
        .order_by(jobs.c.priority.desc())
        .limit(1)
    )
    waits = one.scalar_subquery().is_not(None)
    return Prepared(select(groups.c.id).where(waits).order_by(groups.c.id))


def _under_way() -> Prepared:
    now: BindParameter[float] = bindparam("now")
    constant: BindParameter[float] = bindparam("time_constant_s")
    started = jobs.c.started_at
    # A node's clock may be ahead of ours.
    age = case((started < now, now - started), else_=0.0)
    pending = case((jobs.c.state == JobState.SUBMITTED.value, 1), else_=0)
    # As ``models.usage.left_of_run``; PostgreSQL calls a result too near to 0 an error.
    exponent = case((age < 500 * constant, age / constant), else_=500.0)
    use = constant * func.sum(jobs.c.cores * (1 - func.exp(-exponent)))
    sums = (func.sum(pending), func.sum(jobs.c.cores), use)
    return Prepared(
        select(jobs.c.user_id, func.count(), *sums)
        .where(jobs.c.group_id == bindparam("group_id"), is_under_way)
        .group_by(jobs.c.user_id)
    )


def _pending() -> Prepared:
    # Of each group a range of an index, where a join could be planned the other way round.
    mine = and_(jobs.c.group_id == groups.c.id, jobs.c.state == JobState.SUBMITTED.value)
    count = select(func.count()).where(mine).scalar_subquery()
    total = func.coalesce(func.sum(count), 0)
    return Prepared(select(total).where(groups.c.connector == bindparam("connector")))


_WAITING: Final = and_(jobs.c.group_id == bindparam("group_id"), is_waiting)
_OF_PRIORITY: Final = and_(_WAITING, jobs.c.priority == bindparam("priority"))
_IN_TIME: Final = or_(jobs.c.not_before.is_(None), jobs.c.not_before <= bindparam("now"))


_CORES: Final = [f"cores_{at}" for at in range(_SIZES)]
_MEMORY: Final = [f"memory_mb_{at}" for at in range(_SIZES)]
_FITS: Final = or_(
    *(
        and_(jobs.c.cores <= bindparam(cores), jobs.c.memory_mb <= bindparam(memory_mb))
        for cores, memory_mb in zip(_CORES, _MEMORY, strict=True)
    )
)


def _heads() -> Prepared:
    """The oldest jobs of each user: a look into the index for each user, however many jobs
    they have, and one statement for all of them.
    """

    def lowest(query: Select[tuple[bytes]]) -> Select[tuple[bytes]]:
        return query.where(_OF_PRIORITY).order_by(jobs.c.user_id).limit(1)

    first = lowest(select(jobs.c.user_id)).subquery()
    found = select(first.c.user_id).cte("waiting_users", recursive=True)
    following = lowest(select(jobs.c.user_id).where(jobs.c.user_id > found.c.user_id))
    found = found.union_all(
        select(following.correlate(found).scalar_subquery()).where(found.c.user_id.is_not(None))
    )
    oldest = (
        select(jobs.c.id)
        .where(_OF_PRIORITY, jobs.c.user_id == found.c.user_id, _IN_TIME)
        .order_by(jobs.c.id)
        .limit(1)
        .correlate(found)
    )
    # One by one: PostgreSQL would evaluate IN (SELECT ... LIMIT 2) for every job there is.
    each = [select(oldest.offset(at).label("id")).select_from(found) for at in range(_FEWEST)]
    ids = union_all(*each).subquery()
    head = jobs.alias("head")
    return Prepared(
        select(head.c.user_id, head.c.id, head.c.cores, head.c.memory_mb)
        .join_from(ids, head, head.c.id == ids.c.id)
        .order_by(head.c.user_id, head.c.id)
    )


_GROUPS: Final = _groups_waiting()
_UNDER_WAY: Final = _under_way()
_PENDING: Final = _pending()
_HEADS: Final = _heads()
_NEXT_PRIORITY: Final = Prepared(
    select(jobs.c.priority)
    .where(_WAITING, jobs.c.priority < bindparam("below"))
    .order_by(jobs.c.priority.desc())
    .limit(1)
)
_JOBS: Final = Prepared(
    select(jobs.c.user_id, jobs.c.id, jobs.c.cores, jobs.c.memory_mb)
    .where(
        _OF_PRIORITY,
        jobs.c.user_id == bindparam("user_id"),
        jobs.c.id > bindparam("after"),
        _IN_TIME,
        _FITS,
    )
    .order_by(jobs.c.id)
    .limit(bindparam("most"))
)


def groups_waiting(conn: Connection) -> list[UUID]:
    """Groups with a job that may start."""
    return [of_bytes(row[0]) for row in _GROUPS.all(conn)]


def levels(
    conn: Connection, group_id: UUID, now: float, sizes: Callable[[], Sizes]
) -> Iterator[Level]:
    """Who waits in a group, by falling priority; valid within the transaction of ``conn``.

    Jobs that fit none of ``sizes``, which is asked whenever more are read, are left out as far
    as they were not read before: there may be many.
    """
    below = _ABOVE_ALL
    while found := _NEXT_PRIORITY.first(conn, group_id=group_id.bytes, below=below):
        below = found[0]
        yield Level(below, _Lines(conn, group_id, below, now, sizes).read())


def under_way(
    conn: Connection, group_id: UUID, now: float, half_life_s: float
) -> dict[UUID, UnderWay]:
    """By user of a group: what was handed over and has not ended. Without self-tests."""
    constant = half_life_s / math.log(2)
    rows = _UNDER_WAY.all(conn, group_id=group_id.bytes, now=now, time_constant_s=constant)
    return {of_bytes(user_id): UnderWay(*numbers) for user_id, *numbers in rows}


def pending(conn: Connection, connector: str) -> int:
    """Attempts of all groups of a scheduler that were handed over and have not started."""
    row = _PENDING.first(conn, connector=connector)
    return int(row[0]) if row else 0


class _Lines:
    """The lines of one priority of a group."""

    def __init__(
        self,
        conn: Connection,
        group_id: UUID,
        priority: int,
        now: float,
        sizes: Callable[[], Sizes],
    ) -> None:
        self._conn = conn
        self._priority = priority
        self._where = {"group_id": group_id.bytes, "priority": priority, "now": now}
        self._sizes = sizes

    def read(self) -> list[Line]:
        """Of each user who waits; of most only the heads are ever read."""
        heads = itertools.groupby(_HEADS.all(self._conn, **self._where), itemgetter(0))
        lines = [(user, list(rows)) for user, rows in heads]
        return [Line(of_bytes(user), self._jobs(user, rows)) for user, rows in lines]

    def _jobs(self, user: bytes, heads: list[Sequence[Any]]) -> Iterator[Waiting]:
        user_id, rows, most = of_bytes(user), heads, _FEWEST
        while True:
            for _, job_id, cores, memory_mb in rows:
                if rows is not heads or fits(self._sizes(), cores, memory_mb):
                    yield Waiting(of_bytes(job_id), user_id, self._priority, cores, memory_mb)
            if len(rows) < most:
                return
            most = min(2 * most, _MOST)
            bounds = _bounds(self._sizes())
            more = {"user_id": user, "after": rows[-1][1], "most": most}
            rows = _JOBS.all(self._conn, **self._where, **bounds, **more)


def fits(sizes: Sizes, cores: int, memory_mb: int) -> bool:
    """Whether so much fits one of them."""
    return any(cores <= most_cores and memory_mb <= most_mb for most_cores, most_mb in sizes)


def _bounds(sizes: Sizes) -> dict[str, int]:
    """What ``_FITS`` asks for. Of more sizes than it tells apart, the last become one that is
    as large as any of them in both.
    """
    told, rest = sizes[: _SIZES - 1], sizes[_SIZES - 1 :]
    last = [tuple(map(max, zip(*rest, strict=True)))] if rest else []
    bounds = dict.fromkeys((*_CORES, *_MEMORY), -1)
    for at, (cores, memory_mb) in enumerate([*told, *last]):
        bounds |= {_CORES[at]: cores, _MEMORY[at]: memory_mb}
    return bounds
