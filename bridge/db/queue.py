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
from bridge.models.sizes import ANY_SIZE, Sizes

# Jobs of one user that are read at once: of most users who wait few are taken. The fewest
# are read of all users with one statement.
_FEWEST: Final = 2
_MOST: Final = 64
# Jobs that fit nothing: those of a level that one pass reads, and of a line at once. A line in
# which something fits, or nothing does, is read from its beginning every _AGAIN_S seconds.
_IN_VAIN: Final = 2_000
_FEWEST_IN_VAIN: Final = 16
_MOST_IN_VAIN: Final = 512
_AGAIN_S: Final = 60.0
_ABOVE_ALL: Final = 2**31 - 1  # no priority is as high


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
    )
    .order_by(jobs.c.id)
    .limit(bindparam("most"))
)


def groups_waiting(conn: Connection) -> list[UUID]:
    """Groups with a job that may start."""
    return [of_bytes(row[0]) for row in _GROUPS.all(conn)]


class Marks:
    """How far lines of a group were read in vain: of a line with very many jobs that fit
    nothing each pass reads some, and the next one goes on from there.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[bytes, int], _Mark] = {}

    def after(self, user: bytes, priority: int, sizes: Sizes, now: float) -> bytes:
        """The job up to which nothing in a line fits these sizes; empty: none is known."""
        mark = self._found.get((user, priority))
        return mark.at if mark and now < mark.until and sizes.within(mark.sizes) else b""

    def note(self, user: bytes, priority: int, sizes: Sizes, at: bytes) -> None:
        """Nothing up to the job ``at`` fits these sizes."""
        self._found[user, priority] = _Mark(at, sizes)

    def settle(self, user: bytes, priority: int, until: float) -> None:
        """Something fits behind the mark, or nothing does. What comes back to the queue may be
        older than the mark: after ``until`` the line is read from its beginning again.
        """
        mark = self._found.get((user, priority))
        if mark:
            mark.until = min(mark.until, until)


class _Mark(msgspec.Struct):
    at: bytes
    sizes: Sizes
    until: float = math.inf


def levels(
    conn: Connection,
    group_id: UUID,
    now: float,
    sizes: Callable[[], Sizes] = lambda: ANY_SIZE,
    marks: Marks | None = None,
) -> Iterator[Level]:
    """Who waits in a group, by falling priority; valid within the transaction of ``conn``.

    Jobs that fit none of ``sizes``, which is asked for each, are left out; of very many that
    do not, only some are read.
    """
    below = _ABOVE_ALL
    marks = marks or Marks()
    while found := _NEXT_PRIORITY.first(conn, group_id=group_id.bytes, below=below):
        below = found[0]
        yield Level(below, _Lines(conn, group_id, below, now, sizes, marks).read())


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
        marks: Marks,
    ) -> None:
        self._conn = conn
        self._priority = priority
        self._now = now
        self._where = {"group_id": group_id.bytes, "priority": priority, "now": now}
        self._sizes = sizes
        self._marks = marks

    def read(self) -> list[Line]:
        """Of each user who waits; of most only the heads are ever read."""
        heads = itertools.groupby(_HEADS.all(self._conn, **self._where), itemgetter(0))
        lines = [(user, list(rows)) for user, rows in heads]
        in_vain = max(_IN_VAIN // max(len(lines), 1), _FEWEST_IN_VAIN)
        return [Line(of_bytes(user), self._jobs(user, rows, in_vain)) for user, rows in lines]

    def _jobs(self, user: bytes, heads: list[Sequence[Any]], in_vain: int) -> Iterator[Waiting]:
        rows, most, sizes = heads, _FEWEST, self._sizes
        line = (user, self._priority)
        fits_none = True
        while rows:
            for _, job_id, cores, memory_mb in rows:
                if sizes().hold(cores, memory_mb):
                    self._marks.settle(*line, self._now + _AGAIN_S)
                    yield Waiting(of_bytes(job_id), of_bytes(user), *line[1:], cores, memory_mb)
                    # Where it fits all the same it was taken, unless the claim fails.
                    fits_none = fits_none and not sizes().hold(cores, memory_mb)
                else:
                    in_vain -= 1
            after = rows[-1][1]
            if in_vain <= 0 and fits_none:
                self._marks.note(*line, sizes(), after)
            if in_vain <= 0 or len(rows) < most:
                break
            if rows is heads:
                after = max(after, self._marks.after(*line, sizes(), self._now))
            most = min(in_vain, _MOST_IN_VAIN) if fits_none else min(2 * most, _MOST)
            rows = _JOBS.all(self._conn, **self._where, user_id=user, after=after, most=most)
        if len(rows) < most:
            self._marks.settle(*line, self._now + _AGAIN_S)
