"""Sets of jobs: seen and changed as one, in statements that each change a bounded chunk.

Every change says how many jobs it touched; call it again until that is less than
the limit. So a hundred thousand jobs never hold the database for long.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from bridge.db.jobs import AGAIN
from bridge.db.tables import attempts, in_a_set, is_live, jobs
from bridge.models.attempt import Cause
from bridge.models.ids import made_at
from bridge.models.job import FINAL, JobState
from bridge.models.job_set import SetSummary

_HANDED_OVER: Final = (JobState.SUBMITTED.value, JobState.RUNNING.value)
_FINAL: Final = tuple(sorted(state.value for state in FINAL))


class JobSet(msgspec.Struct, frozen=True):
    """Which jobs: a name within a group, of all its users or of one."""

    group_id: UUID
    name: str
    user_id: UUID | None = None


def summaries(
    conn: Connection, group_id: UUID, user_id: UUID | None = None, name: str | None = None
) -> list[SetSummary]:
    """The sets of a group, or those in which one user has jobs, by name."""
    conditions = [jobs.c.group_id == group_id.bytes, in_a_set]
    if user_id is not None:
        conditions.append(jobs.c.user_id == user_id.bytes)
    if name is not None:
        conditions.append(jobs.c.set_name == name)
    # Ids carry the time of submission: the index on sets alone answers this.
    first = _edge(conditions, jobs.c.id)
    last = _edge(conditions, jobs.c.id.desc())
    query = (
        select(jobs.c.set_name, jobs.c.state, func.count())
        .where(*conditions)
        .group_by(jobs.c.set_name, jobs.c.state)
        .order_by(jobs.c.set_name)
    )
    counts: dict[str, dict[JobState, int]] = {}
    for set_name, state, count in conn.execute(query):
        counts.setdefault(set_name, {})[JobState(state)] = count
    return [
        SetSummary(
            name=set_name,
            jobs=by_state,
            first_at=_time(conn, first, set_name),
            last_at=_time(conn, last, set_name),
        )
        for set_name, by_state in counts.items()
    ]


def _edge(conditions: list[ColumnElement[bool]], order: Any) -> Any:
    return select(jobs.c.id).where(*conditions).order_by(order).limit(1)


def _time(conn: Connection, edge: Any, name: str) -> float:
    found = conn.execute(edge.where(jobs.c.set_name == name)).scalar_one()
    return made_at(UUID(bytes=found))


def cancel_waiting(conn: Connection, which: JobSet, *, now: float, limit: int) -> int:
    """Jobs that wait are canceled at once."""
    return _change(
        conn,
        and_(_in(which), jobs.c.state == JobState.RECEIVED.value),
        limit,
        state=JobState.CANCELED.value,
        cancel_requested_at=now,
        ended_at=now,
        cause=Cause.CANCELED.value,
        reason=None,
    )


def cancel_handed_over(conn: Connection, which: JobSet, *, now: float, limit: int) -> int:
    """Jobs that were handed over are asked to stop, and so are their attempts."""
    asked = _change(
        conn,
        and_(_in(which), jobs.c.state.in_(_HANDED_OVER), jobs.c.cancel_requested_at.is_(None)),
        limit,
        cancel_requested_at=now,
    )
    mine = select(jobs.c.id).where(
        _in(which), jobs.c.state.in_(_HANDED_OVER), jobs.c.cancel_requested_at == now
    )
    conn.execute(
        update(attempts)
        .where(attempts.c.job_id.in_(mine), is_live, attempts.c.stop_cause.is_(None))
        .values(stop_cause=Cause.CANCELED.value, stop_requested_at=now)
    )
    return asked


def set_hold(conn: Connection, which: JobSet, *, hold: bool, limit: int) -> int:
    """Jobs that wait are held, or released."""
    other = ~jobs.c.hold if hold else jobs.c.hold
    waits = and_(_in(which), jobs.c.state == JobState.RECEIVED.value, other)
    return _change(conn, waits, limit, hold=hold)


def retry_failed(conn: Connection, which: JobSet, *, limit: int) -> int:
    """Failed jobs wait again, as if new, unless their data was given up."""
    failed = and_(
        _in(which), jobs.c.state == JobState.FAILED.value, jobs.c.prune_requested_at.is_(None)
    )
    return _change(conn, failed, limit, **AGAIN)


def prune(conn: Connection, which: JobSet, *, now: float, limit: int) -> int:
    """The data of ended jobs is given up; deleting it is the client's."""
    ended = and_(_in(which), jobs.c.state.in_(_FINAL), jobs.c.prune_requested_at.is_(None))
    return _change(conn, ended, limit, prune_requested_at=now)


def _in(which: JobSet) -> ColumnElement[bool]:
    mine = and_(jobs.c.group_id == which.group_id.bytes, in_a_set, jobs.c.set_name == which.name)
    return mine if which.user_id is None else and_(mine, jobs.c.user_id == which.user_id.bytes)


def _change(conn: Connection, condition: ColumnElement[bool], limit: int, **values: Any) -> int:
    chunk = select(jobs.c.id).where(condition).order_by(jobs.c.id).limit(limit)
    return conn.execute(
        update(jobs).where(jobs.c.id.in_(chunk), condition).values(**values)
    ).rowcount
