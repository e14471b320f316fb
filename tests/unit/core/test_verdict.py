"""Attempt + observation + now → what to do."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.verdict import Decision, End, Policy, decide
from bridge.models.attempt import NOT_CHARGED, Attempt, AttemptState, Cause, Observation, Observed
from bridge.models.ids import new_id
from bridge.models.job import MOVES, Job, JobState, Phase

NOW = 10_000.0
POLICY = Policy(node_lost_after_s=600, gone_grace_s=30, stop_again_s=30, call_deadline_s=60)


def job(**changes: Any) -> Job:
    base = Job(
        id=new_id(),
        group_id=new_id(),
        user_id=new_id(),
        user="ada",
        bucket_id=uuid4(),
        image="a:1",
        name="n",
        set=None,
        cores=1,
        memory_mb=100,
        time_limit_s=100,
        priority=50,
        hold=False,
        input_sha256=None,
        labels={},
        oom_retry_mb=0,
        retries=0,
        not_before=None,
        state=JobState.SUBMITTED,
        phase=None,
        reason=None,
        attempt=1,
        created_at=0.0,
        started_at=None,
        ended_at=None,
        exit_code=None,
        cause=None,
        node=None,
        cancel_requested_at=None,
        prune_requested_at=None,
        pruned_at=None,
    )
    return msgspec.structs.replace(base, **changes)


def attempt(**changes: Any) -> Attempt:
    base = Attempt(
        id=new_id(),
        job_id=new_id(),
        number=1,
        connector="local",
        native_id="bridge-x-1",
        namespace="",
        state=AttemptState.SUBMITTED,
        claim_token=None,
        claim_expires_at=None,
        claimed_at=0.0,
        submitted_at=1.0,
        started_at=None,
        ended_at=None,
        node="n1",
        exit_code=None,
        cause=None,
        reason=None,
        stop_cause=None,
        stop_requested_at=None,
        stop_sent_at=None,
        missing_since=None,
        unknown_since=None,
        forgotten_at=None,
    )
    return msgspec.structs.replace(base, **changes)


def ended(cause: Cause | None, **more: Any) -> Observation:
    return Observation(state=Observed.ENDED, cause=cause, **more)


def look(
    one: Attempt, seen: Observation, of: Job | None = None, watched_since: float = 0.0
) -> Decision:
    return decide(of or job(), one, seen, now=NOW, watched_since=watched_since, policy=POLICY)


def end_of(decision: Decision) -> End:
    assert decision.end is not None
    return decision.end


class TestEnded:
    def test_success_is_completed_without_a_reason(self) -> None:
        end = end_of(look(attempt(), ended(None, exit_code=0)))
        assert (end.job, end.cause, end.reason, end.exit_code) == (
            JobState.COMPLETED,
            None,
            None,
            0,
        )

    def test_success_before_the_cancel_took_effect_stays_a_success(self) -> None:
        one = attempt(stop_cause=Cause.CANCELED, stop_requested_at=NOW - 1)
        end = end_of(look(one, ended(None, exit_code=0), job(cancel_requested_at=NOW - 1)))
        assert end.job is JobState.COMPLETED

    def test_exit_code_is_told(self) -> None:
        end = end_of(look(attempt(), ended(Cause.EXIT, exit_code=3)))
        assert (end.job, end.reason, end.exit_code) == (JobState.FAILED, "exit code 3", 3)

    def test_missing_input_has_the_words_of_the_real_service(self) -> None:
        end = end_of(look(attempt(), ended(Cause.INPUT_MISSING)))
        assert (end.job, end.reason) == (JobState.FAILED, "Input files missing")

    @pytest.mark.parametrize("cause", list(Cause))
    def test_asked_to_cancel_ends_canceled_without_a_reason(self, cause: Cause) -> None:
        end = end_of(look(attempt(), ended(cause), job(cancel_requested_at=1.0)))
        assert (end.job, end.reason) == (JobState.CANCELED, None)
        # What was taken from it is not charged, and the cause says so.
        assert end.cause is (cause if cause in NOT_CHARGED else Cause.CANCELED)

    def test_our_own_deadline_is_a_timeout(self) -> None:
        one = attempt(stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 5)
        end = end_of(look(one, ended(Cause.CANCELED, exit_code=137)))
        assert (end.job, end.cause) == (JobState.FAILED, Cause.TIMEOUT)
        assert end.reason == "time limit of 100 s reached"

    @pytest.mark.parametrize("cause", [c for c in Cause if c is not Cause.TIMEOUT])
    def test_after_its_time_only_success_is_no_timeout(self, cause: Cause) -> None:
        """A second attempt would only use up the whole time once more."""
        one = attempt(stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 5)
        end = end_of(look(one, ended(cause)))
        assert (end.job, end.cause) == (JobState.FAILED, Cause.TIMEOUT)
        assert end_of(look(one, ended(None, exit_code=0))).job is JobState.COMPLETED

    def test_results_that_were_not_uploaded_after_the_time_limit_are_said(self) -> None:
        one = attempt(stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 5)
        seen = ended(Cause.STORAGE, reason="The storage refuses the keys")
        assert end_of(look(one, seen)).reason == (
            "time limit of 100 s reached; its results were not uploaded: "
            "The storage refuses the keys"
        )

    def test_stopped_by_somebody_else_is_not_called_canceled(self) -> None:
        end = end_of(look(attempt(), ended(Cause.CANCELED)))
        assert end.job is JobState.FAILED
        assert "not by the bridge" in (end.reason or "")

    def test_withdrawn_gets_another_attempt(self) -> None:
        assert end_of(look(attempt(), ended(Cause.WITHDRAWN))).job is JobState.RECEIVED

    def test_withdrawn_and_canceled_is_canceled(self) -> None:
        end = end_of(look(attempt(), ended(Cause.WITHDRAWN), job(cancel_requested_at=1.0)))
        assert end.job is JobState.CANCELED


class TestClocks:
    """The clock of a node may be wrong; how long something took it knows all the same."""

    @pytest.mark.parametrize(
        ("shown", "stored"), [(8_290.0, 9_000.0), (9_990.0, 9_990.0), (10_690.0, NOW)]
    )
    def test_a_start_lies_between_claim_and_now(self, shown: float, stored: float) -> None:
        seen = Observation(state=Observed.RUNNING, started_at=shown)
        decision = look(attempt(claimed_at=9_000.0), seen)
        assert decision.progress is not None and decision.progress.started_at == stored

    def test_a_node_behind_does_not_use_up_the_time_limit(self) -> None:
        one = attempt(claimed_at=NOW - 5)
        behind = Observation(state=Observed.RUNNING, started_at=NOW - 700)
        assert look(one, behind).stop is None
        stored = attempt(claimed_at=NOW - 105, started_at=NOW - 101, state=AttemptState.RUNNING)
        ahead = Observation(state=Observed.RUNNING, started_at=NOW + 600)
        assert look(stored, ahead).stop is Cause.TIMEOUT

    @pytest.mark.parametrize("skew", [-700.0, 0.0, 700.0])
    def test_what_is_charged_is_how_long_it_ran(self, skew: float) -> None:
        one = attempt(claimed_at=NOW - 100, started_at=NOW - 55)
        seen = ended(None, started_at=NOW - 60 + skew, ended_at=NOW - 10 + skew)
        end = end_of(look(one, seen))
        assert end.started_at is not None
        assert end.ended_at - end.started_at == pytest.approx(50)
        assert NOW - 100 <= end.started_at <= end.ended_at <= NOW

    def test_what_ran_before_a_reboot_counts(self) -> None:
        one = attempt(claimed_at=NOW - 500, started_at=NOW - 400, state=AttemptState.RUNNING)
        seen = ended(Cause.NODE_LOST, started_at=NOW - 12, ended_at=NOW - 10)
        end = end_of(look(one, seen))
        assert (end.started_at, end.ended_at) == (NOW - 400, NOW - 10)


class TestGone:
    GONE = Observation(state=Observed.GONE)

    def test_first_look_only_notes_it(self) -> None:
        decision = look(attempt(), self.GONE)
        assert decision.end is None
        assert decision.progress is not None and decision.progress.missing_since == NOW

    def test_after_the_grace_it_failed_and_is_never_a_success(self) -> None:
        end = end_of(look(attempt(missing_since=NOW - 31), self.GONE))
        assert (end.job, end.cause) == (JobState.FAILED, Cause.INTERNAL)

    def test_what_it_used_until_it_was_last_known_is_told(self) -> None:
        one = attempt(started_at=NOW - 500, missing_since=NOW - 31)
        for of in (job(), job(cancel_requested_at=1.0)):
            end = end_of(look(one, self.GONE, of))
            assert (end.node, end.started_at, end.ended_at) == ("n1", NOW - 500, NOW - 31)

    def test_after_a_pause_the_grace_is_whole_again_and_the_use_ends_where_it_did(self) -> None:
        one = attempt(started_at=NOW - 9000, missing_since=NOW - 8000)
        decision = look(one, self.GONE, watched_since=NOW - 29)
        assert decision.end is None and decision.progress is not None
        assert decision.progress.missing_since == NOW - 8000
        assert end_of(look(one, self.GONE, watched_since=NOW - 30)).ended_at == NOW - 8000

    def test_a_claim_somebody_canceled_waits_for_its_call(self) -> None:
        one = attempt(
            state=AttemptState.CLAIMED, claim_expires_at=NOW - 10, stop_cause=Cause.CANCELED
        )
        canceled = job(cancel_requested_at=NOW - 20)
        assert look(one, self.GONE, canceled) == Decision()
        late = msgspec.structs.replace(one, claim_expires_at=NOW - 61)
        assert end_of(look(late, self.GONE, canceled)).job is JobState.CANCELED


class TestUnknown:
    AWAY = Observation(state=Observed.UNKNOWN, node="n1")

    def test_a_short_absence_changes_no_state(self) -> None:
        decision = look(attempt(unknown_since=NOW - 599), self.AWAY)
        assert decision.end is None and decision.stop is None
        assert decision.progress is not None
        assert decision.progress.job is JobState.SUBMITTED
        assert "out of touch" in (decision.progress.reason or "")

    def test_a_long_one_is_node_lost_and_the_ghost_is_stopped(self) -> None:
        decision = look(attempt(unknown_since=NOW - 600), self.AWAY)
        assert end_of(decision).cause is Cause.NODE_LOST
        assert decision.stop is Cause.NODE_LOST

    def test_cancel_on_an_absent_node_becomes_final_too(self) -> None:
        one = attempt(unknown_since=NOW - 600, stop_cause=Cause.CANCELED)
        assert end_of(look(one, self.AWAY, job(cancel_requested_at=1.0))).job is JobState.CANCELED

    def test_time_out_of_touch_is_not_charged_and_what_was_before_is(self) -> None:
        one = attempt(started_at=NOW - 1000, unknown_since=NOW - 600)
        for of in (job(), job(cancel_requested_at=1.0)):
            end = end_of(look(one, self.AWAY, of))
            assert (end.node, end.started_at, end.ended_at) == ("n1", NOW - 1000, NOW - 600)

    def test_after_a_pause_the_grace_is_whole_again_and_the_use_ends_where_it_did(self) -> None:
        one = attempt(started_at=NOW - 9000, unknown_since=NOW - 8000)
        decision = look(one, self.AWAY, watched_since=NOW - 599)
        assert decision.end is None and decision.stop is None and decision.progress is not None
        assert decision.progress.unknown_since == NOW - 8000
        assert end_of(look(one, self.AWAY, watched_since=NOW - 600)).ended_at == NOW - 8000

    def test_what_was_lost_while_we_watched_counts_from_there(self) -> None:
        decision = look(attempt(unknown_since=NOW - 599), self.AWAY, watched_since=NOW - 8000)
        assert decision.end is None

    def test_results_that_the_scheduler_dropped_are_no_fault_of_the_node(self) -> None:
        dropped = Observation(state=Observed.UNKNOWN, reason="Nomad has dropped how it ended")
        first = look(attempt(), dropped)
        assert first.progress is not None
        assert first.progress.reason == "Nomad has dropped how it ended"
        end = end_of(look(attempt(unknown_since=NOW - 600), dropped))
        assert (end.cause, end.node) == (Cause.INTERNAL, None)
        assert end.reason == "Nomad has dropped how it ended"

    @pytest.mark.parametrize(
        ("started", "phase", "for_good"),
        [
            (NOW - 700, Phase.EXECUTING, True),
            (NOW - 700, None, True),
            (NOW - 100, Phase.EXECUTING, False),
            (NOW - 700, Phase.UPLOADING, False),  # the program had ended in time
            (None, Phase.STAGING, False),
        ],
    )
    def test_lost_beyond_its_time_limit_is_lost_for_good(
        self, started: float | None, phase: Phase | None, for_good: bool
    ) -> None:
        one = attempt(started_at=started, unknown_since=NOW - 650)
        decision = look(one, self.AWAY, job(phase=phase))
        end = end_of(decision)
        assert (end.job, end.cause, end.for_good) == (JobState.FAILED, Cause.NODE_LOST, for_good)
        told = "node n1 out of touch for 650 s"
        if for_good:
            told += "; time limit of 100 s reached, so it is not tried again"
        assert (end.reason, decision.stop) == (told, Cause.NODE_LOST)

    def test_a_start_that_only_the_scheduler_saw_counts_for_the_time_limit(self) -> None:
        away = Observation(state=Observed.UNKNOWN, node="n1", started_at=NOW - 660)
        end = end_of(look(attempt(unknown_since=NOW - 650), away))
        assert (end.for_good, end.started_at, end.ended_at) == (True, NOW - 660, NOW - 650)

    def test_out_of_touch_the_time_limit_stops_nothing(self) -> None:
        """The program may have ended in time, with its results on their way."""
        one = attempt(started_at=NOW - 500, unknown_since=NOW - 450, state=AttemptState.RUNNING)
        assert look(one, self.AWAY).stop is None

    def test_results_that_the_scheduler_dropped_are_tried_again_at_any_time(self) -> None:
        """The program ended, maybe in time: no node went on with it."""
        dropped = Observation(state=Observed.UNKNOWN, reason="Nomad has dropped how it ended")
        one = attempt(started_at=NOW - 9000, unknown_since=NOW - 600)
        assert not end_of(look(one, dropped)).for_good

    def test_stopped_at_its_time_limit_and_lost_then_is_a_timeout(self) -> None:
        one = attempt(
            started_at=NOW - 1000,
            unknown_since=NOW - 600,
            stop_cause=Cause.TIMEOUT,
            stop_requested_at=NOW - 900,
            stop_sent_at=NOW - 900,
        )
        end = end_of(look(one, self.AWAY))
        assert (end.job, end.cause) == (JobState.FAILED, Cause.TIMEOUT)
        assert end.reason == "time limit of 100 s reached"
        end = end_of(look(one, self.AWAY, job(cancel_requested_at=1.0)))
        assert end.job is JobState.CANCELED

    def test_a_node_that_comes_back_clears_the_clock(self) -> None:
        decision = look(attempt(unknown_since=NOW - 300), Observation(state=Observed.RUNNING))
        assert decision.progress is not None and decision.progress.unknown_since is None


class TestAlive:
    def running(self, started: float, phase: Phase = Phase.EXECUTING) -> Observation:
        return Observation(state=Observed.RUNNING, phase=phase, started_at=started, node="n1")

    def test_running_shows_as_running(self) -> None:
        decision = look(attempt(), self.running(NOW - 5))
        assert decision.progress is not None
        assert decision.progress.job is JobState.RUNNING
        assert decision.progress.attempt is AttemptState.RUNNING

    def test_a_running_job_never_falls_back_to_submitted(self) -> None:
        one = attempt(state=AttemptState.RUNNING, started_at=NOW - 5)
        decision = look(one, Observation(state=Observed.PENDING), job(state=JobState.RUNNING))
        assert decision.progress is not None and decision.progress.job is JobState.RUNNING

    def test_over_the_time_limit_is_stopped_once(self) -> None:
        one = attempt(state=AttemptState.RUNNING, started_at=NOW - 101)
        assert look(one, self.running(NOW - 101)).stop is Cause.TIMEOUT
        asked = msgspec.structs.replace(
            one, stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 1, stop_sent_at=NOW - 1
        )
        assert look(asked, self.running(NOW - 101)).stop is None

    def test_a_stop_without_effect_is_asked_again(self) -> None:
        one = attempt(stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 40, stop_sent_at=NOW - 31)
        assert look(one, self.running(NOW - 101)).stop is Cause.TIMEOUT

    def test_uploading_is_not_stopped_by_the_time_limit(self) -> None:
        assert look(attempt(), self.running(NOW - 500, Phase.UPLOADING)).stop is None

    def test_cancel_is_passed_on(self) -> None:
        one = attempt(stop_cause=Cause.CANCELED, stop_requested_at=NOW - 1)
        assert look(one, self.running(NOW - 5), job(cancel_requested_at=1.0)).stop is Cause.CANCELED


class TestGivenUp:
    """The wish to stop what is given up with its node."""

    UNSENT: ClassVar[dict[str, Any]] = {
        "stop_cause": Cause.NODE_LOST,
        "stop_requested_at": NOW - 5,
        "unknown_since": NOW - 605,
    }
    BACK: ClassVar[list[Observation]] = [
        Observation(state=Observed.PENDING),
        Observation(state=Observed.PENDING, node="n1"),
        Observation(state=Observed.RUNNING, node="n1", started_at=NOW - 50),
    ]

    @pytest.mark.parametrize("seen", BACK)
    @pytest.mark.parametrize("cause", [Cause.NODE_LOST, Cause.INTERNAL])
    def test_that_was_never_sent_ends_when_it_is_back(
        self, seen: Observation, cause: Cause
    ) -> None:
        decision = look(attempt(**self.UNSENT | {"stop_cause": cause}), seen)
        assert decision.stop is None and decision.progress is not None
        assert decision.progress.stop_cause is None

    @pytest.mark.parametrize("seen", BACK)
    @pytest.mark.parametrize(
        ("more", "canceled"), [({"stop_sent_at": NOW - 40}, None), ({}, NOW - 1)]
    )
    def test_that_was_sent_or_is_wanted_by_the_user_too_stands(
        self, seen: Observation, more: dict[str, Any], canceled: float | None
    ) -> None:
        one = attempt(**self.UNSENT | {"stop_requested_at": NOW - 50} | more)
        assert look(one, seen, job(cancel_requested_at=canceled)).stop is not None

    def test_of_what_is_beyond_its_time_becomes_one_for_that(self) -> None:
        one = attempt(started_at=NOW - 700, state=AttemptState.RUNNING, **self.UNSENT)
        decision = look(one, Observation(state=Observed.RUNNING, node="n1"))
        assert decision.stop is Cause.TIMEOUT and decision.progress is not None
        assert decision.progress.stop_cause is None

    def test_ends_with_a_pause_too_and_the_grace_is_whole_again(self) -> None:
        away = Observation(state=Observed.UNKNOWN, node="n1")
        decision = look(attempt(**self.UNSENT), away, watched_since=NOW - 60)
        assert decision.stop is None and decision.progress is not None
        assert decision.progress.stop_cause is None

    @staticmethod
    def back(one: Attempt) -> Attempt:
        """As it is stored once it is seen again and its wish has lapsed."""
        progress = look(one, Observation(state=Observed.RUNNING, node="n1")).progress
        assert progress is not None and progress.stop_cause is None
        return msgspec.structs.replace(
            one,
            stop_cause=None,
            unknown_since=None,
            cause=progress.given_up,
            stop_requested_at=progress.stop_requested_at,
        )

    @staticmethod
    def stopped_at(one: Attempt, now: float, of: Job | None = None) -> End:
        """Its end, when the next look is at ``now`` and shows that something stopped it."""
        seen = ended(Cause.CANCELED, node="n1")
        return end_of(decide(of or job(), one, seen, now=now, watched_since=0.0, policy=POLICY))

    @pytest.mark.parametrize(("cause", "node"), [(Cause.NODE_LOST, "n1"), (Cause.INTERNAL, None)])
    def test_whose_call_arrived_though_nothing_was_answered_is_still_ours(
        self, cause: Cause, node: str | None
    ) -> None:
        one = attempt(**self.UNSENT | {"stop_cause": cause})
        for given_up in (one, self.back(one)):
            end = self.stopped_at(given_up, NOW + 90)
            assert (end.job, end.cause, end.for_good) == (JobState.FAILED, cause, False)
            assert end.node == node, "what the scheduler had lost is held against no node"

    def test_of_what_is_beyond_its_time_brings_no_other_attempt(self) -> None:
        one = attempt(**self.UNSENT)
        for given_up in (one, self.back(one)):
            late = msgspec.structs.replace(given_up, started_at=NOW - 700)
            end = self.stopped_at(late, NOW)
            assert (end.cause, end.for_good) == (Cause.NODE_LOST, True)

    def test_is_not_ours_any_more_once_no_call_can_be_under_way(self) -> None:
        back = self.back(attempt(**self.UNSENT))
        end = self.stopped_at(back, NOW + 91)
        assert (end.job, end.cause) == (JobState.FAILED, Cause.CANCELED)
        assert end.reason == "stopped at the scheduler, not by the bridge"

    def test_counts_from_when_it_was_wanted_last(self) -> None:
        """A scheduler may refuse it for hours."""
        back = self.back(attempt(**self.UNSENT | {"stop_requested_at": NOW - 7200}))
        assert self.stopped_at(back, NOW + 90).cause is Cause.NODE_LOST

    def test_is_heard_of_by_what_is_away_when_it_is_back(self) -> None:
        away = Observation(state=Observed.UNKNOWN, node="n1")
        progress = look(attempt(**self.UNSENT), away, watched_since=NOW - 60).progress
        assert progress is not None and progress.given_up is Cause.NODE_LOST
        one = attempt(
            cause=progress.given_up,
            stop_requested_at=NOW - 500,
            unknown_since=progress.unknown_since,
        )
        assert self.stopped_at(one, NOW).cause is Cause.NODE_LOST
        assert self.stopped_at(self.back(one), NOW + 90).cause is Cause.NODE_LOST
        assert self.stopped_at(self.back(one), NOW + 91).cause is Cause.CANCELED

    def test_may_have_stopped_what_uploads_for_long(self) -> None:
        back = self.back(attempt(**self.UNSENT))
        uploading = job(state=JobState.RUNNING, phase=Phase.UPLOADING)
        assert self.stopped_at(back, NOW + 7200, uploading).cause is Cause.NODE_LOST

    def test_is_forgotten_then(self) -> None:
        one = attempt(cause=Cause.NODE_LOST, stop_requested_at=NOW - 91)
        seen = Observation(state=Observed.RUNNING, node="n1", phase=Phase.UPLOADING)
        for of, given_up, asked in (
            (job(), None, None),
            (job(phase=Phase.UPLOADING), Cause.NODE_LOST, NOW - 91),
        ):
            progress = look(one, seen, of).progress
            assert progress is not None
            assert (progress.given_up, progress.stop_requested_at) == (given_up, asked)

    def test_a_later_wish_is_another(self) -> None:
        one = attempt(
            cause=Cause.NODE_LOST, stop_cause=Cause.TIMEOUT, stop_requested_at=NOW - 5, started_at=1
        )
        progress = look(one, Observation(state=Observed.RUNNING, node="n1")).progress
        assert progress is not None and progress.stop_requested_at == NOW - 5
        assert self.stopped_at(one, NOW).cause is Cause.TIMEOUT

    @pytest.mark.parametrize("cause", [None, Cause.EXIT])
    def test_does_not_hide_how_it_ended_by_itself(self, cause: Cause | None) -> None:
        end = end_of(look(attempt(started_at=NOW - 700, **self.UNSENT), ended(cause)))
        assert (end.cause, end.for_good) == (cause, False)


class TestWithdrawn:
    WANTED: ClassVar[dict[str, Any]] = {
        "stop_cause": Cause.WITHDRAWN,
        "stop_requested_at": NOW - 1,
    }

    def test_what_waits_is_taken_back(self) -> None:
        waits = attempt(node=None, **self.WANTED)
        decision = look(waits, Observation(state=Observed.PENDING))
        assert decision.stop is Cause.WITHDRAWN
        assert decision.progress is not None
        assert decision.progress.stop_cause is Cause.WITHDRAWN

    @pytest.mark.parametrize(
        "seen",
        [
            Observation(state=Observed.PENDING, node="n1"),
            Observation(state=Observed.RUNNING, node="n1"),
        ],
    )
    def test_what_has_a_machine_by_now_runs_to_its_end(self, seen: Observation) -> None:
        decision = look(attempt(node=None, **self.WANTED), seen)
        assert decision.stop is None and decision.progress is not None
        assert decision.progress.stop_cause is None
        assert decision.progress.stop_requested_at is None

    def test_what_was_told_to_stop_is_stopped(self) -> None:
        wanted = self.WANTED | {"stop_requested_at": NOW - 50, "stop_sent_at": NOW - 40}
        told = attempt(node=None, **wanted)
        decision = look(told, Observation(state=Observed.RUNNING, node="n1"))
        assert decision.stop is Cause.WITHDRAWN

    def test_what_was_canceled_too_is_stopped(self) -> None:
        decision = look(
            attempt(node=None, **self.WANTED),
            Observation(state=Observed.RUNNING, node="n1"),
            job(cancel_requested_at=1.0),
        )
        assert decision.stop is not None


_times = st.none() | st.floats(min_value=0, max_value=NOW)


@given(
    state=st.sampled_from([JobState.SUBMITTED, JobState.RUNNING]),
    seen=st.builds(
        Observation,
        state=st.sampled_from(Observed),
        phase=st.none() | st.sampled_from(Phase),
        reason=st.none(),
        exit_code=st.none() | st.integers(0, 255),
        cause=st.none() | st.sampled_from(Cause),
        node=st.none(),
        started_at=_times,
        ended_at=_times,
    ),
    canceled=_times,
    stop=st.none()
    | st.sampled_from([Cause.CANCELED, Cause.TIMEOUT, Cause.WITHDRAWN, Cause.NODE_LOST]),
    sent=_times,
    started=_times,
    unknown=_times,
    missing=_times,
    watched_since=st.floats(min_value=0, max_value=NOW),
)
def test_every_verdict_is_a_legal_move(
    state: JobState,
    seen: Observation,
    canceled: float | None,
    stop: Cause | None,
    sent: float | None,
    started: float | None,
    unknown: float | None,
    missing: float | None,
    watched_since: float,
) -> None:
    one = attempt(
        state=AttemptState.RUNNING if state is JobState.RUNNING else AttemptState.SUBMITTED,
        started_at=started,
        stop_cause=stop,
        stop_sent_at=sent if stop else None,
        unknown_since=unknown,
        missing_since=missing,
    )
    of = job(state=state, cancel_requested_at=canceled)
    decision = look(one, seen, of, watched_since)
    target = decision.end.job if decision.end else decision.progress and decision.progress.job
    assert target is None or target == state or target in MOVES[state]
    if decision.end and decision.end.job is JobState.COMPLETED:
        assert seen.state is Observed.ENDED and seen.cause is None
    if decision.end and decision.end.job is JobState.RECEIVED:
        assert canceled is None and not decision.end.for_good
    if decision.progress and seen.state is not Observed.GONE and canceled is None:
        # What nobody was told is not held against an attempt that lives.
        assert decision.stop is not Cause.NODE_LOST or sent is not None
