"""Anything in any order: the life of one job, by what is seen of its attempts.

What schedulers say is arbitrary here; some of it no scheduler would say after what it said
before. Whatever it is, the job makes only legal moves, and a few things must hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bridge.core.reconcile import Absences
from bridge.core.retry import WORTH_ANOTHER, Rules, follow_up
from bridge.core.verdict import Decision, End, Policy, Progress, decide
from bridge.core.write import news_of
from bridge.db.attempts import AttemptOfJob
from bridge.models.attempt import LIVE_ATTEMPT, AttemptState, Cause, Observation, Observed
from bridge.models.job import FINAL, JobState, Phase
from tests.unit.core.model_life import LIMIT_S, Stored

ASLEEP_S: Final = 60
ABSENT: Final = frozenset({Observed.GONE, Observed.UNKNOWN})
GRACE_S: Final = {Observed.GONE: 30, Observed.UNKNOWN: 600}
AGAIN_S: Final = 30  # after which a stop without effect is asked for again
GIVEN_UP: Final = (Cause.NODE_LOST, Cause.INTERNAL)

# Those more often that may mean something else by what we wished.
CAUSES: Final = [None, *Cause, *[Cause.CANCELED, Cause.NODE_LOST, Cause.WITHDRAWN] * 3]

nodes = st.sampled_from([None, "n1"])
# By a clock that may be wrong, against ours.
moments = st.sampled_from([None, -1000.0, -150.0, -20.0, 0.0, 500.0])
looks = st.fixed_dictionaries(
    {
        "wait": st.sampled_from([1.0, 7.0, 20.0, 31.0, 61.0, 101.0, 601.0]),
        "delivered": st.booleans(),
        "cancel": st.sampled_from([False] * 15 + [True]),
    }
)


class Life(Stored, RuleBasedStateMachine):
    """What members, schedulers and time do to a job; ``_look`` is a pass of the reconciler."""

    @initialize(
        retrying=st.builds(Rules, retries=st.integers(0, 2), attempts_at_most=st.integers(1, 4)),
        oom_retry_mb=st.sampled_from([0, 120, 1000]),
        fate=st.sampled_from([*sorted(ABSENT) * 4, *Cause, None]),
        before=st.sampled_from(["nothing", "restored", "given up"]),
    )
    def build(
        self, retrying: Rules, oom_retry_mb: int, fate: Observed | Cause | None, before: str
    ) -> None:
        self.now = 10_000.0
        self.retrying, self.policy, self.fate = retrying, Policy(), fate
        self.oom_retry_mb, self.before = oom_retry_mb, before
        self.absences = Absences(ASLEEP_S)
        self.looks: list[tuple[Observed, float]] = []  # at the live attempt: what, when
        self.store(oom_retry_mb)

    def teardown(self) -> None:
        """Where it goes on as it is fated to, the job ends."""
        if self.before == "restored":
            self.policy = Policy(restored_at=self.now)
        elif self.before == "given up" and self.is_looked_at():
            self.stay_away(Observed.UNKNOWN, delivered=False)
        for _ in range(60 * (self.retrying.attempts_at_most + 1)):
            if self.job.state in FINAL:
                return
            if self.job.state is JobState.RECEIVED:
                self.start(confirmed=True)
            elif self.is_claimed() and self.live.stop_cause is None:
                self.confirm()
            self.now += 20
            if self.is_looked_at():
                self._look(self._fated())
        raise AssertionError(f"stuck: {self.job}, {self.live}")

    def _fated(self) -> Observation:
        if isinstance(self.fate, Observed):
            return Observation(state=self.fate)
        return Observation(state=Observed.ENDED, cause=self.fate)

    # Members, the feeder, and whoever takes back what has no machine

    @rule(confirmed=st.booleans())
    @precondition(lambda self: self.job.state is JobState.RECEIVED)
    def start(self, confirmed: bool) -> None:
        self.claim()
        self.looks = []
        if confirmed:
            self.confirm()

    @rule()
    @precondition(lambda self: self.is_claimed())
    def confirm(self) -> None:
        self.change_attempt(state=AttemptState.SUBMITTED, claim_expires_at=None)

    @rule(wish=st.sampled_from([Cause.CANCELED, Cause.WITHDRAWN, None]))
    @precondition(lambda self: self.is_claimed())
    def run_out(self, wish: Cause | None) -> None:
        """The claim does, without a word of the scheduler."""
        if wish is Cause.CANCELED:
            self.ask_to_cancel()
        elif wish is not None:
            self.request_stop(wish)
        self.now = max(self.now, self.live.claim_expires_at or 0.0)

    @rule()
    @precondition(lambda self: self.is_claimed())
    def reject(self) -> None:
        end = End(job=JobState.FAILED, cause=Cause.REJECTED, reason="no", ended_at=self.now)
        self.record(end)

    @rule()
    @precondition(lambda self: self.job.state in FINAL)
    def go_on(self) -> None:
        if self.job.state is JobState.COMPLETED:
            self.store(self.oom_retry_mb)  # another one: that is never tried again
        else:
            self.retry()

    @rule(what=st.sampled_from(["cancel", "withdraw", "restore"]))
    @precondition(lambda self: self.job.state not in FINAL)
    def meanwhile(self, what: str) -> None:
        if what == "cancel":
            self.ask_to_cancel()
        elif what == "restore":  # from a backup that was made just now
            self.policy = Policy(restored_at=self.now)
        elif self.is_handed_over() and self.live.node is None:
            self.request_stop(Cause.WITHDRAWN)

    # What is seen

    @rule(look=looks, node=nodes)
    @precondition(lambda self: self.is_looked_at())
    def pending(self, look: dict[str, float], node: str | None) -> None:
        self._look(Observation(state=Observed.PENDING, node=node), **look)

    @rule(look=looks, phase=st.sampled_from([None, *Phase]), started=moments)
    @precondition(lambda self: self.is_looked_at())
    def running(self, look: dict[str, float], phase: Phase | None, started: float | None) -> None:
        seen = Observation(
            state=Observed.RUNNING, node="n1", phase=phase, started_at=self._at(started)
        )
        self._look(seen, **look)

    @rule(delivered=st.booleans())
    @precondition(lambda self: self.is_looked_at())
    def hang(self, delivered: bool) -> None:
        seen = Observation(state=Observed.RUNNING, phase=Phase.EXECUTING, started_at=self.now)
        self._look(seen)
        self._look(seen, wait=LIMIT_S + 1, delivered=delivered)

    @rule(
        look=looks,
        state=st.sampled_from(sorted(ABSENT)),
        node=nodes,
        reason=st.sampled_from([None, "dropped"]),
    )
    @precondition(lambda self: self.is_looked_at())
    def absent(
        self,
        look: dict[str, float],
        state: Observed,
        node: str | None,
        reason: str | None,
    ) -> None:
        self._look(Observation(state=state, node=node, reason=reason), **look)

    @rule(state=st.sampled_from(sorted(ABSENT)), delivered=st.booleans())
    @precondition(lambda self: self.is_looked_at())
    def stay_away(self, state: Observed, delivered: bool) -> None:
        until = self.now + GRACE_S[state] + 2 * ASLEEP_S
        while self.is_looked_at() and self.now <= until:
            self._look(Observation(state=state), wait=ASLEEP_S, delivered=delivered)

    @rule(
        look=looks,
        cause=st.sampled_from(CAUSES),
        node=nodes,
        started=moments,
        ended=moments,
    )
    @precondition(lambda self: self.is_looked_at())
    def ended(
        self,
        look: dict[str, float],
        cause: Cause | None,
        node: str | None,
        started: float | None,
        ended: float | None,
    ) -> None:
        seen = Observation(
            state=Observed.ENDED,
            cause=cause,
            node=node,
            started_at=self._at(started),
            ended_at=self._at(ended),
        )
        self._look(seen, **look)

    def _at(self, moment: float | None) -> float | None:
        return None if moment is None else self.now + moment

    def _look(
        self, seen: Observation, wait: float = 0, delivered: float = True, cancel: float = False
    ) -> None:
        """As ``Reconciler`` does it. ``delivered``: a stop that is asked for is confirmed;
        ``cancel``: somebody asks for that between the look and what follows.
        """
        self.now += wait
        self.looks.append((seen.state, self.now))
        decision = decide(
            self.job,
            self.live,
            seen,
            now=self.now,
            watched_since=self.absences.note("c", self.live.id, seen.state, self.now),
            policy=self.policy,
        )
        self._judge(seen, decision)
        end = decision.end
        if end is not None and not end.for_good:
            end = follow_up(self.job, end, now=self.now, rules=self.retrying)
        if end is not None:
            self._judge_end(seen, end)
        news = decision.progress and news_of(AttemptOfJob(self.live, self.job), decision.progress)
        if cancel:
            self.ask_to_cancel()
        if news:
            self.change_attempt(**news.attempt)
            self.move(news.to, **{name: new for name, new in news.job.items() if name != "state"})
        stopped = decision.stop is None or self._stop(decision.stop, bool(delivered))
        if end is not None and stopped:
            self.record(end)
        elif not cancel:
            self._is_to_stop_in_time(seen)

    def _stop(self, cause: Cause, delivered: bool) -> bool:
        self.request_stop(cause)
        if delivered:
            self.change_attempt(stop_sent_at=self.now)
        return delivered

    # What must hold

    def _judge(self, seen: Observation, decision: Decision) -> None:
        """What one look may mean."""
        wish = self.live.stop_cause
        if decision.stop is Cause.TIMEOUT is not wish:
            assert seen.state is Observed.RUNNING and seen.phase is not Phase.UPLOADING
        if seen.state not in ABSENT:
            assert (decision.end is not None) == (seen.state is Observed.ENDED)
        elif decision.end is not None:
            self._was_absent_for_long(seen)
            assert seen.state is Observed.GONE or decision.stop is not None
        if decision.progress is not None:
            self._judge_progress(seen, decision.progress)
            if wish in (Cause.CANCELED, Cause.TIMEOUT) or self.job.cancel_requested_at is not None:
                sent = self.live.stop_sent_at
                soon = sent is not None and self.now - sent < AGAIN_S
                assert soon or seen.state is Observed.GONE or decision.stop is not None
            elif self.live.stop_sent_at is None and seen.state is Observed.RUNNING:
                assert decision.stop in (None, Cause.TIMEOUT), "it runs: nobody takes it back"

    def _judge_progress(self, seen: Observation, progress: Progress) -> None:
        before = self.live
        if seen.state in ABSENT:
            assert (progress.job, progress.attempt) == (self.job.state, before.state)
        if before.state is AttemptState.RUNNING:
            assert progress.attempt is AttemptState.RUNNING
        if before.started_at is not None:
            assert progress.started_at == before.started_at
        if before.stop_sent_at is not None or before.stop_cause in (Cause.CANCELED, Cause.TIMEOUT):
            assert progress.stop_cause is before.stop_cause, "a wish was lost"

    def _was_absent_for_long(self, seen: Observation) -> None:
        if self.is_claimed() and seen.state is Observed.GONE:
            expires_at = self.live.claim_expires_at or 0.0
            assert self.now >= expires_at + self.policy.call_deadline_s, "it may yet be handed over"
            return
        # While a claim's call may be under way, "gone" says nothing.
        alike = ABSENT if self.is_claimed() else {seen.state}
        absent = list(itertools.takewhile(lambda one: one[0] in alike, self.looks[::-1]))
        assert self.now - absent[-1][1] >= GRACE_S[seen.state]
        *usual, last = _gaps([at for _, at in self.looks])
        assert last <= ASLEEP_S or max(usual, default=0) * 3 >= last, "it may be back"

    def _judge_end(self, seen: Observation, end: End) -> None:
        again, wish = end.job is JobState.RECEIVED, self.live.stop_cause
        assert end.started_at is None or self.live.claimed_at <= end.started_at
        assert (end.started_at or self.live.claimed_at) <= end.ended_at <= self.now
        success = seen.state is Observed.ENDED and seen.cause is None
        assert (end.job is JobState.COMPLETED) == success == (end.cause is None)
        if self.job.cancel_requested_at is not None:
            assert end.job is (JobState.COMPLETED if success else JobState.CANCELED)
        elif wish in GIVEN_UP and seen.cause is Cause.CANCELED:
            assert end.cause is wish, "nobody else has stopped it"
        assert not (again and wish is Cause.TIMEOUT), "its time is over"
        if seen.cause is Cause.EXIT and wish is not Cause.WITHDRAWN:
            assert not again, "it failed by itself"
        started_at = self.live.started_at
        if seen.state is Observed.UNKNOWN and end.cause is Cause.NODE_LOST and started_at:
            overdue = self.now - started_at > LIMIT_S
            assert not (again and overdue and self.job.phase is not Phase.UPLOADING)
        if again:
            self._may_be_tried_again(seen, end)

    def _may_be_tried_again(self, seen: Observation, end: End) -> None:
        restored_at = self.policy.restored_at or 0.0
        assert seen.state is not Observed.GONE or self.live.claimed_at >= restored_at
        assert seen.cause is not Cause.WITHDRAWN or self.job.created_at >= restored_at
        assert self.job.attempt - self.job.attempts_before < self.retrying.attempts_at_most
        if end.cause in WORTH_ANOTHER:
            assert end.retried and self.job.retries < self.retrying.retries
            assert (end.not_before or 0.0) >= self.now + self.retrying.delay_s
        elif end.cause is Cause.OOM:
            assert self.job.memory_mb < (end.memory_mb or 0) <= self.job.oom_retry_mb
        else:
            assert end.cause in (Cause.WITHDRAWN, Cause.DRAINED)

    def _is_to_stop_in_time(self, seen: Observation) -> None:
        if seen.state is Observed.RUNNING and seen.phase is not Phase.UPLOADING:
            started_at = self.live.started_at
            overdue = started_at is not None and self.now - started_at > LIMIT_S
            assert not overdue or self.live.stop_cause is not None

    @invariant()
    def job_and_attempts_agree(self) -> None:
        assert self.job.attempt == len(self.attempts)
        assert self.job.attempt - self.job.attempts_before <= self.retrying.attempts_at_most
        living = [one for one in self.attempts if one.state in LIVE_ATTEMPT]
        assert living == (self.attempts[-1:] if self.is_handed_over() else [])
        if self.job.state is JobState.RUNNING:
            assert self.live.state is AttemptState.RUNNING
        if self.job.state is JobState.RECEIVED:
            assert self.job.cancel_requested_at is None, "a cancel was lost"


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - before for before, later in itertools.pairwise(times)]


def test_the_life_of_a_job() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=800,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
