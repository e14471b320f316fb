"""Hands waiting jobs over: claims shortly, calls the connector outside any transaction.

A crash or a lost answer between call and record is harmless: the claim runs
out, is taken again, and the connector is called with the same id, create-only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec

from bridge import log, points
from bridge.connectors.base import Backlog, Capacity, Connector, Pending, Room
from bridge.core.patience import Act, Patience
from bridge.core.queue import Chosen, Reserve, choose, members_of, reserve
from bridge.core.retry import failed_on
from bridge.core.verdict import End
from bridge.core.write import end_attempt
from bridge.db import attempts, identity, instance, selftests, usage
from bridge.db import jobs as jobs_db
from bridge.db import queue as queue_db
from bridge.db.attempts import CLOCKS_DIFFER_S, AttemptOfJob
from bridge.db.engine import Connection, Transactions
from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import Attempt, AttemptSpec, Cause, Handle
from bridge.models.identity import Group
from bridge.models.ids import new_id
from bridge.models.job import JobState
from bridge.points import Point

_log = log.get(__name__)

_RATE_OVER_S: Final = 10.0
# A look reads every attempt under way; a claim that ran out has waited for a minute already.
_LOOK_FOR_EXPIRED_S: Final = 1.0
_AVOIDED: Final = 16  # machines that an attempt is asked to avoid for others: it is only a wish


class Pace(msgspec.Struct, frozen=True):
    """How the feeder goes. Times in seconds; limits of 0 are none."""

    reserve: Reserve = Reserve()
    reserve_total: int = 512  # of all groups of a scheduler
    at_once: int = 64  # calls to a scheduler in one pass
    claim_ttl_s: float = 60
    threads: int = 8
    half_life_s: float = 7 * 86400
    running_per_user: int = 0
    running_per_group: int = 0


class _Starts:
    """How fast attempts of each group start, learnt from how many still wait."""

    def __init__(self) -> None:
        self._expected: dict[UUID, int] = {}  # waiting at the scheduler, had none started
        self._rates: dict[UUID, tuple[float, float]] = {}  # last look, starts per second

    def rate(self, group_id: UUID, pending: int, now: float) -> float:
        """Starts per second, averaged over about _RATE_OVER_S."""
        started = max(self._expected.get(group_id, pending) - pending, 0)
        at, rate = self._rates.get(group_id, (now, 0.0))
        if now > at:
            rate += (started / (now - at) - rate) * min((now - at) / _RATE_OVER_S, 1.0)
        self._rates[group_id] = (now, rate)
        self._expected[group_id] = pending
        return rate

    def handed_over(self, group_id: UUID, count: int) -> None:
        """So many more wait at the scheduler now."""
        self._expected[group_id] = self._expected.get(group_id, 0) + count


class Feeder:
    """One pass is ``step``; the daemon calls it when woken and every interval."""

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        prefix: str,
        pace: Pace,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._prefix = prefix
        self._pace = pace
        self._patience = patience or Patience(ticks)
        self._clock = clock
        self._ticks = ticks
        self._pool = ThreadPoolExecutor(pace.threads, thread_name_prefix="hand-over")
        self._next_look_for_expired: dict[str, float] = {}
        self._starts = _Starts()
        self._swept = False
        self._recalled = False

    def begin(self) -> None:
        """This process leads from now on: others may have handed over until now."""
        self._recalled = False

    def step(self) -> int:
        """Hand over what can start now; returns how many attempts were handed over.

        After a restore nothing, until it is known what lives at the schedulers.
        """
        self._swept = self._swept or self._db.look_up(instance.is_swept)
        if not self._swept:
            return 0
        if not self._recalled:
            self._recall()
            self._recalled = True
        return sum(self._serve(connector) for connector in self._connectors.values())

    def _recall(self) -> None:
        """Else smaller jobs would overtake a large one that waits at its scheduler already."""
        unplaced = self._db.read(attempts.unplaced)
        for name, connector in self._connectors.items():
            if isinstance(connector, Backlog):
                mine = (one for one in unplaced if one.connector == name)
                connector.recall(Pending(one.handle, one.cores, one.memory_mb) for one in mine)

    def close(self) -> None:
        """Wait for calls under way, then stop."""
        self._pool.shutdown(wait=True)

    def native_id(self, job_id: UUID, number: int) -> str:
        """The deterministic name of an attempt at its scheduler."""
        return f"{self._prefix}{job_id.hex}-{number}"

    def _serve(self, connector: Connector) -> int:
        """What can start at one scheduler. What is refused to one group is no other's loss."""
        if self._patience.waits(connector.name, Act.FEED):
            return 0
        count = self._hand_over(connector, self._reclaim(connector))
        count += self._hand_over(connector, self._claim_selftests(connector))
        for group in self._groups(connector.name):
            if not self._patience.waits(connector.name, Act.FEED, group.name):
                count += self._feed(connector, group)
        return count

    def _groups(self, connector: str) -> list[Group]:
        def read(conn: Connection) -> list[Group]:
            waiting = [identity.group_by_id(conn, one) for one in queue_db.groups_waiting(conn)]
            return [group for group in waiting if group and group.connector == connector]

        return self._db.read(read)

    def _reclaim(self, connector: Connector) -> list[AttemptOfJob]:
        now, ticks = self._clock(), self._ticks()
        if ticks < self._next_look_for_expired.get(connector.name, ticks):
            return []
        self._next_look_for_expired[connector.name] = ticks + _LOOK_FOR_EXPIRED_S
        if not self._db.read(lambda conn: attempts.any_expired(conn, connector.name, now)):
            return []
        claimed = self._db.write(
            lambda conn: attempts.reclaim(
                conn,
                connector.name,
                token=new_id(),
                now=now,
                expires_at=now + self._pace.claim_ttl_s,
                limit=self._pace.at_once,
            )
        )
        points.reach(Point.RECLAIM_COMMITTED)
        return claimed

    def _claim_selftests(self, connector: Connector) -> list[AttemptOfJob]:
        """All that wait: nobody's turn, and nobody's share."""
        waiting = self._db.read(selftests.waiting)
        claimed = []
        for group_id, job_id in waiting:
            group = self._db.read(partial(identity.group_by_id, group_id=group_id))
            if group is not None and group.connector == connector.name:
                claim = self._claim_for(connector, group)
                claimed += self._db.write(partial(attempts.claim, job_ids=[job_id], by=claim))
        return claimed

    def _feed(self, connector: Connector, group: Group) -> int:
        room = None
        if isinstance(connector, Capacity):
            try:
                room = connector.room(group.namespace, group.node_pool)
            except ConnectorUnavailable as away:
                self._patience.failed(connector.name, Act.FEED, away, group.name)
                return 0
        chosen = self._choose_for(group, room)
        avoid = {one.job.id: one.avoid for one in chosen}
        return self._hand_over(connector, self._claim(connector, group, chosen), avoid)

    def _choose_for(self, group: Group, room: Room | None) -> tuple[Chosen, ...]:
        now = self._clock()
        # Nothing is written, but the writer has in memory what it wrote last: who is ahead in
        # a deep queue is found in half the time, and it is what the claim is about to change.
        chosen = self._db.write(lambda conn: self._choose(conn, group, room, now))
        points.reach(Point.CLAIM_CHOSEN)
        return chosen

    def _claim(
        self, connector: Connector, group: Group, chosen: Sequence[Chosen]
    ) -> list[AttemptOfJob]:
        claim = self._claim_for(connector, group)

        def write(conn: Connection) -> list[AttemptOfJob]:
            claimed = attempts.claim(conn, [one.job.id for one in chosen], claim)
            points.reach(Point.CLAIM_BEFORE_COMMIT)
            return claimed

        # Lost with its machine, a claim is taken again under the same name.
        claimed = self._db.write(write, lasting=False) if chosen else []
        points.reach(Point.CLAIM_COMMITTED)
        self._starts.handed_over(group.id, len(claimed))
        return claimed

    def _claim_for(self, connector: Connector, group: Group) -> attempts.Claim:
        now = self._clock()
        return attempts.Claim(
            connector=connector.name,
            namespace=group.namespace,
            native_id=self.native_id,
            token=new_id(),
            now=now,
            expires_at=now + self._pace.claim_ttl_s,
            generations=group.generations(now),
        )

    def _choose(
        self, conn: Connection, group: Group, room: Room | None, now: float
    ) -> tuple[Chosen, ...]:
        pace = self._pace
        under_way = queue_db.under_way(conn, group.id, now, pace.half_life_s)
        shares = usage.lately(conn, group.id)
        pending = sum(one.pending for one in under_way.values())
        slots = min(
            reserve(self._starts.rate(group.id, pending, now), pace.reserve) - pending,
            pace.reserve_total - queue_db.pending(conn, group.connector),
        )
        at_once = pace.at_once
        if pace.running_per_group:
            total = sum(one.attempts for one in under_way.values())
            at_once = min(at_once, pace.running_per_group - total)
        return choose(
            queue_db.levels(conn, group.id, now),
            members=members_of(under_way, shares, now=now, half_life_s=pace.half_life_s),
            slots=slots,
            room=room,
            per_user=pace.running_per_user,
            at_once=at_once,
        )

    def _hand_over(
        self,
        connector: Connector,
        claimed: Sequence[AttemptOfJob],
        avoid: Mapping[UUID, tuple[str, ...]] = MappingProxyType({}),
    ) -> int:
        """``avoid``: by job, the machines that are better left to others."""
        if not claimed:
            return 0
        groups = self._db.read(
            lambda conn: {
                group_id: identity.group_by_id(conn, group_id)
                for group_id in {one.job.group_id for one in claimed}
            }
        )
        calls = [
            self._pool.submit(
                self._submit,
                connector,
                one,
                groups[one.job.group_id],
                avoid.get(one.job.id, ())[:_AVOIDED],
            )
            for one in claimed
        ]
        # All of them: a pass that is given up has none of its calls under way any more.
        wait(calls)
        failed: dict[str, ConnectorUnavailable] = {}
        count = 0
        for call, one in zip(calls, claimed, strict=True):
            group = groups[one.job.group_id]
            place = group.name if group else ""
            try:
                count += call.result()
                self._patience.worked(connector.name, Act.FEED, place)
            except ConnectorUnavailable as away:
                failed[place] = away
        for place, fault in failed.items():
            self._patience.failed(connector.name, Act.FEED, fault, place)
        return count

    def _submit(
        self,
        connector: Connector,
        one: AttemptOfJob,
        group: Group | None,
        avoid: tuple[str, ...] = (),
    ) -> int:
        if group is None:
            raise AssertionError(f"job {one.job.id} belongs to no group")
        token = one.attempt.claim_token
        assert token is not None
        points.reach(Point.HAND_OVER_BEFORE_CALL)
        if not _holds(one.attempt, self._clock()):
            # We were paused, or waited long for a thread. By now the attempt may have been
            # taken over, have ended, and be forgotten: a call would run it once more.
            return 0
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
        recorded = attempts.record_submitted(conn, one.attempt.id, token=token, now=now)
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
            return attempts.give_claim_back(conn, one.attempt.id, token=token) and end_attempt(
                conn, one, end, self._pace.half_life_s, now=now
            )

        rejected = self._db.write(write)
        _log.warning(
            "action=reject job=%s reason=%s recorded=%s", one.job.id, why.message, rejected
        )


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
