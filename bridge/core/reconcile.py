"""Brings what schedulers show into the database, and our wishes to the schedulers.

Connectors are called outside any transaction. A scheduler that cannot be asked
changes nothing: it is asked again after its delay. What it refuses in one namespace
is left alone there, and looked after everywhere else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from bridge import log, points
from bridge.connectors.base import Connector, Watch
from bridge.core.forget import Forgetter
from bridge.core.patience import Act, Patience
from bridge.core.retry import Rules, follow_up
from bridge.core.sweep import Sweeper
from bridge.core.verdict import Decision, Policy, decide
from bridge.core.write import count_on_nodes, end_attempt, news_of, record_progress
from bridge.db import attempts
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection, Transactions
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import LIVE_ATTEMPT, Cause, Handle, Observation, Observed
from bridge.models.job import JobState
from bridge.points import Point

_log = log.get(__name__)

_BATCH: Final = 200
# So that what happened right after a look is recorded within the interval, too.
_EARLY: Final = 0.9
# So long without a look, and so many looks left out, and we were asleep, or could not ask.
_ASLEEP_S: Final = 60.0
_ASLEEP_LOOKS: Final = 3
_ABSENT: Final = frozenset({Observed.UNKNOWN, Observed.GONE})


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


class _Absence(msgspec.Struct, frozen=True):
    since: float
    looked_at: float
    pace_s: float = 0.0  # between two looks
    paused: bool = False  # before the last one


class Absences:
    """Since when attempts were absent at every look, without a pause between two of them.

    A pause is a gap that is longer than ``asleep_s`` and than a few times the usual one: where
    looks are rare, or take long, one after another, that is the pace, and not a pause each time.
    """

    def __init__(self, asleep_s: float) -> None:
        self._asleep_s = asleep_s
        self._known: dict[str, dict[UUID, _Absence]] = {}

    def note(self, connector: str, attempt_id: UUID, seen: Observed, now: float) -> float:
        """One look at one attempt; returns since when it was watched without a pause, as far
        as its absence is concerned.
        """
        known = self._known.setdefault(connector, {})
        before = known.pop(attempt_id, None)
        if seen not in _ABSENT:
            return now
        known[attempt_id] = after = self._go_on(before, now)
        return after.since

    def keep(self, connector: str, live: Collection[UUID]) -> None:
        """Forget all attempts of a connector but these."""
        known = self._known.get(connector, {})
        self._known[connector] = {one: known[one] for one in known.keys() & live}

    def _go_on(self, before: _Absence | None, now: float) -> _Absence:
        if before is None:
            return _Absence(now, now)
        gap_s = now - before.looked_at
        paused = gap_s > max(self._asleep_s, _ASLEEP_LOOKS * before.pace_s)
        usual = not paused or before.paused
        pace_s = gap_s if usual else before.pace_s
        return _Absence(now if paused else before.since, now, pace_s, paused)


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
        look_every_s: float = 0.2,
        full_look_every_s: float = 10,
        asleep_s: float = _ASLEEP_S,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._policy = policy
        self._rules = rules
        self._half_life_s = half_life_s
        self._full_look_every_s = full_look_every_s
        self._absences = Absences(
            max(asleep_s, _ASLEEP_LOOKS * look_every_s, _ASLEEP_LOOKS * full_look_every_s)
        )
        self._patience = patience or Patience(ticks)
        self._clock = clock
        self._ticks = ticks
        self._hints = Hints()
        self._next_full_look: dict[str, float] = {}
        self._sweeper = Sweeper(
            db, connectors, patience=self._patience, half_life_s=half_life_s, clock=clock
        )
        # A stopped job at the scheduler still refuses a late create-only submit.
        clocks = {"clock": clock, "ticks": ticks}
        self._forgetter = Forgetter(
            db, connectors, patience=self._patience, after_s=forget_after_s, **clocks
        )

    def step(self) -> int:
        """Look at live attempts; returns how many ended.

        All of them; where the connector tells of changes, only those it told of,
        and all every ``full_look_every_s``, because hints may be lost.
        """
        return sum(self._look(connector) for connector in self._connectors.values())

    def hint(self, connector: str, native_id: str | None) -> None:
        """An attempt has changed at its scheduler; None: any of them may have."""
        self._hints.add(connector, native_id)

    def namespaces(self, connector: str) -> set[str]:
        """Where attempts of ours are, or will be, at a connector."""
        return self._sweeper.namespaces(connector)

    def sweep(self) -> int:
        """Stop what lives at a scheduler though its attempt has ended; returns how many."""
        return self._sweeper.sweep()

    def forget(self) -> int:
        """Have schedulers forget attempts that ended long enough ago; returns how many."""
        return self._forgetter.forget()

    def _look(self, connector: Connector) -> int:
        name = connector.name
        if self._patience.waits(name, Act.LOOK):
            return 0
        if not isinstance(connector, Watch):
            return self._look_at_all(connector)
        now, hinted = self._ticks(), self._hints.take(name)
        if hinted is None or now >= self._next_full_look.get(name, now):
            ended = self._look_at_all(connector)
            if not self._patience.waits(name, Act.LOOK):
                self._next_full_look[name] = now + _EARLY * self._full_look_every_s
            return ended
        due = self._db.read(
            lambda conn: attempts.due(conn, name, hinted, now=self._clock(), limit=_BATCH)
        )
        if len(due) == _BATCH:
            self._hints.add(name, None)  # the rest
        return self._look_at(connector, due)

    def _look_at_all(self, connector: Connector) -> int:
        ended = 0
        after: UUID | None = None
        live: set[UUID] = set()
        while True:
            batch = self._batch(connector, after)
            live.update(one.attempt.id for one in batch)
            ended += self._look_at(connector, batch)
            if len(batch) < _BATCH:
                self._absences.keep(connector.name, live)
                return ended
            after = batch[-1].attempt.id

    def _batch(self, connector: Connector, after: UUID | None) -> list[AttemptOfJob]:
        now = self._clock()
        return self._db.read(
            lambda conn: attempts.live(conn, connector.name, now=now, after=after, limit=_BATCH)
        )

    def _look_at(self, connector: Connector, batch: Sequence[AttemptOfJob]) -> int:
        by_place: dict[str, list[AttemptOfJob]] = {}
        for one in batch:
            by_place.setdefault(one.attempt.namespace, []).append(one)
        return sum(
            self._look_in(connector, place, some)
            for place, some in by_place.items()
            if not self._patience.waits(connector.name, Act.LOOK, place)
        )

    def _look_in(self, connector: Connector, place: str, batch: Sequence[AttemptOfJob]) -> int:
        handles = {one.attempt.id: _handle(one) for one in batch}
        points.reach(Point.OBSERVE_READ)
        # Before the question: should we be paused with the answer, it gets no older by that.
        now = self._clock()
        try:
            seen = connector.poll(handles.values())
        except ConnectorUnavailable as away:
            self._patience.failed(connector.name, Act.LOOK, away, place)
            if not away.narrow:
                self._hints.add(connector.name, None)  # what was told is not lost with this pass
            return 0
        self._patience.worked(connector.name, Act.LOOK, place)
        points.reach(Point.OBSERVE_POLLED)
        decisions = [
            (one, self._judge(one, seen[handle], now))
            for one in batch
            if (handle := handles[one.attempt.id]) in seen
        ]
        return self._act_on(connector, decisions)

    def _judge(self, one: AttemptOfJob, seen: Observation, now: float) -> Decision:
        attempt = one.attempt
        watched_since = self._absences.note(attempt.connector, attempt.id, seen.state, now)
        return decide(
            one.job,
            attempt,
            seen,
            now=now,
            watched_since=watched_since,
            policy=self._policy,
        )

    def _act_on(
        self, connector: Connector, decisions: Sequence[tuple[AttemptOfJob, Decision]]
    ) -> int:
        """First what needs nobody else; an end that needs a stop comes after that call."""
        plain = [one for one in decisions if not (one[1].stop and one[1].end)]
        ended = self._apply(plain)
        stopped = [
            (one, decision)
            for one, decision in decisions
            if decision.stop is not None and self._stop(connector, one, decision.stop)
        ]
        return ended + self._apply([one for one in stopped if one[1].end])

    def _stop(self, connector: Connector, one: AttemptOfJob, cause: Cause) -> bool:
        """Ask for a stop; False when that could not be done.

        The wish is recorded before the call, so that a crash between cannot lose it.
        """
        handle = _handle(one)
        key = (handle.namespace, handle.native_id)
        if self._patience.waits(connector.name, Act.STOP, *key):
            return False
        now = self._clock()
        self._db.write(
            lambda conn: attempts.request_stop(
                conn, one.job.id, number=one.attempt.number, cause=cause, now=now
            )
        )
        points.reach(Point.STOP_COMMITTED)
        # Were we paused, another may lead, and have seen that it need not be stopped.
        if not self._db.write(
            lambda conn: attempts.is_to_stop(conn, one.attempt.id), lasting=False
        ):
            return False
        try:
            connector.cancel(handle)
        except ConnectorUnavailable as away:
            self._patience.failed(connector.name, Act.STOP, away, *key)
            return False
        self._patience.worked(connector.name, Act.STOP, handle.namespace)
        points.reach(Point.STOP_CALLED)
        self._db.write(
            lambda conn: attempts.change(
                conn, one.attempt.id, frm=LIVE_ATTEMPT, stop_sent_at=self._clock()
            )
        )
        points.reach(Point.STOP_SENT)
        _log.info("action=stop job=%s attempt=%d cause=%s", one.job.id, one.attempt.number, cause)
        return True

    def _apply(self, decisions: Sequence[tuple[AttemptOfJob, Decision]]) -> int:
        now = self._clock()
        ends = [
            (one, end if end.for_good else follow_up(one.job, end, now=now, rules=self._rules))
            for one, decision in decisions
            if (end := decision.end)
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


def _handle(one: AttemptOfJob) -> Handle:
    return Handle(one.attempt.native_id, one.attempt.namespace)
