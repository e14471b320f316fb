"""Cancel, while something else happens to the job."""

from __future__ import annotations

import threading
import time

import pytest

from bridge import points
from bridge.db import usage
from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import AttemptSpec, Cause, Handle, Observed
from bridge.models.job import Job, JobState, Phase
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import (
    CALL_S,
    CLAIM_S,
    Begin,
    arrive,
    attempts_of,
    running,
)
from tests.support.interleave import at, killed_at


class TestCancelWhileTheCallIsInFlight:
    @pytest.mark.parametrize("point", [Point.HAND_OVER_BEFORE_CALL, Point.HAND_OVER_CALLED])
    def test_is_an_intent_until_the_scheduler_shows_the_end(
        self, house: House, point: Point
    ) -> None:
        job = house.submit()
        with at(point, lambda: house.jobs.cancel(house.ada, job.id)):
            house.feeder.step()
        assert house.job(job).state is JobState.SUBMITTED
        house.reconciler.step()
        assert [handle.native_id[-2:] for handle in house.scheduler.cancels] == ["-1"]
        assert house.job(job).state is JobState.SUBMITTED
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.reconciler.step()
        assert house.job(job).state is JobState.CANCELED

    def test_a_job_chosen_but_not_claimed_is_never_handed_over(self, house: House) -> None:
        job = house.submit()
        with at(Point.CLAIM_CHOSEN, lambda: house.jobs.cancel(house.ada, job.id)):
            assert house.feeder.step() == 0
        assert house.job(job).state is JobState.CANCELED
        assert (attempts_of(house, job), house.scheduler.submits) == ([], [])

    def test_a_call_that_arrived_before_we_died_is_found_and_stopped(self, house: House) -> None:
        job = house.submit()
        with killed_at(Point.HAND_OVER_CALLED):
            house.feeder.step()
        house.jobs.cancel(house.ada, job.id)
        house.step()
        assert house.scheduler.cancels == []  # the claim stands: its call may be under way
        house.pass_time(CLAIM_S + 1)
        house.step()
        assert len(house.scheduler.cancels) == 1
        assert house.job(job).state is JobState.SUBMITTED
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        assert house.job(job).state is JobState.CANCELED
        assert len(house.scheduler.submits) == 1

    def test_a_call_that_is_late_is_waited_for(self, house: House) -> None:
        job = house.submit()
        with killed_at(Point.HAND_OVER_BEFORE_CALL):
            house.feeder.step()
        house.jobs.cancel(house.ada, job.id)
        house.pass_time(CLAIM_S + CALL_S - 1)
        house.step()
        assert house.job(job).state is JobState.SUBMITTED
        arrive(house, job)
        house.step()
        assert len(house.scheduler.cancels) == 1
        house.pass_time(CALL_S)
        house.step()
        assert house.job(job).state is JobState.SUBMITTED  # it lives: not final
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        assert house.job(job).state is JobState.CANCELED

    def test_one_that_is_even_later_is_stopped_by_the_sweep(self, house: House) -> None:
        job = house.submit()
        with killed_at(Point.HAND_OVER_BEFORE_CALL):
            house.feeder.step()
        house.jobs.cancel(house.ada, job.id)
        house.pass_time(CLAIM_S + CALL_S + 1)
        house.step()
        assert house.job(job).state is JobState.CANCELED
        arrive(house, job)
        assert house.reconciler.sweep() == 1
        assert len(house.scheduler.cancels) == 1
        assert house.job(job).state is JobState.CANCELED


