"""Brings what schedulers show into the database, and our wishes to the schedulers.

Connectors are called outside any transaction. A scheduler that cannot be asked
changes nothing: the pass for it is given up and tried again after its delay.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from bridge import log, points
from bridge.connectors.base import Connector, Watch
from bridge.core.retry import Rules, follow_up
from bridge.core.verdict import Decision, End, Policy, decide
from bridge.core.write import count_on_nodes, end_attempt, news_of, record_progress
from bridge.db import attempts, identity, instance
from bridge.db import jobs as jobs_db
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection, Transactions
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import LIVE_ATTEMPT, Cause, Handle
from bridge.models.job import FINAL, JobState
from bridge.points import Point

_log = log.get(__name__)

_BATCH: Final = 200
# So that what happened right after a look is recorded within the interval, too.
_EARLY: Final = 0.9


class Hints:
    """Which attempts changed, as told by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._native_ids: dict[str, set[str]] = {}
        self._all: set[str] = set()

    def add(self, connector: str, native_id: str | None) -> None:
        """One attempt changed; None: any of them may have."""
        with self._lock:
            if native_id is None:
                self._all.add(connector)
            else:
                self._native_ids.setdefault(connector, set()).add(native_id)

    def take(self, connector: str) -> set[str] | None:
        """What was told since the last time; None: any of them may have changed."""
        with self._lock:
            told = self._native_ids.pop(connector, set())
            if connector in self._all:
                self._all.discard(connector)
                return None
            return told


