"""The archive: jobs that ended long ago, with their attempts, out of the way of the others.

They are still found by id, and their buckets stay taken; lists leave them out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    Connection,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from bridge.db.statements import Prepared
from bridge.db.tables import (
    attempts,
    attempts_archive,
    jobs,
    jobs_archive,
    keeps_data_of_a_set,
)
from bridge.models.job import FINAL

_FINAL: Final = tuple(sorted(state.value for state in FINAL))
_ANY: Final = Prepared(
    select(literal_column("1")).where(
        exists().where(jobs_archive.c.group_id == bindparam("group_id"))
    )
)


def put_away(conn: Connection, *, before: float, limit: int) -> int:
    """Archive jobs that ended before a time (Unix seconds) and of which no scheduler
    keeps anything, oldest first; returns how many.

    While somebody deletes the data of a job it stays, at most as long as after its end.
    """
    kept = exists().where(attempts.c.job_id == jobs.c.id, attempts.c.forgotten_at.is_(None))
    settled = or_(
        jobs.c.prune_requested_at.is_(None),
        jobs.c.pruned_at.is_not(None),
        jobs.c.prune_requested_at < before,
    )
    due = (
        select(jobs.c.id)
        .where(jobs.c.ended_at < before, jobs.c.state.in_(_FINAL), settled, ~kept)
        .order_by(jobs.c.ended_at)
        .limit(limit)
        .with_for_update(of=jobs, skip_locked=True)
    )
    ids = conn.execute(due).scalars().all()
    if ids:
        _move(conn, ids, jobs, jobs_archive, attempts, attempts_archive)
    return len(ids)


def bring_back(conn: Connection, job_id: UUID) -> bool:
    """Take one job out of the archive again; False when it is not there."""
    return bool(
        _bring_back(conn, select(jobs_archive.c.id).where(jobs_archive.c.id == job_id.bytes))
    )


class Pruned(msgspec.Struct, frozen=True):
    """How many jobs came back from the archive, and of how many the data was given up anew."""

    back: int
    anew: int


def prune_set(
    conn: Connection, group_id: UUID, name: str, user_id: UUID | None, *, now: float, limit: int
) -> Pruned:
    """Take jobs of a set, of one user or of all, whose data is not known to be deleted out
    of the archive again, and give their data up from now on, also where that was done
    before: else the archive would take them at once. None of them is left when none came.
    """
    theirs = select(jobs_archive.c.id).where(
        keeps_data_of_a_set,
        jobs_archive.c.group_id == group_id.bytes,
        jobs_archive.c.set_name == name,
    )
    if user_id is not None:
        theirs = theirs.where(jobs_archive.c.user_id == user_id.bytes)
    ids = _bring_back(conn, theirs.order_by(jobs_archive.c.id).limit(limit))
    came = jobs.c.id.in_(ids)
    had_data = select(func.count()).where(came, jobs.c.prune_requested_at.is_(None))
    anew = conn.execute(had_data).scalar_one()
    conn.execute(update(jobs).where(came).values(prune_requested_at=now))
    return Pruned(len(ids), anew)


def _bring_back(conn: Connection, wanted: Select[bytes]) -> list[bytes]:
    # Whoever else wants them waits, and then finds nothing here.
    ids = [row[0] for row in conn.execute(wanted.with_for_update())]
    if ids:
        _move(conn, ids, jobs_archive, jobs, attempts_archive, attempts)
    return ids


def owners(
    conn: Connection, group_id: UUID, buckets: Collection[UUID]
) -> dict[UUID, tuple[bytes, bytes]]:
    """Those of the buckets that belong to archived jobs: the ids of job and user."""
    # Most submissions are the first of their bucket, and a new group has no archive.
    if _ANY.first(conn, group_id=group_id.bytes) is None:
        return {}
    query = select(jobs_archive.c.bucket_id, jobs_archive.c.id, jobs_archive.c.user_id).where(
        jobs_archive.c.group_id == group_id.bytes,
        jobs_archive.c.bucket_id.in_([bucket.bytes for bucket in buckets]),
    )
    return {UUID(bytes=row[0]): (row[1], row[2]) for row in conn.execute(query)}


def _move(
    conn: Connection,
    ids: Sequence[bytes],
    from_jobs: Table,
    to_jobs: Table,
    from_attempts: Table,
    to_attempts: Table,
) -> None:
    """Jobs first when they come, last when they go: attempts refer to them."""
    _copy(conn, from_jobs, to_jobs, "id", ids)
    _copy(conn, from_attempts, to_attempts, "job_id", ids)
    conn.execute(delete(from_attempts).where(from_attempts.c.job_id.in_(ids)))
    conn.execute(delete(from_jobs).where(from_jobs.c.id.in_(ids)))


def _copy(conn: Connection, source: Table, target: Table, key: str, ids: Sequence[bytes]) -> None:
    names = [column.name for column in source.columns]
    rows = select(*source.columns).where(source.c[key].in_(ids))
    conn.execute(insert(target).from_select(names, rows))
