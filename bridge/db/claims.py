"""Claims: how attempts begin. Each function is one short statement or a few.

A claim is taken in one transaction (job ``received`` → ``submitted`` and a new
attempt row), the scheduler is called outside of any, and the result is recorded
guarded by the claim token: no row updated means somebody else took over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select, update

from bridge.db import jobs as jobs_db
from bridge.db.attempts import COLUMNS, AttemptOfJob, attempt_of, with_jobs
from bridge.db.statements import Insertion, Prepared
from bridge.db.tables import attempts, is_live
from bridge.models.attempt import Attempt, AttemptState
from bridge.models.ids import new_id
from bridge.models.job import Job

# Clocks of processes differ by less than this, seconds.
CLOCKS_DIFFER_S: Final = 60.0
# In the order of _new_row; the other columns start as NULL.
_CLAIM: Final = Insertion(
    attempts,
    (
        attempts.c.id,
        attempts.c.job_id,
        attempts.c.number,
        attempts.c.connector,
        attempts.c.native_id,
        attempts.c.namespace,
        attempts.c.state,
        attempts.c.claim_token,
        attempts.c.claim_expires_at,
        attempts.c.claimed_at,
        attempts.c.generations,
    ),
)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes jobs, for which scheduler, and until when. Times are Unix seconds."""

    connector: str
    namespace: str
    native_id: Callable[[UUID, int], str]
    token: UUID
    now: float
    expires_at: float
    generations: tuple[str, ...] = ()  # of nodes that may run it; empty: any


def claim(conn: Connection, job_ids: Sequence[UUID], by: Claim) -> list[AttemptOfJob]:
    """Take waiting jobs for hand-over, in order; a job that no longer waits is left out."""
    taken = [AttemptOfJob(_new_attempt(job, by), job) for job in jobs_db.take(conn, job_ids)]
    _CLAIM.run(conn, [_new_row(one.attempt, by.token) for one in taken])
    return taken


def _new_attempt(job: Job, by: Claim) -> Attempt:
    return Attempt(
        id=new_id(),
        job_id=job.id,
        number=job.attempt,
        connector=by.connector,
        native_id=by.native_id(job.id, job.attempt),
        namespace=by.namespace,
        state=AttemptState.CLAIMED,
        claim_token=by.token,
        claim_expires_at=by.expires_at,
        claimed_at=by.now,
        generations=" ".join(by.generations) or None,
    )


def _new_row(new: Attempt, token: UUID) -> tuple[Any, ...]:
    return (
        bytearray(new.id.bytes),  # see db/intake.py
        bytearray(new.job_id.bytes),
        new.number,
        new.connector,
        new.native_id,
        new.namespace,
        new.state.value,
        bytearray(token.bytes),
        new.claim_expires_at,
        new.claimed_at,
        new.generations,
    )


def _claimed(connector: Any) -> ColumnElement[bool]:
    claimed = attempts.c.state == AttemptState.CLAIMED.value
    return and_(is_live, attempts.c.connector == connector, claimed)


def _expired(now: Any) -> ColumnElement[bool]:
    """Ran out before the hand-over was recorded. What somebody asked to stop is left to the
    reconciler.
    """
    return and_(attempts.c.claim_expires_at <= now, attempts.c.stop_cause.is_(None))


def _of_a_later_clock(now: Any) -> ColumnElement[bool]:
    """The clock was put back since, and would take long to reach the end of the claim again."""
    return and_(attempts.c.claimed_at - CLOCKS_DIFFER_S > now)


_NOW: Final[Any] = bindparam("now")
_ANY_EXPIRED: Final = Prepared(
    select(attempts.c.id)
    .where(_claimed(bindparam("connector")), or_(_expired(_NOW), _of_a_later_clock(_NOW)))
    .limit(1)
)


def any_expired(conn: Connection, connector: str, now: float) -> bool:
    """Whether ``reclaim`` would find something; a read, so that idling writes nothing."""
    return _ANY_EXPIRED.first(conn, connector=connector, now=now) is not None


def reclaim(
    conn: Connection,
    connector: str,
    *,
    but: Collection[UUID] = (),
    token: UUID,
    now: float,
    expires_at: float,
    limit: int,
) -> list[AttemptOfJob]:
    """Take over expired claims, oldest first; each goes to one taker. Attempts ``but`` are
    left alone.
    """
    # From here on they are as any that ran out, also to whoever looks at what is to stop.
    conn.execute(
        update(attempts)
        .where(_claimed(connector), _of_a_later_clock(now))
        .values(claimed_at=now, claim_expires_at=now)
    )
    free = attempts.c.id.not_in([one.bytes for one in but])
    expired = and_(_claimed(connector), _expired(now), free)
    oldest = select(attempts.c.id).where(expired).order_by(attempts.c.id).limit(limit)
    rows = conn.execute(
        update(attempts)
        .where(attempts.c.id.in_(oldest), expired)
        .values(claim_token=token.bytes, claim_expires_at=expires_at)
        .returning(*COLUMNS)
    ).all()
    return with_jobs(conn, [attempt_of(row) for row in rows])


def _ours(claimed: Mapping[UUID, UUID]) -> ColumnElement[bool]:
    """Attempts that nobody has taken over since they were claimed under these tokens."""
    return and_(
        attempts.c.id.in_([one.bytes for one in claimed]),
        attempts.c.state == AttemptState.CLAIMED.value,
        attempts.c.claim_token.in_({token.bytes for token in claimed.values()}),
    )


def record_submitted(conn: Connection, attempt_id: UUID, *, token: UUID, now: float) -> bool:
    """The scheduler has confirmed the attempt; False when the claim was lost."""
    done = conn.execute(
        update(attempts)
        .where(_ours({attempt_id: token}))
        .values(
            state=AttemptState.SUBMITTED.value,
            submitted_at=now,
            claim_token=None,
            claim_expires_at=None,
        )
    )
    return done.rowcount == 1


def let_go(conn: Connection, claimed: Mapping[UUID, UUID], *, now: float) -> None:
    """These claims (attempt: token) have run out, as far as they are still ours."""
    conn.execute(update(attempts).where(_ours(claimed)).values(claim_expires_at=now))


def give_claim_back(conn: Connection, attempt_id: UUID, *, token: UUID) -> bool:
    """Nobody has this claim any more, in this transaction; False when it was lost before."""
    done = conn.execute(update(attempts).where(_ours({attempt_id: token})).values(claim_token=None))
    return done.rowcount == 1
