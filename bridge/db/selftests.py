"""Self-tests: jobs pinned to one node, in nobody's list, owned by no member.

The name of such a job is the node's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, delete, exists, func, select, update

from bridge.db import identity, intake
from bridge.db import jobs as jobs_db
from bridge.db.statements import Prepared
from bridge.db.tables import attempts, is_selftest, jobs
from bridge.models.job import FINAL, LIVE, Job, JobState, NewJob

_LIVE: Final = tuple(sorted(state.value for state in LIVE))
_FINAL: Final = tuple(sorted(state.value for state in FINAL))
_WAITING: Final = Prepared(
    select(jobs.c.group_id, jobs.c.id).where(is_selftest, jobs.c.state == JobState.RECEIVED.value)
)


def add(
    conn: Connection, group_id: UUID, new: NewJob, *, pinned_to: str, now: float
) -> UUID | intake.Clash:
    """Store a self-test that waits for the node ``pinned_to``, the scheduler's id of it.

    A Clash when its bucket is that of a member's job; the id of the stored self-test when
    it was asked for before.
    """
    owner = identity.owner_of_selftests(conn, group_id, now)
    [stored] = intake.insert_many(conn, group_id=group_id, user_id=owner, jobs=[new], now=now)
    if isinstance(stored, UUID):
        conn.execute(update(jobs).where(jobs.c.id == stored.bytes).values(pinned_to=pinned_to))
    return stored


def get(conn: Connection, group_id: UUID, node: str, job_id: UUID) -> Job | None:
    """One self-test of a node; None for anything else."""
    job = jobs_db.get(conn, job_id, group_id)
    return job if job and job.pinned_to is not None and job.name == node else None


def waiting(conn: Connection) -> list[tuple[UUID, UUID]]:
    """Group and id of each self-test that may start, oldest first."""
    # Sorted here: to read them in order, a planner would go through all jobs.
    rows = sorted(_WAITING.all(conn), key=lambda row: row[1])
    return [(UUID(bytes=row[0]), UUID(bytes=row[1])) for row in rows]


def live(conn: Connection, group_id: UUID, node: str) -> list[UUID]:
    """Self-tests of a node that have not ended."""
    query = select(jobs.c.id).where(
        is_selftest,
        jobs.c.group_id == group_id.bytes,
        jobs.c.state.in_(_LIVE),
        jobs.c.name == node,
    )
    return [UUID(bytes=job_id) for job_id in conn.execute(query).scalars()]


def count_live(conn: Connection, group_id: UUID) -> int:
    """How many self-tests of a group have not ended."""
    query = select(func.count()).where(
        is_selftest, jobs.c.group_id == group_id.bytes, jobs.c.state.in_(_LIVE)
    )
    return int(conn.execute(query).scalar_one())


def overdue(conn: Connection, before: float) -> list[UUID]:
    """Self-tests asked for before a time (Unix seconds) that have not ended."""
    query = select(jobs.c.id).where(
        is_selftest, jobs.c.state.in_(_LIVE), jobs.c.created_at < before
    )
    return [UUID(bytes=job_id) for job_id in conn.execute(query).scalars()]


def ended(conn: Connection, before: float, limit: int) -> list[UUID]:
    """Self-tests that ended before a time and of which no scheduler keeps anything."""
    kept = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.forgotten_at.is_(None))
    query = select(jobs.c.id, jobs.c.ended_at).where(is_selftest, jobs.c.state.in_(_FINAL), ~kept)
    # Compared here: to find old ends, SQLite would go through those of all jobs.
    old = [job_id for job_id, at in conn.execute(query) if at is not None and at < before]
    return [UUID(bytes=job_id) for job_id in old[:limit]]


def remove(conn: Connection, job_ids: Collection[UUID]) -> None:
    """Delete self-tests with their attempts."""
    ids = [job_id.bytes for job_id in job_ids]
    conn.execute(delete(attempts).where(attempts.c.job_id.in_(ids)))
    conn.execute(delete(jobs).where(jobs.c.id.in_(ids)))
