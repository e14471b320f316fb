"""Jobs: take new ones in, once for each bucket."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, delete, select

from bridge.db import archive
from bridge.db.statements import Insertion
from bridge.db.tables import jobs as table
from bridge.models.ids import new_ids
from bridge.models.job import JobState, NewJob

# In the order of _new_row; the other columns start as NULL.
_NEW: Final = (
    table.c.id,
    table.c.group_id,
    table.c.user_id,
    table.c.bucket_id,
    table.c.image,
    table.c.name,
    table.c.set_name,
    table.c.cores,
    table.c.memory_mb,
    table.c.time_limit_s,
    table.c.priority,
    table.c.hold,
    table.c.input_sha256,
    table.c.labels,
    table.c.oom_retry_mb,
    table.c.state,
    table.c.attempt,
    table.c.retries,
    table.c.created_at,
)
_BUCKET: Final = itemgetter([column.name for column in _NEW].index("bucket_id"))
_INSERT: Final = Insertion(table, _NEW, (table.c.group_id, table.c.bucket_id))


class Clash(msgspec.Struct, frozen=True):
    """The bucket of a new job belongs to a job of another member."""

    bucket_id: UUID


def insert_many(
    conn: Connection,
    *,
    group_id: UUID,
    user_id: UUID,
    jobs: Sequence[NewJob],
    now: float,
    ids: Sequence[UUID] | None = None,
) -> list[UUID | Clash]:
    """Store jobs as ``received``, under ``ids`` if given; the answers are in order.

    A bucket that already is a job of the same user, stored or earlier among
    ``jobs``, gives the id of that job; one of another member gives a Clash.
    """
    new = ids or new_ids(len(jobs))
    group, user = bytearray(group_id.bytes), bytearray(user_id.bytes)
    rows = [_new_row(one, job, group, user, now) for one, job in zip(new, jobs, strict=True)]
    if not rows:
        return []
    # All who race for the same buckets lock them in one order, so none waits for each other.
    rows.sort(key=_BUCKET)
    stored = _INSERT.run(conn, rows)
    # Looked up after the insert: what was in neither table then is nowhere.
    archived = archive.owners(conn, group_id, [job.bucket_id for job in jobs])
    if archived:
        again = [one.bytes for one, job in zip(new, jobs, strict=True) if job.bucket_id in archived]
        conn.execute(delete(table).where(table.c.id.in_(again)))
    elif stored == len(rows):
        return [*new]
    return _resolve(conn, group_id, user_id, jobs)


def _new_row(
    job_id: UUID, job: NewJob, group: bytearray, user: bytearray, now: float
) -> tuple[Any, ...]:
    # SQLite's driver asks for an adapter of each value that is bytes, and of none that is these.
    return (
        bytearray(job_id.bytes),
        group,
        user,
        bytearray(job.bucket_id.bytes),
        job.image,
        job.name,
        job.set,
        job.cores,
        job.memory_mb,
        job.time_limit_s,
        job.priority,
        job.hold,
        job.input_sha256,
        msgspec.json.encode(job.labels).decode() if job.labels else None,
        job.oom_retry_mb,
        JobState.RECEIVED.value,
        0,
        0,
        now,
    )


def _resolve(
    conn: Connection, group_id: UUID, user_id: UUID, new: Sequence[NewJob]
) -> list[UUID | Clash]:
    """Whose the buckets are now. Every one of them is stored, or was archived meanwhile."""
    buckets = [job.bucket_id for job in new]
    query = select(table.c.bucket_id, table.c.id, table.c.user_id).where(
        table.c.group_id == group_id.bytes, table.c.bucket_id.in_([one.bytes for one in buckets])
    )
    stored = {UUID(bytes=row[0]): (row[1], row[2]) for row in conn.execute(query)}
    if len(stored) < len(set(buckets)):
        stored |= archive.owners(conn, group_id, buckets)
    owners = [(bucket, *stored[bucket]) for bucket in buckets]
    return [
        UUID(bytes=job) if user == user_id.bytes else Clash(bucket) for bucket, job, user in owners
    ]
