"""Jobs: look up, list, and change by compare-and-set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    bindparam,
    func,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.sql import Select, Update

from bridge.db import archive
from bridge.db.shapes import Shape
from bridge.db.statements import OnEach, Prepared, among, listed
from bridge.db.tables import jobs as table
from bridge.db.tables import jobs_archive, users
from bridge.models.job import FINAL, MOVES, Job, JobState


def _shape(of: FromClause) -> Shape[Job]:
    """Of ``jobs``, or of its archive."""
    columns: dict[str, ColumnElement[Any]] = {
        name: of.c[name] for name in Job.__struct_fields__ if name in of.c
    }
    return Shape(
        Job,
        columns
        | {
            "user": users.c.name,
            "set": of.c.set_name,
            "labels": type_coerce(func.coalesce(of.c.labels, literal_column("'{}'")), JSON),
            "attempts_before": func.coalesce(of.c.attempts_before, literal_column("0")),
        },
    )


_JOB: Final = _shape(table)
_ARCHIVED: Final = _shape(jobs_archive)
_JOBS: Final = select(*_JOB.columns).join_from(table, users, table.c.user_id == users.c.id)
_BY_ID: Final = Prepared(_JOBS.where(table.c.id == bindparam("id")))
_IN_ARCHIVE: Final = Prepared(
    select(*_ARCHIVED.columns)
    .join_from(jobs_archive, users, jobs_archive.c.user_id == users.c.id)
    .where(jobs_archive.c.id == bindparam("id"))
)
_AFTER_ALL: Final = b"\xff" * 17  # no id is as high
_AT_ONCE: Final = 64  # jobs that one statement looks up
_STILL_WAIT: Final = Prepared(
    _JOBS.where(
        among(table.c.id, _AT_ONCE),
        table.c.state == JobState.RECEIVED.value,
        ~table.c.hold,
        table.c.cancel_requested_at.is_(None),
        # Whoever holds one, a process that is paused perhaps, keeps nobody else's waiting.
    ).with_for_update(of=table, skip_locked=True)
)
# With constants: to bind eight values by their names takes longer than to change the row.
_SUBMIT: Final = OnEach(
    update(table).values(
        state=literal_column(f"'{JobState.SUBMITTED.value}'"),
        attempt=table.c.attempt + literal_column("1"),
        phase=null(),
        reason=null(),
        started_at=null(),
        exit_code=null(),
        cause=null(),
        node=null(),
    ),
    table.c.id,
    _AT_ONCE,
)
_CHANGEABLE: Final = frozenset(
    {
        "state",
        "hold",
        "priority",
        "phase",
        "reason",
        "attempt",
        "retries",
        "not_before",
        "memory_mb",
        "started_at",
        "ended_at",
        "exit_code",
        "cause",
        "node",
        "cancel_requested_at",
        "prune_requested_at",
        "pruned_at",
    }
)


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list. ``user_id`` and ``user`` (a name) both have to fit."""

    group_id: UUID
    user_id: UUID | None = None
    user: str | None = None
    state: JobState | None = None
    set: str | None = None


def get(conn: Connection, job_id: UUID, group_id: UUID | None = None) -> Job | None:
    """One job, also an archived one; None when unknown or, if a group is given, not of it."""
    # The group is compared here: as a condition it would tempt a planner without
    # statistics to read the whole group.
    row = (
        _BY_ID.first(conn, id=job_id.bytes)
        or _IN_ARCHIVE.first(conn, id=job_id.bytes)
        # It may have come back from there between the two.
        or _BY_ID.first(conn, id=job_id.bytes)
    )
    job = None if row is None else _JOB.make(row)
    return job if job is None or group_id in (None, job.group_id) else None


def lock(conn: Connection, job_id: UUID) -> Job | None:
    """One job, which nobody else changes until this transaction ends; None when unknown.

    SQLite needs no lock: it has a single writer.
    """
    query = _JOBS.where(table.c.id == job_id.bytes).with_for_update(of=table)
    row = conn.execute(query).first()
    return None if row is None else _JOB.make(row)


def get_many(conn: Connection, job_ids: Iterable[UUID]) -> list[Job]:
    """Those of the jobs that are stored, in no order."""
    query = _JOBS.where(table.c.id.in_([job_id.bytes for job_id in job_ids]))
    return [_JOB.make(row) for row in conn.execute(query)]


def find(conn: Connection, wanted: JobFilter, limit: int, before: UUID | None = None) -> list[Job]:
    """Newest first; ``before`` is the last id of the page before. Self-tests are left out."""
    found: list[Job] = []
    while True:
        missing = limit - len(found)
        page = _page(conn, wanted, missing, before)
        # They are few; a condition on the index would slow every list down.
        found += (job for job in page if job.pinned_to is None)
        if len(found) == limit or len(page) < missing:
            return found
        before = page[-1].id


def _page(conn: Connection, wanted: JobFilter, limit: int, before: UUID | None) -> list[Job]:
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
    rows = _listing(frozenset(given)).all(
        conn,
        **{name: _plain(value) for name, value in given.items()},
        before=before.bytes if before else _AFTER_ALL,
        most=limit,
    )
    return [_JOB.make(row) for row in rows]