class TestCancelWhileTheSchedulerRejects:
    @pytest.fixture
    def job(self, house: House) -> Job:
        def reject(spec: AttemptSpec) -> None:
            raise JobRejected("too large")

        house.scheduler.before_submit = reject
        return house.submit()

    def test_it_is_canceled(self, house: House, job: Job) -> None:
        with at(Point.REJECT_BEFORE_COMMIT, lambda: house.jobs.cancel(house.ada, job.id)):
            house.feeder.step()
        self._is_canceled(house, job)

    def test_a_cancel_under_way_comes_first(self, house: House, job: Job) -> None:
        canceler = threading.Thread(target=lambda: house.jobs.cancel(house.ada, job.id))
        halfway = threading.Event()

        def hook(here: Point) -> None:
            if here is Point.REJECT_BEFORE_COMMIT:
                canceler.start()
                assert halfway.wait(10)
            if here is Point.CANCEL_HALFWAY:
                halfway.set()
                time.sleep(0.3)  # until the rejection waits for us

        with points.install(hook):
            house.feeder.step()
            canceler.join(10)
        self._is_canceled(house, job)

    def _is_canceled(self, house: House, job: Job) -> None:
        canceled = house.job(job)
        assert (canceled.state, canceled.cause) == (JobState.CANCELED, Cause.CANCELED)
        assert canceled.reason is None
        [one] = attempts_of(house, job)
        assert (one.cause, one.reason) == (Cause.REJECTED, "too large")


class TestCancelWhileAnEndIsJudged:
    @pytest.mark.parametrize("cause", [Cause.WITHDRAWN, Cause.NODE_LOST])
    def test_what_would_have_been_tried_again_is_canceled(self, house: House, cause: Cause) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=cause)
        with at(Point.OBSERVE_POLLED, lambda: house.jobs.cancel(house.ada, job.id)):
            house.reconciler.step()
        assert house.job(job).state is JobState.CANCELED
        house.pass_time(1000)
        house.step()
        assert len(house.scheduler.submits) == 1

    @pytest.mark.parametrize(
        ("cause", "attempts"), [(Cause.WITHDRAWN, 0), (Cause.DRAINED, 0), (Cause.NODE_LOST, 1)]
    )
    def test_what_it_meets_is_charged_as_without_it(
        self, house: House, cause: Cause, attempts: int
    ) -> None:
        job = running(house)
        started = house.clock.now
        house.pass_time(100)
        times = {"started_at": started, "ended_at": house.clock.now}
        house.scheduler.show(Observed.ENDED, cause=cause, node="n1", **times)
        with at(Point.OBSERVE_POLLED, lambda: house.jobs.cancel(house.ada, job.id)):
            house.reconciler.step()
        canceled = house.job(job)
        assert (canceled.state, canceled.cause) == (JobState.CANCELED, Cause.CANCELED)
        assert (canceled.reason, canceled.node) == (None, "n1")
        [one] = attempts_of(house, job)
        assert (one.cause, one.reason) == (cause, None)
        used = house.db.read(lambda conn: usage.by_month(conn, house.ada.group.id))
        assert [(month.attempts, month.core_seconds) for month in used] == [(1, 100)] * attempts

    @pytest.mark.parametrize("cause", [None, Cause.EXIT])
    def test_what_had_ended_keeps_its_end(self, house: House, cause: Cause | None) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=cause)
        with at(Point.OBSERVE_POLLED, lambda: house.jobs.cancel(house.ada, job.id)):
            house.reconciler.step()
        wanted = JobState.COMPLETED if cause is None else JobState.FAILED
        assert house.job(job).state is wanted
        assert house.jobs.cancel(house.ada, job.id).state is wanted

    def test_halfway_back_to_the_queue(self, house: House, other: Begin) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        bystander = other(lambda: house.jobs.cancel(house.ada, job.id))
        with at(Point.REQUEUE_HALFWAY, bystander.begin):
            house.reconciler.step()
        bystander.end()
        assert house.job(job).state is JobState.CANCELED

    @pytest.mark.parametrize("point", [Point.CANCEL_HALFWAY, Point.CANCEL_BEFORE_COMMIT])
    def test_a_cancel_under_way_when_it_goes_back(
        self, house: House, other: Begin, point: Point
    ) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        reconciler = other(house.reconciler.step)
        with at(point, reconciler.begin):
            house.jobs.cancel(house.ada, job.id)
        reconciler.end()
        assert house.job(job).state is JobState.CANCELED

    def test_of_a_set_while_one_of_its_jobs_goes_back(self, house: House) -> None:
        job = running(house, set="s")
        waiting = house.submit(set="s", hold=True)
        house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)
        with at(Point.OBSERVE_POLLED, lambda: house.sets.cancel(house.ada, "s")):
            house.reconciler.step()
        assert house.job(job).state is JobState.CANCELED
        assert house.job(waiting).state is JobState.CANCELED

    def test_a_job_that_goes_back_within_the_cancel_of_its_set(self, house: House) -> None:
        """Handed over when the cancel begins, waiting before it is asked to stop."""
        job = running(house, set="s")
        others = [house.submit(set="s", hold=True) for _ in range(2)]
        house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)
        with at(Point.SET_CHUNK_COMMITTED, house.reconciler.step):
            house.sets.cancel(house.ada, "s")
        assert [house.job(one).state for one in (job, *others)] == [JobState.CANCELED] * 3

    def test_a_job_that_is_away_whenever_the_cancel_of_its_set_looks(self, house: House) -> None:
        """It waits while the handed over are asked to stop, and the other way round."""
        job = house.submit(set="s")

        def come_back() -> None:
            house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)
            house.reconciler.step()
            assert house.job(job).state is JobState.RECEIVED

        moves = iter([lambda: None, house.feeder.step, come_back])

        def hook(here: Point) -> None:
            if here is Point.SET_CHUNK_COMMITTED and (move := next(moves, None)):
                move()

        with points.install(hook):
            assert house.sets.cancel(house.ada, "s") == 1
        assert house.job(job).state is JobState.CANCELED

    def test_on_a_node_out_of_touch_is_final_with_the_node(self, house: House) -> None:
        job = running(house)
        house.scheduler.show(Observed.UNKNOWN)
        house.step()
        house.jobs.cancel(house.ada, job.id)
        house.pass_time(599)
        house.step()
        assert house.job(job).state is JobState.RUNNING
        house.pass_time(2)
        house.step()
        assert house.job(job).state is JobState.CANCELED
        house.pass_time(1000)
        house.step()
        assert len(house.scheduler.submits) == 1


