"""The deep queue: who waits, read only as far as somebody asks.

With a million jobs waiting, the next hundred are found by a few dozen looks
into one index: the priorities, the users who wait at each, and the oldest jobs
of each user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, and_, bindparam, func, or_, select
from sqlalchemy.sql import Select

from bridge.db.identity import is_member
from bridge.db.statements import Prepared
from bridge.db.tables import groups, is_waiting, jobs, users
from bridge.models.job import JobState

# Jobs of one user that are read at once: of most users who wait few are taken.
_FEWEST: Final = 2
_MOST: Final = 64
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

    priority: int
    user_id: UUID
    jobs: Iterator[Waiting]


class UnderWay(msgspec.Struct, frozen=True):
    """A user's attempts that have not ended, and those of them that have not started."""

    attempts: int
    pending: int


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


def _handed_over() -> Prepared:
    def count(state: JobState) -> Any:
        return (
            select(func.count())
            .where(
                jobs.c.group_id == users.c.group_id,
                jobs.c.user_id == users.c.id,
                jobs.c.state == state.value,
            )
            .scalar_subquery()
        )

    # Two ranges of an index for each user. From the attempts it would be a row of both
    # tables for each of them, or, as some planners see it, every job of the group.
    counts = (count(JobState.SUBMITTED), count(JobState.RUNNING))
    mine = users.c.group_id == bindparam("group_id")
    return Prepared(select(users.c.id, *counts).where(mine, is_member))


_WAITING: Final = and_(jobs.c.group_id == bindparam("group_id"), is_waiting)
_OF_PRIORITY: Final = and_(_WAITING, jobs.c.priority == bindparam("priority"))


def _users_waiting() -> Prepared:
    """One look into the index for each user, however many jobs they have."""

    def lowest(query: Select[tuple[bytes]]) -> Select[tuple[bytes]]:
        return query.where(_OF_PRIORITY).order_by(jobs.c.user_id).limit(1)

    first = lowest(select(jobs.c.user_id)).subquery()
    found = select(first.c.user_id).cte("waiting_users", recursive=True)
    following = lowest(select(jobs.c.user_id).where(jobs.c.user_id > found.c.user_id))
    found = found.union_all(
        select(following.correlate(found).scalar_subquery()).where(found.c.user_id.is_not(None))
    )
    return Prepared(select(found.c.user_id).where(found.c.user_id.is_not(None)))


_GROUPS: Final = _groups_waiting()
_HANDED_OVER: Final = _handed_over()
_USERS: Final = _users_waiting()
_NEXT_PRIORITY: Final = Prepared(
    select(jobs.c.priority)
    .where(_WAITING, jobs.c.priority < bindparam("below"))
    .order_by(jobs.c.priority.desc())
    .limit(1)
)
_JOBS: Final = Prepared(
    select(jobs.c.id, jobs.c.cores, jobs.c.memory_mb)
    .where(
        _OF_PRIORITY,
        jobs.c.user_id == bindparam("user_id"),
        jobs.c.id > bindparam("after"),
        or_(jobs.c.not_before.is_(None), jobs.c.not_before <= bindparam("now")),
    )
    .order_by(jobs.c.id)
    .limit(bindparam("most"))
)


def groups_waiting(conn: Connection) -> list[UUID]:
    """Groups with a job that may start."""
    return [UUID(bytes=row[0]) for row in _GROUPS.all(conn)]


def lines(conn: Connection, group_id: UUID, now: float) -> Iterator[Line]:
    """The lines of a group by falling priority; valid within the transaction of ``conn``."""
    below = _ABOVE_ALL
    while found := _NEXT_PRIORITY.first(conn, group_id=group_id.bytes, below=below):
        below = found[0]
        for row in _USERS.all(conn, group_id=group_id.bytes, priority=below):
            user_id = UUID(bytes=row[0])
            yield Line(below, user_id, _jobs(conn, group_id, below, user_id, now))


def under_way(conn: Connection, group_id: UUID) -> dict[UUID, UnderWay]:
    """By user of a group: what was handed over and has not ended. Without self-tests."""
    rows = _HANDED_OVER.all(conn, group_id=group_id.bytes)
    return {
        UUID(bytes=user_id): UnderWay(pending + started, pending)
        for user_id, pending, started in rows
        if pending or started
    }


def ahead(
    conn: Connection, group_id: UUID, *, priority: int, job_id: UUID, at_most: int
) -> dict[str, int]:
    """By user: waiting jobs of the group with a higher priority, or the same and older.

    Counts ``at_most`` jobs of each kind, those of the higher priorities first.
    """
    mine = and_(jobs.c.group_id == group_id.bytes, is_waiting)
    higher = select(jobs.c.user_id).where(mine, jobs.c.priority > priority).limit(at_most)
    older = (
        select(jobs.c.user_id)
        .where(mine, jobs.c.priority == priority, jobs.c.id < job_id.bytes)
        .limit(at_most)
    )
    counts: Counter[str] = Counter()
    for part in (higher.subquery(), older.subquery()):
        query = (
            select(users.c.name, func.count())
            .select_from(part.join(users, users.c.id == part.c.user_id))
            .group_by(users.c.name)
        )
        for name, count in conn.execute(query):
            counts[name] += count
    return dict(counts)


def _jobs(
    conn: Connection, group_id: UUID, priority: int, user_id: UUID, now: float
) -> Iterator[Waiting]:
    most, after = _FEWEST, b""
    while True:
        rows = _JOBS.all(
            conn,
            group_id=group_id.bytes,
            priority=priority,
            user_id=user_id.bytes,
            after=after,
            now=now,
            most=most,
        )
        for row in rows:
            yield Waiting(UUID(bytes=row[0]), user_id, priority, row[1], row[2])
        if len(rows) < most:
            return
        after = rows[-1][0]
        most = min(2 * most, _MOST)
