"""The deep queue: who waits, read only as far as somebody asks.

With a million jobs waiting, the next hundred are found by a few dozen looks
into one index: the priorities, the users who wait at each, and the oldest jobs
of each user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, and_, func, or_, select

from bridge.db.tables import attempts, groups, is_live, is_waiting, jobs, users

_STEP: Final = 16  # jobs of one user that are read at once


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


def groups_waiting(conn: Connection) -> list[UUID]:
    """Groups with a job that may start."""
    # A scalar subquery with a limit is one look into an index for each group, where EXISTS may
    # be planned as a join over every waiting job; the order makes it the index without held jobs.
    one = (
        select(jobs.c.priority)
        .where(jobs.c.group_id == groups.c.id, is_waiting)
        .order_by(jobs.c.priority.desc())
        .limit(1)
    )
    query = select(groups.c.id).where(one.scalar_subquery().is_not(None)).order_by(groups.c.id)
    return [UUID(bytes=group_id) for group_id in conn.execute(query).scalars()]


def lines(conn: Connection, group_id: UUID, now: float) -> Iterator[Line]:
    """The lines of a group by falling priority; valid within the transaction of ``conn``."""
    priority = _next_priority(conn, group_id, None)
    while priority is not None:
        for user_id in _users(conn, group_id, priority):
            yield Line(priority, user_id, _jobs(conn, group_id, priority, user_id, now))
        priority = _next_priority(conn, group_id, priority)


def under_way(conn: Connection, group_id: UUID) -> dict[UUID, UnderWay]:
    """By user of a group: what was handed over and has not ended."""
    started = attempts.c.started_at.is_not(None)
    query = (
        select(jobs.c.user_id, func.count(), func.count().filter(~started))
        .select_from(attempts.join(jobs, attempts.c.job_id == jobs.c.id))
        .where(is_live, jobs.c.group_id == group_id.bytes)
        .group_by(jobs.c.user_id)
    )
    return {UUID(bytes=row[0]): UnderWay(row[1], row[2]) for row in conn.execute(query)}


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


def _next_priority(conn: Connection, group_id: UUID, below: int | None) -> int | None:
    query = select(jobs.c.priority).where(jobs.c.group_id == group_id.bytes, is_waiting)
    if below is not None:
        query = query.where(jobs.c.priority < below)
    return conn.execute(query.order_by(jobs.c.priority.desc()).limit(1)).scalar_one_or_none()


def _users(conn: Connection, group_id: UUID, priority: int) -> Iterator[UUID]:
    """One look into the index for each user, however many jobs they have."""
    query = select(jobs.c.user_id).where(
        jobs.c.group_id == group_id.bytes, is_waiting, jobs.c.priority == priority
    )
    first = query.order_by(jobs.c.user_id).limit(1).subquery()
    users = select(first.c.user_id).cte("waiting_users", recursive=True)
    following = query.where(jobs.c.user_id > users.c.user_id).order_by(jobs.c.user_id).limit(1)
    users = users.union_all(
        select(following.correlate(users).scalar_subquery()).where(users.c.user_id.is_not(None))
    )
    found = select(users.c.user_id).where(users.c.user_id.is_not(None))
    return (UUID(bytes=user_id) for user_id in conn.execute(found).scalars().all())


def _jobs(
    conn: Connection, group_id: UUID, priority: int, user_id: UUID, now: float
) -> Iterator[Waiting]:
    query = (
        select(jobs.c.id, jobs.c.user_id, jobs.c.priority, jobs.c.cores, jobs.c.memory_mb)
        .where(
            jobs.c.group_id == group_id.bytes,
            is_waiting,
            jobs.c.priority == priority,
            jobs.c.user_id == user_id.bytes,
            or_(jobs.c.not_before.is_(None), jobs.c.not_before <= now),
        )
        .order_by(jobs.c.id)
        .limit(_STEP)
    )
    after: bytes | None = None
    while True:
        page = query if after is None else query.where(jobs.c.id > after)
        rows = conn.execute(page).all()
        for row in rows:
            yield Waiting(UUID(bytes=row[0]), UUID(bytes=row[1]), *row[2:])
        if len(rows) < _STEP:
            return
        after = rows[-1][0]
