"""Sets of jobs: seen and changed as one, in statements that each change a bounded chunk.

A change concerns the jobs of a set in one state, and says how far it came: call it again
from there. So a hundred thousand jobs never hold the database for long, and each is
looked at once, whatever somebody else does to it meanwhile.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    exists,
    func,
    literal_column,
    select,
    union_all,
    update,
)

from bridge.db import jobs as jobs_db
from bridge.db.jobs import AGAIN
from bridge.db.tables import attempts, in_a_set, is_live, jobs, users
from bridge.models.attempt import Cause
from bridge.models.ids import made_at
from bridge.models.job import LIVE, Job, JobState
from bridge.models.job_set import SetSummary

BEGIN: Final = b""  # before any id
_LIVE: Final = tuple(sorted(state.value for state in LIVE))
_AFTER_ALL: Final = b"\xff" * 17
_HAS_DATA: Final = jobs.c.prune_requested_at.is_(None)
# PostgreSQL knows no smallest of bytes; in this order texts compare as their bytes do.
_ID: Final[dict[str, ColumnElement[str]]] = {
    "sqlite": func.hex(jobs.c.id),
    "postgresql": func.encode(jobs.c.id, literal_column("'hex'")).collate("C"),
}


class JobSet(msgspec.Struct, frozen=True):
    """Which jobs: a name within a group, of all its users or of one."""

    group_id: UUID
    name: str
    user_id: UUID | None = None


class Chunk(msgspec.Struct, frozen=True):
    """How many jobs were changed; go on after the id ``last``, None when that was all."""

    changed: int
    last: bytes | None


def summaries(
    conn: Connection,
    group_id: UUID,
    user_id: UUID | None = None,
    *,
    name: str | None = None,
    after: str = "",
    limit: int | None = None,
) -> list[SetSummary]:
    """The sets of a group, or those in which one user has jobs, by name: the one of this
    name, or the first ``limit`` of those that come ``after`` one.
    """
    mine = [jobs.c.group_id == group_id.bytes]
    if user_id is not None:
        mine.append(jobs.c.user_id == user_id.bytes)
    names = select(jobs.c.set_name).where(*mine, in_a_set, jobs.c.set_name > after).distinct()
    page = names.order_by(jobs.c.set_name).limit(limit)
    # That it is in a set follows; said again, SQLite takes it for a range and reads all of it.
    chosen = jobs.c.set_name.in_(page) if name is None else jobs.c.set_name == name
    # Ids carry the time of submission: the index on sets alone answers this.
    key = _ID[conn.dialect.name]
    query = (
        select(jobs.c.set_name, jobs.c.state, func.count(), func.min(key), func.max(key))
        .where(*mine, chosen)
        .group_by(jobs.c.set_name, jobs.c.state)
        .order_by(jobs.c.set_name)
    )
    found: dict[str, list[Any]] = {}
    for set_name, *counted in conn.execute(query):
        found.setdefault(set_name, []).append(counted)
    return [
        SetSummary(
            name=set_name,
            jobs={JobState(state): count for state, count, _, _ in counted},
            first_at=made_at(UUID(hex=min(first for _, _, first, _ in counted))),
            last_at=made_at(UUID(hex=max(last for _, _, _, last in counted))),
        )
        for set_name, counted in found.items()
    ]


def is_there(conn: Connection, which: JobSet) -> bool:
    """Whether a set has any job that is not archived."""
    return _any(conn, _in(which))


def any_to_cancel(conn: Connection, which: JobSet) -> bool:
    """Whether a live job of a set was not asked to stop."""
    live = and_(jobs.c.state.in_(_LIVE), jobs.c.cancel_requested_at.is_(None))
    return _any(conn, and_(_in(which), live))


def first_waiting(conn: Connection, which: JobSet) -> Job | None:
    """The waiting job of a set that has the most priority, then the oldest; one that is
    held only when all are, and one that was handed over only when no other waits.
    """
    for state in (JobState.RECEIVED, JobState.SUBMITTED):
        query = (
            select(jobs.c.id)
            .where(_in(which), jobs.c.state == state.value)
            .order_by(jobs.c.hold, jobs.c.priority.desc(), jobs.c.id)
            .limit(1)
        )
        if found := conn.execute(query).scalar():
            return jobs_db.get(conn, UUID(bytes=found))
    return None


def with_runs(conn: Connection, which: JobSet, limit: int, before: UUID | None) -> list[UUID]:
    """Jobs of a set that had attempts, newest first; ``before`` as in ``jobs.find``."""
    begun = (_in(which), jobs.c.attempt > 0, jobs.c.id < (before.bytes if before else _AFTER_ALL))
    # One range of the index for each state, as in every list.
    parts = [
        select(jobs.c.id)
        .where(*begun, jobs.c.state == state.value)
        .order_by(jobs.c.id.desc())
        .limit(limit)
        .subquery()
        for state in JobState
    ]
    every = union_all(*(select(part.c.id) for part in parts)).subquery()
    page = select(every.c.id).order_by(every.c.id.desc()).limit(limit)
    return [UUID(bytes=job_id) for job_id in conn.execute(page).scalars()]


def failed_by_user(conn: Connection, which: JobSet) -> dict[UUID, tuple[str, int]]:
    """Whose jobs ``retry_failed`` would put back: by user id the name, and how many."""
    # The offset keeps finding and counting apart: at once, SQLite prefers the index that has
    # the users in order, and reads every job of the group.
    failed = (
        select(jobs.c.user_id)
        .where(_in(which), jobs.c.state == JobState.FAILED.value, _HAS_DATA)
        .offset(0)
        .subquery()
    )
    users_jobs = (
        select(failed.c.user_id, func.count().label("count")).group_by(failed.c.user_id).subquery()
    )
    query = select(users_jobs.c.user_id, users.c.name, users_jobs.c.count).join_from(
        users_jobs, users, users_jobs.c.user_id == users.c.id
    )
    return {UUID(bytes=row[0]): (row[1], row[2]) for row in conn.execute(query)}


def cancel_waiting(
    conn: Connection, which: JobSet, *, now: float, after: bytes, limit: int
) -> Chunk:
    """Jobs that wait are canceled at once."""
    return _change(
        conn,
        and_(_in(which), jobs.c.state == JobState.RECEIVED.value),
        after,
        limit,
        state=JobState.CANCELED.value,
        cancel_requested_at=now,
        ended_at=now,
        cause=Cause.CANCELED.value,
        reason=None,
    )


def cancel_handed_over(
    conn: Connection, which: JobSet, *, state: JobState, now: float, after: bytes, limit: int
) -> Chunk:
    """Jobs that were handed over are asked to stop, and so are their attempts."""
    theirs = and_(_in(which), jobs.c.state == state.value)
    asked = and_(theirs, jobs.c.cancel_requested_at.is_(None))
    chunk = _change(conn, asked, after, limit, cancel_requested_at=now)
    mine = select(jobs.c.id).where(
        theirs, jobs.c.cancel_requested_at == now, _between(after, chunk.last)
    )
    conn.execute(
        update(attempts)
        .where(attempts.c.job_id.in_(mine), is_live, attempts.c.stop_cause.is_(None))
        .values(stop_cause=Cause.CANCELED.value, stop_requested_at=now)
    )
    return chunk


def set_hold(conn: Connection, which: JobSet, *, hold: bool, after: bytes, limit: int) -> Chunk:
    """Jobs that wait are held, or released."""
    other = ~jobs.c.hold if hold else jobs.c.hold
    waits = and_(_in(which), jobs.c.state == JobState.RECEIVED.value, other)
    return _change(conn, waits, after, limit, hold=hold)


def retry_failed(conn: Connection, which: JobSet, *, after: bytes, limit: int) -> Chunk:
    """Failed jobs wait again, as if new, unless their data was given up."""
    failed = and_(_in(which), jobs.c.state == JobState.FAILED.value, _HAS_DATA)
    return _change(conn, failed, after, limit, **AGAIN)


def prune(
    conn: Connection, which: JobSet, *, state: JobState, now: float, after: bytes, limit: int
) -> Chunk:
    """The data of jobs that ended so is given up; deleting it is the client's."""
    ended = and_(_in(which), jobs.c.state == state.value, _HAS_DATA)
    return _change(conn, ended, after, limit, prune_requested_at=now)


def _in(which: JobSet) -> ColumnElement[bool]:
    mine = and_(jobs.c.group_id == which.group_id.bytes, in_a_set, jobs.c.set_name == which.name)
    return mine if which.user_id is None else and_(mine, jobs.c.user_id == which.user_id.bytes)


def _between(after: bytes, last: bytes | None) -> ColumnElement[bool]:
    behind = jobs.c.id > after
    return behind if last is None else and_(behind, jobs.c.id <= last)


def _any(conn: Connection, condition: ColumnElement[bool]) -> bool:
    return bool(conn.execute(select(exists().where(condition))).scalar_one())


def _change(
    conn: Connection, condition: ColumnElement[bool], after: bytes, limit: int, **values: Any
) -> Chunk:
    # Where the chunk ends is chosen, not counted: what somebody else changes meanwhile
    # is left out of it, and would make it look like the last one.
    chosen = select(jobs.c.id).where(condition, jobs.c.id > after).order_by(jobs.c.id)
    last = conn.execute(chosen.offset(limit - 1).limit(1)).scalar()
    statement = update(jobs).where(condition, _between(after, last)).values(**values)
    return Chunk(conn.execute(statement).rowcount, last)