@cache
def _listing(given: frozenset[str]) -> Prepared:
    """Lists jobs, newest first, by the fields of JobFilter that are given."""
    chosen: Any = bindparam("state")
    states = [chosen] if "state" in given else [state.value for state in JobState]
    # One range of an index for each state; the newest of them all are the page.
    parts = [_newest(given, state).subquery() for state in states]
    every = union_all(*(select(part.c.id) for part in parts)).subquery()
    page = select(every.c.id).order_by(every.c.id.desc()).limit(bindparam("most"))
    return Prepared(_JOBS.where(table.c.id.in_(page)).order_by(table.c.id.desc()))


def _newest(given: frozenset[str], state: Any) -> Select[tuple[bytes]]:
    query = select(table.c.id).where(
        table.c.group_id == bindparam("group_id"),
        table.c.state == state,
        table.c.id < bindparam("before"),
    )
    if "user_id" in given:
        query = query.where(table.c.user_id == bindparam("user_id"))
    if "user" in given:
        named = select(users.c.id).where(
            users.c.group_id == bindparam("group_id"), users.c.name == bindparam("user")
        )
        query = query.where(table.c.user_id == named.scalar_subquery())
    if "set" in given:
        query = query.where(table.c.set_name == bindparam("set"))
    return query.order_by(table.c.id.desc()).limit(bindparam("most"))


def move(
    conn: Connection,
    job_id: UUID,
    *,
    frm: Collection[JobState],
    to: JobState,
    **changes: object,
) -> bool:
    """Change a job's state if it is in one of ``frm``; False when it is not.

    Raises ValueError, before anything is asked, for a move that is never legal
    or a column that does not change.
    """
    illegal = [state.value for state in frm if to not in MOVES[state]]
    if illegal:
        raise ValueError(f"no job moves from {illegal} to {to.value}")
    return _compare_and_set(conn, job_id, frm, {**changes, "state": to})


def touch(
    conn: Connection, job_id: UUID, *, state: Collection[JobState], **changes: object
) -> bool:
    """Change columns, not the state, of a job that is in one of ``state``; False otherwise.

    Raises ValueError for a column that does not change.
    """
    return _compare_and_set(conn, job_id, state, changes)


def take(conn: Connection, job_ids: Sequence[UUID]) -> list[Job]:
    """Move jobs that wait to submitted, with one attempt more each; returns them, in order.

    One that somebody else is changing is left out, too: it may be taken the next time.
    """
    waiting: dict[UUID, Job] = {}
    for start in range(0, len(job_ids), _AT_ONCE):
        some = [job_id.bytes for job_id in job_ids[start : start + _AT_ONCE]]
        found = map(_JOB.make, _STILL_WAIT.all(conn, **listed(some, _AT_ONCE)))
        waiting.update((job.id, job) for job in found)
    _SUBMIT.run(conn, [job_id.bytes for job_id in waiting])
    return [_submitted(waiting[job_id]) for job_id in job_ids if job_id in waiting]


def _submitted(job: Job) -> Job:
    """As _SUBMIT makes it."""
    return msgspec.structs.replace(
        job,
        state=JobState.SUBMITTED,
        attempt=job.attempt + 1,
        phase=None,
        reason=None,
        started_at=None,
        exit_code=None,
        cause=None,
        node=None,
    )


# What another try of an ended job starts with: what a new one has, and its runs so far.
AGAIN: Final[dict[str, object]] = {
    "state": JobState.RECEIVED.value,
    "phase": None,
    "reason": None,
    "cause": None,
    "exit_code": None,
    "node": None,
    "started_at": None,
    "ended_at": None,
    "cancel_requested_at": None,
    "retries": 0,
    "not_before": None,
    "hold": False,
    "attempts_before": table.c.attempt,
}


def again(conn: Connection, job_id: UUID) -> bool:
    """A failed or canceled job waits again; False when it is neither, or its data went."""
    ended = [JobState.FAILED.value, JobState.CANCELED.value]
    statement = update(table).where(
        table.c.id == job_id.bytes,
        table.c.state.in_(ended),
        table.c.prune_requested_at.is_(None),
    )
    return _change_one(conn, job_id, statement.values(AGAIN), may_be_archived=True)


def _compare_and_set(
    conn: Connection, job_id: UUID, states: Collection[JobState], changes: dict[str, object]
) -> bool:
    unknown = changes.keys() - _CHANGEABLE
    if unknown:
        raise ValueError(f"a job's {', '.join(sorted(unknown))} does not change")
    statement = (
        update(table)
        .where(table.c.id == job_id.bytes, table.c.state.in_([state.value for state in states]))
        .values({name: _plain(value) for name, value in changes.items()})
    )
    return _change_one(conn, job_id, statement, may_be_archived=FINAL.issuperset(states))


def _change_one(
    conn: Connection, job_id: UUID, statement: Update, *, may_be_archived: bool
) -> bool:
    if conn.execute(statement).rowcount == 1:
        return True
    if not may_be_archived:
        return False
    archive.bring_back(conn, job_id)  # or somebody else does
    return conn.execute(statement).rowcount == 1


def _plain(value: object) -> object:
    """A driver need not know our types."""
    if isinstance(value, UUID):
        return value.bytes
    return value.value if isinstance(value, StrEnum) else value
