"""Attempts: follow, stop, end, forget. Each function is one short statement or a few. How
they begin is in ``claims``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    or_,
    select,
    union,
    update,
)

from bridge.db import jobs as jobs_db
from bridge.db.tables import attempts, attempts_archive, is_live, is_to_forget, jobs
from bridge.models.attempt import Attempt, AttemptState, Cause, Handle
from bridge.models.job import Job, Phase

COLUMNS: Final = tuple(attempts.c[field] for field in Attempt.__struct_fields__)


class AttemptOfJob(msgspec.Struct, frozen=True):
    """An attempt with the job it belongs to."""

    attempt: Attempt
    job: Job


def attempt_of(row: Row[Any]) -> Attempt:
    """From a row of ``COLUMNS``."""
    values = dict(zip(Attempt.__struct_fields__, row, strict=True))
    values["id"] = UUID(bytes=values["id"])
    values["job_id"] = UUID(bytes=values["job_id"])
    values["state"] = AttemptState(values["state"])
    if values["claim_token"] is not None:
        values["claim_token"] = UUID(bytes=values["claim_token"])
    for name in ("cause", "stop_cause"):
        if values[name] is not None:
            values[name] = Cause(values[name])
    return Attempt(**values)


def with_jobs(conn: Connection, found: Sequence[Attempt]) -> list[AttemptOfJob]:
    """Each with its job."""
    by_id = {job.id: job for job in jobs_db.get_many(conn, [a.job_id for a in found])}
    return [AttemptOfJob(a, by_id[a.job_id]) for a in found]


def change(
    conn: Connection, attempt_id: UUID, *, frm: Collection[AttemptState], **values: object
) -> bool:
    """One compare-and-set on an attempt's state; False when it has moved on."""
    done = conn.execute(
        update(attempts)
        .where(attempts.c.id == attempt_id.bytes, attempts.c.state.in_([s.value for s in frm]))
        .values(**values)
    )
    return done.rowcount == 1


def request_stop(
    conn: Connection, job_id: UUID, *, cause: Cause, now: float, number: int | None = None
) -> bool:
    """Record that the live attempt of a job shall stop, if it is the one with this
    ``number``; the first wish stands.
    """
    wish = update(attempts).where(
        attempts.c.job_id == job_id.bytes, is_live, attempts.c.stop_cause.is_(None)
    )
    if number is not None:
        wish = wish.where(attempts.c.number == number)
    return conn.execute(wish.values(stop_cause=cause.value, stop_requested_at=now)).rowcount == 1


def is_to_stop(conn: Connection, attempt_id: UUID) -> bool:
    """Whether it is live, and somebody's wish that it shall stop stands."""
    mine = select(attempts.c.stop_cause).where(attempts.c.id == attempt_id.bytes, is_live)
    return conn.execute(mine).scalar_one_or_none() is not None


class Unplaced(msgspec.Struct, frozen=True):
    """An attempt that no machine is known to have, nor is to be stopped. Memory in MiB."""

    job_id: UUID
    group_id: UUID
    number: int
    generations: str | None
    cores: int
    memory_mb: int
    connector: str
    handle: Handle


def unplaced(conn: Connection) -> list[Unplaced]:
    """Attempts that have not started, as far as it is known, and are not to be stopped."""
    query = (
        select(
            attempts.c.job_id,
            jobs.c.group_id,
            attempts.c.number,
            attempts.c.generations,
            jobs.c.cores,
            jobs.c.memory_mb,
            attempts.c.connector,
            attempts.c.native_id,
            attempts.c.namespace,
        )
        .join_from(attempts, jobs, attempts.c.job_id == jobs.c.id)
        .where(
            is_live,
            attempts.c.node.is_(None),
            attempts.c.started_at.is_(None),
            attempts.c.stop_cause.is_(None),
        )
    )
    return [
        Unplaced(UUID(bytes=row[0]), UUID(bytes=row[1]), *row[2:7], Handle(*row[7:]))
        for row in conn.execute(query)
    ]


def live(
    conn: Connection, connector: str, *, now: float, after: UUID | None, limit: int
) -> list[AttemptOfJob]:
    """Attempts to look at, in id order: confirmed ones, and claims that ran out
    while somebody had asked to stop them.
    """
    query = select(*COLUMNS).where(_followed(connector, now)).order_by(attempts.c.id).limit(limit)
    if after is not None:
        query = query.where(attempts.c.id > after.bytes)
    return with_jobs(conn, [attempt_of(row) for row in conn.execute(query)])