class Reconciler:
    """``step`` looks at every live attempt once; ``sweep`` finds what should not be."""

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        policy: Policy,
        rules: Rules = Rules(),  # noqa: B008 (frozen)
        half_life_s: float = 7 * 86400,
        forget_after_s: float = 600,
        full_look_every_s: float = 10,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._policy = policy
        self._rules = rules
        self._half_life_s = half_life_s
        # A stopped job at the scheduler still refuses a late create-only submit.
        self._forget_after_s = forget_after_s
        self._full_look_every_s = full_look_every_s
        self._clock = clock
        self._hints = Hints()
        self._next_full_look: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._swept = False
        self.away: dict[str, str] = {}  # connector → why it cannot be asked, for readyz

    def step(self) -> int:
        """Look at live attempts; returns how many ended.

        All of them; where the connector tells of changes, only those it told of,
        and all every ``full_look_every_s``, because hints may be lost.
        """
        return sum(self._guarded(c, self._look) or 0 for c in self._connectors.values())

    def hint(self, connector: str, native_id: str | None) -> None:
        """An attempt has changed at its scheduler; None: any of them may have."""
        self._hints.add(connector, native_id)

    def namespaces(self, connector: str) -> set[str]:
        """Where attempts of ours are, or will be, at a connector."""

        def read(conn: Connection) -> set[str]:
            groups = identity.list_groups(conn)
            future = {group.namespace for group in groups if group.connector == connector}
            return future | attempts.namespaces(conn, connector)

        return self._db.read(read)

    def sweep(self) -> int:
        """Stop what lives at a scheduler though its attempt has ended; returns how many."""
        done = [self._guarded(c, self._stop_strays) for c in self._connectors.values()]
        if not self._swept and None not in done:
            self._db.write(lambda conn: instance.record_sweep(conn, now=self._clock()))
            self._swept = True
        return sum(count or 0 for count in done)

    def forget(self) -> int:
        """Have schedulers forget attempts that ended long enough ago; returns how many."""
        return sum(self._guarded(c, self._forget_some) or 0 for c in self._connectors.values())

    def _guarded(self, connector: Connector, act: Callable[[Connector], int]) -> int | None:
        """What ``act`` returns; None when the connector cannot be asked."""
        if self._clock() < self._not_before.get(connector.name, 0.0):
            return None
        try:
            done = act(connector)
        except ConnectorUnavailable as exc:
            self._not_before[connector.name] = self._clock() + exc.retry_after
            self.away[connector.name] = exc.message
            self._hints.add(connector.name, None)  # what was told is not lost with this pass
            _log.warning("action=reconcile connector=%s away=%s", connector.name, exc.message)
            return None
        self.away.pop(connector.name, None)
        return done

    def _look(self, connector: Connector) -> int:
        if not isinstance(connector, Watch):
            return self._look_at_all(connector)
        now = self._clock()
        hinted = self._hints.take(connector.name)
        if hinted is None or now >= self._next_full_look.get(connector.name, 0.0):
            ended = self._look_at_all(connector)
            self._next_full_look[connector.name] = now + _EARLY * self._full_look_every_s
            return ended
        due = self._db.read(
            lambda conn: attempts.due(conn, connector.name, hinted, now=now, limit=_BATCH)
        )
        if len(due) == _BATCH:
            self._hints.add(connector.name, None)  # the rest
        return self._look_at(connector, due)

    def _look_at_all(self, connector: Connector) -> int:
        ended = 0
        after: UUID | None = None
        while True:
            batch = self._batch(connector, after)
            ended += self._look_at(connector, batch)
            if len(batch) < _BATCH:
                return ended
            after = batch[-1].attempt.id

    def _batch(self, connector: Connector, after: UUID | None) -> list[AttemptOfJob]:
        now = self._clock()
        return self._db.read(
            lambda conn: attempts.live(conn, connector.name, now=now, after=after, limit=_BATCH)
        )

    def _look_at(self, connector: Connector, batch: Sequence[AttemptOfJob]) -> int:
        if not batch:
            return 0
        handles = {one.attempt.id: _handle(one) for one in batch}
        points.reach(Point.OBSERVE_READ)
        seen = connector.poll(handles.values())
        points.reach(Point.OBSERVE_POLLED)
        now = self._clock()
        decisions = [
            (one, decide(one.job, one.attempt, seen[handle], now=now, policy=self._policy))
            for one in batch
            if (handle := handles[one.attempt.id]) in seen
        ]
        for one, decision in decisions:
            if decision.stop is not None:
                self._stop(connector, one, decision)
        return self._apply(decisions)

    def _stop(self, connector: Connector, one: AttemptOfJob, decision: Decision) -> None:
        """Record the wish before the call, so that a crash between cannot lose it."""
        now = self._clock()
        cause = decision.stop
        assert cause is not None
        self._db.write(
            lambda conn: attempts.request_stop(
                conn, one.job.id, number=one.attempt.number, cause=cause, now=now
            )
        )
        points.reach(Point.STOP_COMMITTED)
        connector.cancel(_handle(one))
        points.reach(Point.STOP_CALLED)
        self._db.write(
            lambda conn: attempts.change(
                conn, one.attempt.id, frm=LIVE_ATTEMPT, stop_sent_at=self._clock()
            )
        )
        points.reach(Point.STOP_SENT)
        _log.info("action=stop job=%s attempt=%d cause=%s", one.job.id, one.attempt.number, cause)

    def _apply(self, decisions: Sequence[tuple[AttemptOfJob, Decision]]) -> int:
        now = self._clock()
        ends = [
            (one, follow_up(one.job, decision.end, now=now, rules=self._rules))
            for one, decision in decisions
            if decision.end
        ]
        progress = [
            (one, news)
            for one, decision in decisions
            if decision.progress and (news := news_of(one, decision.progress))
        ]
        if not ends and not progress:
            return 0

        def write(conn: Connection) -> int:
            for one, news in progress:
                record_progress(conn, one, news)
            ended = [
                (one, end)
                for one, end in ends
                if end_attempt(conn, one, end, self._half_life_s, now=now)
            ]
            count_on_nodes(conn, ended)
            points.reach(Point.OBSERVE_BEFORE_COMMIT)
            return len(ended)

        ended = self._db.write(write)
        points.reach(Point.OBSERVE_COMMITTED)
        for one, end in ends:
            _log.info(
                "action=%s job=%s attempt=%d state=%s cause=%s",
                "retry" if end.job is JobState.RECEIVED else "end",
                one.job.id,
                one.attempt.number,
                end.job,
                end.cause,
            )
        return ended

    def _stop_strays(self, connector: Connector) -> int:
        alive = connector.sweep(self.namespaces(connector.name))
        points.reach(Point.SWEEP_LISTED)
        by_id = {handle.native_id: handle for handle in alive}
        ours = self._db.read(lambda conn: attempts.unfinished(conn, list(by_id)))
        # The latest of a job first: the others are none to go on with.
        unknown = sorted(by_id.keys() - ours, key=lambda one: _named(one)[1], reverse=True)
        strays = [by_id[one] for one in unknown if not self._goes_on(one)]
        for handle in strays:
            _log.warning("action=stop-stray native_id=%s", handle.native_id)
            connector.cancel(handle)
            points.reach(Point.STRAY_STOPPED)
        return len(strays)

    def _goes_on(self, native_id: str) -> bool:
        """Whether this is an attempt that was made after the backup from which the database
        comes, of a job that has not ended: then its job goes on with it. The next
        hand-over has its name, and therefore finds it.
        """
        job_id, number = _named(native_id)
        now = self._clock()

        def write(conn: Connection) -> bool:
            job = jobs_db.get(conn, job_id)
            if job is None or job.state in FINAL or job.attempt >= number:
                return False
            for one in attempts.of_job(conn, job_id):
                if one.state in LIVE_ATTEMPT:
                    end = End(
                        job=JobState.RECEIVED,
                        cause=Cause.WITHDRAWN,
                        reason="a later attempt is under way since before the restore",
                        ended_at=now,
                    )
                    end_attempt(conn, AttemptOfJob(one, job), end, self._half_life_s, now=now)
            return jobs_db.touch(conn, job_id, state={JobState.RECEIVED}, attempt=number - 1)

        return self._db.write(write)

    def _forget_some(self, connector: Connector) -> int:
        before = self._clock() - self._forget_after_s
        due = self._db.read(
            lambda conn: attempts.to_forget(conn, connector.name, before=before, limit=_BATCH)
        )
        done: list[UUID] = []
        try:
            for attempt_id, handle in due:
                points.reach(Point.FORGET_BEFORE_CALL)
                connector.forget(handle)
                points.reach(Point.FORGET_CALLED)
                done.append(attempt_id)
        finally:
            if done:
                now = self._clock()
                self._db.write(lambda conn: attempts.record_forgotten(conn, done, now=now))
                points.reach(Point.FORGET_COMMITTED)
        return len(done)


def _handle(one: AttemptOfJob) -> Handle:
    return Handle(one.attempt.native_id, one.attempt.namespace)


def _named(native_id: str) -> tuple[UUID, int]:
    """The job and the number of an attempt, from its name; number 0 if it is none of ours."""
    *_, job, number = native_id.split("-")
    try:
        return UUID(job), int(number)
    except ValueError:
        return UUID(int=0), 0
