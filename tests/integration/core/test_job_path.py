"""The path of a job: database → feeder → connector → reconciler → final."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from bridge import points
from bridge.db import attempts, claims, usage
from bridge.errors import Conflict, Forbidden, InvalidRequest, JobRejected, NotFound, NotReady
from bridge.models.attempt import AttemptSpec, AttemptState, Cause, Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState, NewJob, Phase
from bridge.points import Point
from tests.integration.core.conftest import House


class TestSubmit:
    def test_is_received_with_what_was_asked(self, house: House) -> None:
        job = house.submit(cores=2, memory_mb=300, labels={"a": "b"}, set="s")
        assert (job.state, job.user, job.cores, job.labels, job.set) == (
            JobState.RECEIVED,
            "ada",
            2,
            {"a": "b"},
            "s",
        )

    def test_same_bucket_again_is_the_same_job(self, house: House) -> None:
        bucket = uuid4()
        assert house.submit(bucket_id=bucket).id == house.submit(bucket_id=bucket).id

    def test_bucket_of_another_member_is_a_conflict(self, house: House) -> None:
        bucket = uuid4()
        house.submit(bucket_id=bucket)
        with pytest.raises(Conflict):
            house.submit(house.root, bucket_id=bucket)

    def test_many_keep_their_order_and_pass_refusals_through(self, house: House) -> None:
        bad = InvalidRequest("no")
        good = [NewJob(bucket_id=uuid4(), image="a:1") for _ in range(2)]
        first, refused, second = house.jobs.submit_many(house.ada, [good[0], bad, good[1]])
        assert refused is bad
        assert house.jobs.get(house.ada, first).bucket_id == good[0].bucket_id  # type: ignore[arg-type]
        assert house.jobs.get(house.ada, second).bucket_id == good[1].bucket_id  # type: ignore[arg-type]

    def test_without_compute_secret_is_not_ready(self, house: House) -> None:
        _, secret = house.groups.add_group("new", "eve", connector="local")
        with pytest.raises(NotReady):
            house.submit(house.access.by_secret(secret))

    def test_group_token_only_reads(self, house: House) -> None:
        reader = house.access.by_group_token(house.root.group.token)
        with pytest.raises(Forbidden):
            house.submit(reader)
        house.submit()
        assert len(house.jobs.activity(reader)) == 1


class TestRun:
    def test_from_received_to_completed(self, house: House) -> None:
        job = house.submit()
        house.step()
        assert house.job(job).state is JobState.SUBMITTED
        house.scheduler.show(
            Observed.RUNNING, phase=Phase.EXECUTING, node="n1", started_at=house.clock.now
        )
        house.step()
        running = house.job(job)
        assert (running.state, running.phase, running.node) == (
            JobState.RUNNING,
            Phase.EXECUTING,
            "n1",
        )
        house.scheduler.show(Observed.ENDED, exit_code=0)
        house.step()
        done = house.job(job)
        assert (done.state, done.exit_code, done.reason, done.attempt) == (
            JobState.COMPLETED,
            0,
            None,
            1,
        )
        assert len(house.scheduler.submits) == 1

    def test_priority_then_first_come(self, house: House) -> None:
        low, first, second = (house.submit(priority=p) for p in (1, 50, 50))
        house.feeder.step()
        started = sorted(house.scheduler.specs.values(), key=lambda spec: spec.handle.native_id)
        assert {spec.job_id for spec in started} == {low.id, first.id, second.id}
        with_window = [job.id for job in house.jobs.find(house.ada)]
        assert with_window == [second.id, first.id, low.id]

    def test_only_a_reserve_is_handed_over(self, house: House) -> None:
        for _ in range(20):
            house.submit()
        house.feeder.step()
        house.feeder.step()
        assert len(house.scheduler.specs) == 8

    def test_members_take_turns_and_pay_for_what_they_used(self, house: House) -> None:
        bob = house.add_user("bob")
        for _ in range(20):
            house.submit()
        for _ in range(2):
            house.submit(bob)
        house.feeder.step()
        owners = [house.jobs.get(house.root, s.job_id).user for s in house.scheduler.specs.values()]
        assert sorted(owners) == ["ada"] * 6 + ["bob"] * 2

    def test_rejected_fails_with_the_reason(self, house: House) -> None:
        def refuse(spec: AttemptSpec) -> None:
            raise JobRejected("the image name is not allowed")

        house.scheduler.before_submit = refuse
        job = house.submit()
        house.feeder.step()
        failed = house.job(job)
        assert (failed.state, failed.cause) == (JobState.FAILED, Cause.REJECTED)
        assert failed.reason == "the image name is not allowed"

    def test_withdrawn_is_tried_again_under_another_id(self, house: House) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)
        house.step()
        assert house.job(job).state is JobState.RECEIVED
        house.feeder.step()
        assert [h.native_id[-2:] for h in house.scheduler.submits] == ["-1", "-2"]

    def test_a_lost_node_gives_another_attempt_and_only_one(self, house: House) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        house.step()
        waiting = house.job(job)
        assert (waiting.state, waiting.retries) == (JobState.RECEIVED, 1)
        house.feeder.step()
        assert len(house.scheduler.submits) == 1  # not before its delay
        house.pass_time(11)
        house.step()
        assert len(house.scheduler.submits) == 2
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        house.step()
        assert house.job(job).state is JobState.FAILED

    def test_out_of_memory_gets_more_where_allowed(self, house: House) -> None:
        job = house.submit(memory_mb=1000, oom_retry_mb=2000)
        house.step()
        house.scheduler.show(Observed.ENDED, cause=Cause.OOM, exit_code=137)
        house.step()
        house.feeder.step()
        assert [spec.memory_mb for spec in house.scheduler.specs.values()] == [1000, 1500]
        assert house.job(job).memory_mb == 1500

    def test_each_attempt_is_charged_once(self, house: House) -> None:
        house.submit(cores=4)
        house.step()
        house.pass_time(10)
        house.scheduler.show(
            Observed.ENDED, started_at=house.clock.now - 10, ended_at=house.clock.now
        )
        house.step()
        house.step()
        (month,) = house.db.read(lambda conn: usage.by_month(conn, house.root.group.id))
        assert (month.user, month.attempts, month.core_seconds) == ("ada", 1, 40.0)
        (share,) = house.db.read(lambda conn: usage.lately(conn, house.root.group.id)).values()
        assert share.core_seconds == pytest.approx(40.0, rel=1e-4)

    def test_held_jobs_wait(self, house: House) -> None:
        job = house.submit(hold=True)
        house.step()
        assert house.job(job).state is JobState.RECEIVED
        house.jobs.release(house.ada, job.id)
        house.step()
        assert house.job(job).state is JobState.SUBMITTED
        with pytest.raises(Conflict) as refused:
            house.jobs.hold(house.ada, job.id)
        assert "cancel it" in refused.value.hint

    def test_a_verb_that_comes_at_the_wrong_time_says_what_to_do(self, house: House) -> None:
        def remedy(verb: Callable[[Caller, UUID], object]) -> str:
            with pytest.raises(Conflict) as refused:
                verb(house.ada, job.id)
            return refused.value.hint

        job = house.submit()
        assert "wait for it" in remedy(house.jobs.retry)
        house.step()
        assert "nothing holds it" in remedy(house.jobs.release)
        assert "cancel it" in remedy(house.jobs.retry)
        house.scheduler.show(Observed.ENDED, exit_code=0)
        house.step()
        assert remedy(house.jobs.release) == "It has ended."
        assert "submit --again" in remedy(house.jobs.retry)


class TestUnavailable:
    def test_changes_nothing_and_goes_on_later(self, house: House) -> None:
        house.scheduler.away = True
        job = house.submit()
        house.step()
        assert house.job(job).state in {JobState.RECEIVED, JobState.SUBMITTED}
        house.pass_time(61)
        house.scheduler.away = False
        house.step()
        house.pass_time(61)
        house.step()
        assert len(house.scheduler.specs) == 1
        assert house.job(job).attempt == 1

    def test_a_running_job_stays_running(self, house: House) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.RUNNING)
        house.step()
        house.scheduler.away = True
        house.pass_time(100_000)
        house.step()
        assert house.job(job).state is JobState.RUNNING
        assert house.patience.faults("local")


class TestCrash:
    def test_between_call_and_record_runs_once(self, house: House) -> None:
        job = self.lost_claim(house)
        house.feeder.step()
        assert len(house.scheduler.submits) == 1  # the claim still stands
        house.pass_time(61)
        house.feeder.step()
        assert len(house.scheduler.submits) == 2
        assert len(house.scheduler.specs) == 1
        assert house.job(job).attempt == 1

    def test_under_a_clock_that_was_ahead_is_made_good_by_the_next_look(self, house: House) -> None:
        job = self.lost_claim(house)
        house.pass_time(-2 * 86400)
        house.restart()
        house.step()
        assert (len(house.scheduler.submits), len(house.scheduler.specs)) == (2, 1)
        (attempt,) = house.db.read(lambda conn: attempts.of_job(conn, job.id))
        assert (attempt.state, attempt.claimed_at) == (AttemptState.SUBMITTED, house.clock.now)
        house.pass_time(2)
        house.step()
        assert len(house.scheduler.submits) == 2

    def test_under_a_clock_that_was_ahead_can_be_canceled(self, house: House) -> None:
        job = self.lost_claim(house)
        house.scheduler.shown.clear()
        house.pass_time(-2 * 86400)
        house.restart()
        house.jobs.cancel(house.ada, job.id)
        for _ in range(3):
            house.step()
            house.pass_time(61)
        assert house.job(job).state is JobState.CANCELED
        assert len(house.scheduler.submits) == 1

    def test_a_claim_of_a_clock_that_is_a_little_ahead_stands(self, house: House) -> None:
        self.lost_claim(house)
        house.pass_time(-30)
        house.restart()
        house.step()
        assert len(house.scheduler.submits) == 1

    def test_nothing_is_handed_over_by_a_claim_of_the_future(self, house: House) -> None:
        """Somebody else may have taken it over, and ended it, while we were paused."""

        def put_back(point: Point) -> None:
            if point is Point.HAND_OVER_BEFORE_CALL:
                house.pass_time(-3600)

        house.submit()
        with points.install(put_back):
            house.feeder.step()
        assert house.scheduler.submits == []
        house.restart()
        house.step()
        assert len(house.scheduler.submits) == 1

    def lost_claim(self, house: House) -> Job:
        """Of a process that died between call and record."""

        def crash(spec: AttemptSpec) -> None:
            raise KeyboardInterrupt

        house.scheduler.after_submit = crash
        job = house.submit()
        with pytest.raises(KeyboardInterrupt):
            house.feeder.step()
        house.scheduler.after_submit = lambda spec: None
        return job

    def test_an_answer_after_the_claim_was_taken_over_records_nothing(self, house: House) -> None:
        job = house.submit()

        def take_over(spec: AttemptSpec) -> None:
            house.scheduler.after_submit = lambda spec: None
            house.pass_time(61)
            house.db.write(
                lambda conn: claims.reclaim(
                    conn,
                    "local",
                    token=uuid4(),
                    now=house.clock.now,
                    expires_at=house.clock.now + 60,
                    limit=10,
                )
            )

        house.scheduler.after_submit = take_over
        assert house.feeder.step() == 0
        (attempt,) = house.db.read(lambda conn: attempts.of_job(conn, job.id))
        assert attempt.state is AttemptState.CLAIMED


class TestCancel:
    def test_waiting_is_final_at_once_and_twice_is_fine(self, house: House) -> None:
        job = house.submit()
        first = house.jobs.cancel(house.ada, job.id)
        assert (first.state, first.reason) == (JobState.CANCELED, None)
        assert house.jobs.cancel(house.ada, job.id) == first

    def test_running_is_final_when_the_scheduler_shows_it(self, house: House) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.RUNNING)
        house.step()
        assert house.jobs.cancel(house.ada, job.id).state is JobState.RUNNING
        house.step()
        assert len(house.scheduler.cancels) == 1
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED, exit_code=143)
        house.step()
        assert house.job(job).state is JobState.CANCELED

    def test_while_the_hand_over_is_in_flight(self, house: House) -> None:
        job = house.submit()

        def cancel(spec: AttemptSpec) -> None:
            house.jobs.cancel(house.ada, job.id)

        house.scheduler.before_submit = cancel
        house.feeder.step()
        assert house.job(job).state is JobState.SUBMITTED
        house.reconciler.step()
        assert len(house.scheduler.cancels) == 1

    def test_claimed_but_never_called(self, house: House) -> None:
        def crash(spec: AttemptSpec) -> None:
            raise KeyboardInterrupt

        house.scheduler.before_submit = crash
        job = house.submit()
        with pytest.raises(KeyboardInterrupt):
            house.feeder.step()
        house.jobs.cancel(house.ada, job.id)
        house.pass_time(61)
        house.step()
        assert house.job(job).state is JobState.SUBMITTED
        house.pass_time(61)
        house.step()
        assert house.job(job).state is JobState.CANCELED
        assert house.scheduler.submits == []

    def test_only_ones_own_unless_admin(self, house: House) -> None:
        job = house.submit()
        bob = house.add_user("bob")
        with pytest.raises(NotFound):
            house.jobs.cancel(bob, job.id)
        assert house.jobs.cancel(house.root, job.id).state is JobState.CANCELED

    def test_another_group_sees_nothing(self, house: House) -> None:
        job = house.submit()
        _, secret = house.groups.add_group("other", "eve", connector="local")
        eve: Caller = house.access.by_secret(secret)
        with pytest.raises(NotFound):
            house.jobs.get(eve, job.id)


class TestDeadline:
    def test_time_limit_stops_the_job(self, house: House) -> None:
        job = house.submit(time_limit_s=10)
        house.step()
        house.scheduler.show(Observed.RUNNING, phase=Phase.EXECUTING, started_at=house.clock.now)
        house.step()
        house.pass_time(11)
        house.step()
        assert len(house.scheduler.cancels) == 1
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.step()
        failed = house.job(job)
        assert (failed.state, failed.cause) == (JobState.FAILED, Cause.TIMEOUT)


class TestAfterwards:
    def test_forgotten_only_after_a_while(self, house: House) -> None:
        house.submit()
        house.step()
        house.scheduler.show(Observed.ENDED)
        house.step()
        assert house.reconciler.forget() == 0
        house.pass_time(601)
        assert house.reconciler.forget() == 1
        assert house.reconciler.forget() == 0

    def test_sweep_stops_what_has_ended_for_us(self, house: House) -> None:
        house.submit()
        house.step()
        house.scheduler.show(Observed.UNKNOWN)
        house.step()
        house.pass_time(601)
        house.step()
        house.scheduler.cancels.clear()
        house.scheduler.show(Observed.RUNNING)  # the ghost is back
        assert house.reconciler.sweep() == 1
        assert len(house.scheduler.cancels) == 1

    def test_sweep_leaves_live_attempts_alone(self, house: House) -> None:
        house.submit()
        house.step()
        assert house.reconciler.sweep() == 0

    def test_prune_waits_for_the_end_and_may_be_repeated(self, house: House) -> None:
        job = house.submit()
        with pytest.raises(Conflict):
            house.jobs.prune(house.ada, job.id)
        house.jobs.cancel(house.ada, job.id)
        asked = house.jobs.prune(house.ada, job.id)
        assert asked.prune_requested_at == house.clock.now and asked.pruned_at is None
        house.pass_time(5)
        done = house.jobs.prune(house.ada, job.id, deleted=True)
        assert done.prune_requested_at == asked.prune_requested_at
        assert done.pruned_at == house.clock.now
        assert done.state is JobState.CANCELED