def due(
    conn: Connection, connector: str, hinted: Collection[str], *, now: float, limit: int
) -> list[AttemptOfJob]:
    """Of the live attempts, those worth a look now: a hint named their native id, a
    wish to stop has not reached the scheduler, or the time limit is over. That is none
    for uploads, which may take hours, nor for what is absent: it stops nothing there.
    """
    overdue = and_(
        attempts.c.stop_cause.is_(None),
        attempts.c.unknown_since.is_(None),
        attempts.c.missing_since.is_(None),
        attempts.c.started_at + jobs.c.time_limit_s < now,
        or_(jobs.c.phase.is_(None), jobs.c.phase != Phase.UPLOADING.value),
    )
    unsent = and_(attempts.c.stop_cause.is_not(None), attempts.c.stop_sent_at.is_(None))
    query = (
        select(*COLUMNS)
        .join_from(attempts, jobs, attempts.c.job_id == jobs.c.id)
        .where(
            _followed(connector, now),
            or_(attempts.c.native_id.in_(list(hinted)), unsent, overdue),
        )
        .order_by(attempts.c.id)
        .limit(limit)
    )
    return with_jobs(conn, [attempt_of(row) for row in conn.execute(query)])


def _followed(connector: str, now: float) -> ColumnElement[bool]:
    return and_(
        attempts.c.connector == connector,
        is_live,
        or_(
            attempts.c.state != AttemptState.CLAIMED.value,
            and_(attempts.c.stop_cause.is_not(None), attempts.c.claim_expires_at <= now),
        ),
    )


def of_job(conn: Connection, job_id: UUID) -> list[Attempt]:
    """All attempts of a job, first to last."""
    for table in (attempts, attempts_archive):
        columns = (table.c[column.name] for column in COLUMNS)
        query = select(*columns).where(table.c.job_id == job_id.bytes).order_by(table.c.number)
        if found := [attempt_of(row) for row in conn.execute(query)]:
            return found
    return []


def of_jobs(conn: Connection, job_ids: Collection[UUID]) -> list[Attempt]:
    """All attempts of jobs that are not archived, those of one together, first to last."""
    wanted = attempts.c.job_id.in_([job_id.bytes for job_id in job_ids])
    query = select(*COLUMNS).where(wanted).order_by(attempts.c.job_id, attempts.c.number)
    return [attempt_of(row) for row in conn.execute(query)]


def to_forget(
    conn: Connection, connector: str, *, before: float, limit: int, skip: int = 0
) -> list[tuple[UUID, Handle]]:
    """Attempts whose end was stored by ``before``, oldest first, without the first ``skip``:
    their rest at the scheduler may go.
    """
    query = (
        select(attempts.c.id, attempts.c.native_id, attempts.c.namespace)
        .where(is_to_forget, attempts.c.connector == connector, attempts.c.recorded_at <= before)
        .order_by(attempts.c.recorded_at)
        .limit(limit)
        .offset(skip)
    )
    return [(UUID(bytes=row[0]), Handle(row[1], row[2])) for row in conn.execute(query)]


def record_forgotten(conn: Connection, attempt_ids: Collection[UUID], *, now: float) -> None:
    """The scheduler keeps nothing of these any more."""
    conn.execute(
        update(attempts)
        .where(attempts.c.id.in_([one.bytes for one in attempt_ids]))
        .values(forgotten_at=now)
    )


def unfinished(conn: Connection, native_ids: Collection[str]) -> set[str]:
    """Which of these native ids belong to attempts that have not ended."""
    query = select(attempts.c.native_id).where(attempts.c.native_id.in_(list(native_ids)), is_live)
    return set(conn.execute(query).scalars())


def namespaces(conn: Connection, connector: str) -> set[str]:
    """Namespaces that hold something of ours at a connector."""
    mine = select(attempts.c.namespace).where(attempts.c.connector == connector)
    # An index for each of the two; together they have none.
    return set(conn.execute(union(mine.where(is_live), mine.where(is_to_forget))).scalars())


def namespaces_ever(conn: Connection, connector: str) -> set[str]:
    """Namespaces in which an attempt of ours ever was, those of archived jobs included.
    Reads all of them: for rare use.
    """
    found: set[str] = set()
    for table in (attempts, attempts_archive):
        query = select(table.c.namespace).where(table.c.connector == connector).distinct()
        found.update(conn.execute(query).scalars())
    return found
