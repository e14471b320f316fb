"""Brings what schedulers show into the database, and our wishes to the schedulers.

Connectors are called outside any transaction. A scheduler that cannot be asked
changes nothing: the pass for it is given up and tried again after its delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from bridge import log
from bridge.connectors.base import Connector
from bridge.core.retry import Rules, follow_up
from bridge.core.verdict import Decision, Policy, decide
from bridge.core.write import end_attempt, news_of, record_progress
from bridge.db import attempts
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection, Database
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import LIVE_ATTEMPT, Handle

_log = log.get(__name__)

_BATCH: Final = 200


class Reconciler:
    """``step`` looks at every live attempt once; ``sweep`` finds what should not be."""

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        *,
        policy: Policy,
        rules: Rules = Rules(),  # noqa: B008 (frozen)
        half_life_s: float = 7 * 86400,
        forget_after_s: float = 600,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._policy = policy
        self._rules = rules
        self._half_life_s = half_life_s
        # A stopped job at the scheduler still refuses a late create-only submit.
        self._forget_after_s = forget_after_s
        self._clock = clock
        self._not_before: dict[str, float] = {}
        self.away: dict[str, str] = {}  # connector → why it cannot be asked, for readyz

    def step(self) -> int:
        """Look at every live attempt; returns how many ended."""
        return sum(self._guarded(c, self._look_at_all) for c in self._connectors.values())

    def sweep(self) -> int:
        """Stop what lives at a scheduler though its attempt has ended; returns how many."""
        return sum(self._guarded(c, self._stop_strays) for c in self._connectors.values())

    def forget(self) -> int:
        """Have schedulers forget attempts that ended long enough ago; returns how many."""
        return sum(self._guarded(c, self._forget_some) for c in self._connectors.values())

    def _guarded(self, connector: Connector, act: Callable[[Connector], int]) -> int:
        if self._clock() < self._not_before.get(connector.name, 0.0):
            return 0
        try:
            done = act(connector)
        except ConnectorUnavailable as exc:
            self._not_before[connector.name] = self._clock() + exc.retry_after
            self.away[connector.name] = exc.message
            _log.warning("action=reconcile connector=%s away=%s", connector.name, exc.message)
            return 0
        self.away.pop(connector.name, None)
        return done

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
        seen = connector.poll(handles.values())
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
        self._db.write(lambda conn: attempts.request_stop(conn, one.job.id, cause=cause, now=now))
        connector.cancel(_handle(one))
        self._db.write(
            lambda conn: attempts.change(
                conn, one.attempt.id, frm=LIVE_ATTEMPT, stop_sent_at=self._clock()
            )
        )
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
            return sum(end_attempt(conn, one, end, self._half_life_s) for one, end in ends)

        ended = self._db.write(write)
        for one, end in ends:
            _log.info(
                "action=end job=%s attempt=%d state=%s cause=%s",
                one.job.id,
                one.attempt.number,
                end.job,
                end.cause,
            )
        return ended

    def _stop_strays(self, connector: Connector) -> int:
        namespaces = self._db.read(lambda conn: attempts.namespaces(conn, connector.name))
        alive = connector.sweep(namespaces)
        by_id = {handle.native_id: handle for handle in alive}
        ours = self._db.read(lambda conn: attempts.unfinished(conn, list(by_id)))
        strays = [handle for native_id, handle in by_id.items() if native_id not in ours]
        for handle in strays:
            _log.warning("action=stop-stray native_id=%s", handle.native_id)
            connector.cancel(handle)
        return len(strays)

    def _forget_some(self, connector: Connector) -> int:
        before = self._clock() - self._forget_after_s
        due = self._db.read(
            lambda conn: attempts.to_forget(conn, connector.name, before=before, limit=_BATCH)
        )
        done: list[UUID] = []
        try:
            for attempt_id, handle in due:
                connector.forget(handle)
                done.append(attempt_id)
        finally:
            if done:
                now = self._clock()
                self._db.write(lambda conn: attempts.record_forgotten(conn, done, now=now))
        return len(done)


def _handle(one: AttemptOfJob) -> Handle:
    return Handle(one.attempt.native_id, one.attempt.namespace)