class TestStopOfWhatIsGivenUp:
    """Its node comes back before the stop is confirmed."""

    @pytest.fixture
    def job(self, house: House, monkeypatch: pytest.MonkeyPatch) -> Job:
        def refuse(handle: Handle) -> None:
            raise ConnectorUnavailable("status 500", retry_after=1.0)

        job = running(house)
        house.scheduler.show(Observed.UNKNOWN, node="n1")
        house.step()
        with monkeypatch.context() as patch:
            patch.setattr(house.scheduler, "cancel", refuse)
            house.pass_time(601)
            house.step()
        [attempt] = attempts_of(house, job)
        assert (attempt.stop_cause, attempt.stop_sent_at) == (Cause.NODE_LOST, None)
        house.scheduler.show(Observed.RUNNING, phase=Phase.EXECUTING, node="n1")
        house.pass_time(60)
        house.step()
        return job

    def test_it_runs_to_its_end(self, house: House, job: Job) -> None:
        assert (house.scheduler.cancels, house.job(job).state) == ([], JobState.RUNNING)
        house.scheduler.show(Observed.ENDED)
        house.step()
        assert house.job(job).state is JobState.COMPLETED

    def test_it_is_given_up_again_should_the_node_go_again(self, house: House, job: Job) -> None:
        house.scheduler.show(Observed.UNKNOWN, node="n1")
        house.step()
        house.pass_time(599)
        house.step()
        assert house.job(job).state is JobState.RUNNING
        house.pass_time(2)
        house.step()
        assert house.job(job).state is JobState.RECEIVED
        assert len(house.scheduler.cancels) == 1

    def test_it_can_be_canceled(self, house: House, job: Job) -> None:
        house.jobs.cancel(house.ada, job.id)
        house.step()
        assert len(house.scheduler.cancels) == 1
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        assert house.job(job).state is JobState.CANCELED

    def test_a_call_that_arrived_all_the_same_is_a_lost_node(self, house: House, job: Job) -> None:
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        assert house.job(job).state is JobState.RECEIVED

    def test_who_stops_it_there_a_day_later_is_not_us(self, house: House, job: Job) -> None:
        house.pass_time(91)
        house.step()
        [attempt] = attempts_of(house, job)
        assert (attempt.cause, attempt.stop_requested_at) == (None, None)
        house.pass_time(22 * 3600)
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        ended = house.job(job)
        assert (ended.state, ended.cause, ended.retries) == (JobState.FAILED, Cause.CANCELED, 0)
