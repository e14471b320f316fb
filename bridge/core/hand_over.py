"""Calls a scheduler for attempts that were claimed, outside any transaction, and records it.

A crash or a lost answer between call and record is harmless: the claim runs
out, is taken again, and the connector is called with the same id, create-only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from types import MappingProxyType
from typing import Final
from uuid import UUID

from bridge import log, points
from bridge.connectors.base import Connector
from bridge.core.patience import Act, Patience
from bridge.core.retry import failed_on
from bridge.core.verdict import End
from bridge.core.write import end_attempt
from bridge.db import attempts, claims, identity
from bridge.db import jobs as jobs_db
from bridge.db.attempts import AttemptOfJob
from bridge.db.claims import CLOCKS_DIFFER_S
from bridge.db.engine import Connection, Transactions
from bridge.errors import BridgeError, ConnectorUnavailable, JobRejected
from bridge.models.attempt import Attempt, AttemptSpec, Cause, Handle
from bridge.models.identity import Group
from bridge.models.job import JobState
from bridge.points import Point

_log = log.get(__name__)

# By then an attempt whose calls failed has been canceled, or it is worth another try.
_TRIED_S: Final = 3600.0
_AVOIDED: Final = 16  # machines that an attempt is asked to avoid for others: it is only a wish


class _HeldUp:
    """A group of which the scheduler takes nothing, for now: attempts to try, and their claims."""

    def __init__(self) -> None:
        self.claims: dict[UUID, UUID] = {}
        self._old_next = True

    def turn(self) -> dict[UUID, UUID]:
        """The claim of the one to try now; none when it is the turn of one that waits."""
        old, self._old_next = self._old_next, not self._old_next
        if not (old and self.claims):
            return {}
        first = next(iter(self.claims))
        return {first: self.claims.pop(first)}


class HandOver:
    """Up to ``threads`` calls at a time.

    What could not be handed over stays claimed. While nothing of its group is taken, one of
    these and one that waits are tried by turns; as soon as one is, all of them. What fails even
    then is tried when its claim has run out: it is not to be called between all others.
    """

    def __init__(
        self,
        db: Transactions,
        *,
        threads: int,
        half_life_s: float,
        patience: Patience,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._half_life_s = half_life_s
        self._patience = patience
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hand-over")
        self._held_up: dict[tuple[str, str], _HeldUp] = {}  # by scheduler and group
        # Attempts since others of their group were taken, and when that was.
        self._tried_again: dict[UUID, float] = {}

    def forget(self) -> None:
        """Another process has led meanwhile: nothing is known to be held up."""
        self._held_up.clear()
        self._tried_again.clear()

    def is_held_up(self, connector: str, group: str) -> bool:
        """Whether the last calls for a group failed: the scheduler could not be asked."""
        return (connector, group) in self._held_up

    def held_back(self, connector: str) -> list[UUID]:
        """Attempts whose turn to be tried has not come, even if their claims have run out."""
        of_it = (group.claims for (name, _), group in self._held_up.items() if name == connector)
        return [attempt for some in of_it for attempt in some]

    def free_some(self, connector: str) -> bool:
        """Let somebody take one claim of each group that is held up and may ask again; whether
        there is one.
        """
        claimed: dict[UUID, UUID] = {}
        for (name, place), group in self._held_up.items():
            if name == connector and not self._patience.waits(name, Act.FEED, place):
                claimed |= group.turn()
        self._let_go(claimed)
        return bool(claimed)

    def close(self) -> None:
        """Wait for calls under way, then stop."""
        self._pool.shutdown(wait=True)

    def call(
        self,
        connector: Connector,
        claimed: Sequence[AttemptOfJob],
        avoid: Mapping[UUID, tuple[str, ...]] = MappingProxyType({}),
    ) -> int:
        """How many were handed over.

        ``avoid``: by job, the machines that are better left to others.
        """
        if not claimed:
            return 0
        groups = self._groups_of(claimed)
        calls: list[Future[int | None]] = []
        for one in claimed:
            others = avoid.get(one.job.id, ())[:_AVOIDED]
            group = groups[one.job.group_id]
            calls.append(self._pool.submit(self._submit, connector, one, group, others))
        # All of them: a pass that is given up has none of its calls under way any more.
        wait(calls)
        heard = [
            _heard(call, one, connector.name) for call, one in zip(calls, claimed, strict=True)
        ]
        places = [groups[one.job.group_id].name for one in claimed]
        for place in {at for at, said in zip(places, heard, strict=True) if isinstance(said, int)}:
            self._worked(connector.name, place)
        for place, one, said in zip(places, claimed, heard, strict=True):
            if isinstance(said, ConnectorUnavailable):
                self._failed(connector.name, place, one.attempt, said)
            elif said is not None:
                self._tried_again.pop(one.attempt.id, None)
        return sum(said for said in heard if isinstance(said, int))

    def _worked(self, connector: str, place: str) -> None:
        self._patience.worked(connector, Act.FEED, place)
        if (group := self._held_up.pop((connector, place), None)) is not None:
            self._let_go(group.claims)
            now = self._clock()
            kept = {one: at for one, at in self._tried_again.items() if now - at < _TRIED_S}
            self._tried_again = kept | dict.fromkeys(group.claims, now)

    def _failed(
        self, connector: str, place: str, attempt: Attempt, away: ConnectorUnavailable
    ) -> None:
        self._patience.failed(connector, Act.FEED, away, place)
        group = self._held_up.setdefault((connector, place), _HeldUp())
        if attempt.claim_token is not None and attempt.id not in self._tried_again:
            group.claims[attempt.id] = attempt.claim_token

    def _let_go(self, claimed: Mapping[UUID, UUID]) -> None:
        if claimed:
            now = self._clock()
            self._db.write(lambda conn: claims.let_go(conn, claimed, now=now), lasting=False)

    def _groups_of(self, claimed: Sequence[AttemptOfJob]) -> dict[UUID, Group]:
        def read(conn: Connection) -> dict[UUID, Group]:
            ids = {one.job.group_id for one in claimed}
            found = (identity.group_by_id(conn, group_id) for group_id in ids)
            return {group.id: group for group in found if group is not None}

        return self._db.read(read)

    def _submit(
        self,
        connector: Connector,
        one: AttemptOfJob,
        group: Group,
        avoid: tuple[str, ...],
    ) -> int | None:
        token = one.attempt.claim_token
        assert token is not None
        points.reach(Point.HAND_OVER_BEFORE_CALL)
        if not _holds(one.attempt, self._clock()):
            # We were paused, or waited long for a thread. By now the attempt may have been
            # taken over, have ended, and be forgotten: a call would run it once more.
            return None
        try:
            connector.submit(spec_of(one, group, (*self._failed_on(one), *avoid)))
        except JobRejected as exc:
            self._reject(one, token, exc)
            return 0
        points.reach(Point.HAND_OVER_CALLED)
        recorded = self._db.write(lambda conn: self._record(conn, one, token), lasting=False)
        points.reach(Point.RECORD_COMMITTED)
        _log.info(
            "action=submit job=%s attempt=%d connector=%s recorded=%s",
            one.job.id,
            one.attempt.number,
            connector.name,
            recorded,
        )
        return int(recorded)

    def _failed_on(self, one: AttemptOfJob) -> tuple[str, ...]:
        if one.attempt.number == 1:
            return ()
        return failed_on(self._db.read(partial(attempts.of_job, job_id=one.job.id)))

    def _record(self, conn: Connection, one: AttemptOfJob, token: UUID) -> bool:
        now = self._clock()
        recorded = claims.record_submitted(conn, one.attempt.id, token=token, now=now)
        points.reach(Point.RECORD_BEFORE_COMMIT)
        return recorded

    def _reject(self, one: AttemptOfJob, token: UUID, why: JobRejected) -> None:
        now = self._clock()
        end = End(job=JobState.FAILED, cause=Cause.REJECTED, reason=why.message, ended_at=now)
        points.reach(Point.REJECT_BEFORE_COMMIT)

        def write(conn: Connection) -> bool:
            # The job before its attempt, as who cancels it does: else each waits for the other.
            jobs_db.lock(conn, one.job.id)
            # Whoever took the claim over hears for itself what the scheduler says by then.
            return claims.give_claim_back(conn, one.attempt.id, token=token) and end_attempt(
                conn, one, end, self._half_life_s, now=now
            )

        rejected = self._db.write(write)
        _log.warning(
            "action=reject job=%s reason=%s recorded=%s", one.job.id, why.message, rejected
        )


def _heard(
    call: Future[int | None], one: AttemptOfJob, connector: str
) -> int | ConnectorUnavailable | None:
    """How many it handed over, or why the scheduler could not be asked; None: it was not."""
    try:
        return call.result()
    except ConnectorUnavailable as away:
        return away
    except BridgeError:  # the lease is lost, or the database is away
        raise
    except Exception as fault:  # noqa: BLE001 (a fault of ours holds up one group, not all)
        _log.exception("action=submit job=%s connector=%s", one.job.id, connector)
        words = f"the hand-over met a fault of this program ({type(fault).__name__})"
        return ConnectorUnavailable(words, "Its log says more; please report it.", narrow=True)


def _holds(claimed: Attempt, now: float) -> bool:
    """Whether nobody else has taken the claim over; as for them, no claim is of the future."""
    begun = claimed.claimed_at <= now + CLOCKS_DIFFER_S
    return begun and now < (claimed.claim_expires_at or 0.0)


def spec_of(one: AttemptOfJob, group: Group, avoid: tuple[str, ...] = ()) -> AttemptSpec:
    """What the connector is handed for one attempt."""
    job = one.job
    return AttemptSpec(
        handle=Handle(one.attempt.native_id, one.attempt.namespace),
        job_id=job.id,
        number=one.attempt.number,
        group=group.name,
        code_bucket=group.code_bucket,
        node_pool=group.node_pool,
        bucket_id=job.bucket_id,
        image=job.image,
        input_sha256=job.input_sha256,
        cores=job.cores,
        memory_mb=job.memory_mb,
        time_limit_s=job.time_limit_s,
        priority=job.priority,
        # As they were when it was claimed: so it is known what may not run on these any more.
        generations=tuple((one.attempt.generations or "").split()),
        requires_limits=group.requires_limits and job.pinned_to is None,
        native_node=job.pinned_to,
        avoid=avoid,
    )
