"""The races of the queue, each with the interleaving that would lose or double a job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from bridge.core.jobs import Quota
from bridge.db import attempts
from bridge.db import jobs as jobs_db
from bridge.errors import Conflict, Forbidden, JobRejected, Refused
from bridge.models.attempt import Attempt, AttemptSpec, AttemptState, Cause, Handle, Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState, NewJob, Phase
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.support.interleave import Other, at, killed_at

CLAIM_S = CALL_S = 60  # how long a claim stands, and after that its call may be under way


@pytest.fixture
def other(house: House, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Other]:
    """Somebody else, who reads while a transaction of ours is open."""

    def start(act: Callable[[], object]) -> Other:
        made = Other(act)

        def noting(read: Callable[[Any], object]) -> Callable[[Any], object]:
            def noted(fn: Any) -> object:
                found = read(fn)
                made.note_read()
                return found

            return noted

        for name in ("read", "look_up"):
            monkeypatch.setattr(house.db, name, noting(getattr(house.db, name)))
        return made

    return start


def running(house: House, **fields: Any) -> Job:
    """A job whose program runs."""
    job = house.submit(**fields)
    house.step()
    house.scheduler.show(Observed.RUNNING, phase=Phase.EXECUTING, started_at=house.clock.now)
    house.step()
    assert house.job(job).state is JobState.RUNNING
    return job


def ended(house: House, cause: Cause | None = Cause.EXIT) -> Job:
    """A job that has ended."""
    job = running(house)
    house.scheduler.show(Observed.ENDED, cause=cause)
    house.reconciler.step()
    return job


def attempts_of(house: House, job: Job) -> list[Attempt]:
    return house.db.read(lambda conn: attempts.of_job(conn, job.id))


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


def arrive(house: House, job: Job) -> None:
    """The call for a job's only attempt reaches the scheduler now."""
    (attempt,) = attempts_of(house, job)
    handle = Handle(attempt.native_id, attempt.namespace)
    fields = dict.fromkeys(AttemptSpec.__struct_fields__) | {"handle": handle}
    house.scheduler.submit(AttemptSpec(**fields))  # type: ignore[arg-type]


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

    @pytest.mark.parametrize("cause", [None, Cause.EXIT])
    def test_what_had_ended_keeps_its_end(self, house: House, cause: Cause | None) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=cause)
        with at(Point.OBSERVE_POLLED, lambda: house.jobs.cancel(house.ada, job.id)):
            house.reconciler.step()
        wanted = JobState.COMPLETED if cause is None else JobState.FAILED
        assert house.job(job).state is wanted
        assert house.jobs.cancel(house.ada, job.id).state is wanted

    def test_halfway_back_to_the_queue(
        self, house: House, other: Callable[[Callable[[], object]], Other]
    ) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        bystander = other(lambda: house.jobs.cancel(house.ada, job.id))
        with at(Point.REQUEUE_HALFWAY, bystander.begin):
            house.reconciler.step()
        bystander.end()
        assert house.job(job).state is JobState.CANCELED

    @pytest.mark.parametrize("point", [Point.CANCEL_HALFWAY, Point.CANCEL_BEFORE_COMMIT])
    def test_a_cancel_under_way_when_it_goes_back(
        self, house: House, other: Callable[[Callable[[], object]], Other], point: Point
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


class TestLooksThatAreOld:
    def test_a_job_handed_over_after_the_sweep_is_no_stray(self, house: House) -> None:
        running(house)
        job = house.submit()
        with at(Point.SWEEP_LISTED, house.feeder.step):
            assert house.reconciler.sweep() == 0
        house.reconciler.step()
        assert house.job(job).state is JobState.SUBMITTED
        assert house.scheduler.cancels == []

    def test_a_job_that_is_called_while_the_sweep_looks_is_no_stray(self, house: House) -> None:
        """What lives at a scheduler was claimed before."""
        house.submit()
        swept: list[int] = []
        with at(Point.HAND_OVER_CALLED, lambda: swept.append(house.reconciler.sweep())):
            house.feeder.step()
        assert (swept, house.scheduler.cancels) == ([0], [])

    def test_a_claim_the_scheduler_does_not_know_is_not_gone(self, house: House) -> None:
        job = house.submit()
        with at(Point.HAND_OVER_BEFORE_CALL, house.reconciler.step):
            house.feeder.step()
        assert attempts_of(house, job)[0].missing_since is None
        assert house.job(job).state is JobState.SUBMITTED

    def test_a_submission_during_the_look_is_not_judged_by_it(self, house: House) -> None:
        first = running(house)
        house.submit(hold=True)
        second = house.submit()
        with at(Point.OBSERVE_READ, house.feeder.step):
            house.reconciler.step()
        assert attempts_of(house, second)[0].missing_since is None
        assert house.job(first).state is JobState.RUNNING

    def test_missing_once_is_not_gone(self, house: House) -> None:
        job = running(house)
        shown = dict(house.scheduler.shown)
        house.scheduler.shown.clear()
        house.reconciler.step()
        house.scheduler.shown.update(shown)
        house.pass_time(31)
        house.reconciler.step()
        house.scheduler.shown.clear()
        house.reconciler.step()
        assert house.job(job).state is JobState.RUNNING
        house.pass_time(31)
        house.reconciler.step()
        assert house.job(job).state is not JobState.RUNNING

    def test_an_end_recorded_during_the_sweep(self, house: House) -> None:
        job = running(house)

        def end() -> None:
            house.scheduler.show(Observed.ENDED)
            house.reconciler.step()

        with at(Point.SWEEP_LISTED, end):
            house.reconciler.sweep()
        assert house.job(job).state is JobState.COMPLETED

    def test_a_stop_is_for_the_attempt_it_was_decided_for(self, house: House) -> None:
        job = running(house, time_limit_s=10)
        house.pass_time(11)

        def replace() -> None:
            """Another process saw its end, and handed the job over again."""
            house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)
            house.reconciler.step()
            house.feeder.step()

        with at(Point.OBSERVE_POLLED, replace):
            house.reconciler.step()
        first, second = attempts_of(house, job)
        assert first.state is AttemptState.ENDED
        assert (second.state, second.stop_cause) == (AttemptState.SUBMITTED, None)
        assert house.job(job).state is JobState.SUBMITTED

    def test_an_old_look_does_not_end_a_later_attempt(self, house: House) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED, cause=Cause.WITHDRAWN)

        def sooner() -> None:
            house.reconciler.step()
            house.feeder.step()

        with at(Point.OBSERVE_POLLED, sooner):
            assert house.reconciler.step() == 0
        assert [one.state for one in attempts_of(house, job)] == [
            AttemptState.ENDED,
            AttemptState.SUBMITTED,
        ]
        assert house.job(job).state is JobState.SUBMITTED


class TestGivenUpWithItsNode:
    @pytest.mark.parametrize("point", [Point.STOP_COMMITTED, Point.STOP_CALLED, Point.STOP_SENT])
    def test_a_stop_we_did_not_live_to_record_leads_to_another_attempt(
        self, house: House, point: Point
    ) -> None:
        job = running(house)
        house.scheduler.show(Observed.UNKNOWN)
        house.reconciler.step()
        house.pass_time(601)
        with killed_at(point):
            house.reconciler.step()
        # The node is back, and what it ran was stopped, as we had asked.
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.reconciler.step()
        waiting = house.job(job)
        assert (waiting.state, waiting.retries) == (JobState.RECEIVED, 1)


class TestPurge:
    def test_counts_from_when_the_result_was_stored(self, house: House) -> None:
        """The service was away while the job ended, hours ago."""
        running(house)
        house.pass_time(7200)
        house.scheduler.show(Observed.ENDED, ended_at=house.clock.now - 7000)
        house.reconciler.step()
        house.pass_time(599)
        assert house.reconciler.forget() == 0
        house.pass_time(2)
        assert house.reconciler.forget() == 1

    def test_until_then_a_late_call_creates_nothing(self, house: House) -> None:
        job = ended(house, None)
        house.pass_time(599)
        house.reconciler.forget()
        arrive(house, job)
        assert [seen.state for seen in house.scheduler.shown.values()] == [Observed.ENDED]

    @pytest.mark.parametrize(
        "point", [Point.FORGET_BEFORE_CALL, Point.FORGET_CALLED, Point.FORGET_COMMITTED]
    )
    def test_one_that_was_broken_off_is_done_again(self, house: House, point: Point) -> None:
        jobs = [ended(house, None) for _ in range(2)]
        house.pass_time(601)
        with killed_at(point):
            house.reconciler.forget()
        house.reconciler.forget()
        assert house.scheduler.shown == {}
        assert {house.job(job).state for job in jobs} == {JobState.COMPLETED}


class TestPruneAgainstRetry:
    def test_a_retry_while_a_prune_is_being_stored(
        self, house: House, other: Callable[[Callable[[], object]], Other]
    ) -> None:
        job = ended(house)
        bystander = other(lambda: house.jobs.retry(house.ada, job.id))
        with at(Point.PRUNE_BEFORE_COMMIT, bystander.begin):
            house.jobs.prune(house.ada, job.id)
        with pytest.raises(Conflict):
            bystander.end()
        assert house.job(job).state is JobState.FAILED

    def test_a_prune_while_a_retry_is_being_stored(
        self, house: House, other: Callable[[Callable[[], object]], Other]
    ) -> None:
        """Its client must not be told to delete the bucket."""
        job = ended(house)
        bystander = other(lambda: house.jobs.prune(house.ada, job.id))
        with at(Point.RETRY_BEFORE_COMMIT, bystander.begin):
            house.jobs.retry(house.ada, job.id)
        with pytest.raises(Conflict):
            bystander.end()
        again = house.job(job)
        assert (again.state, again.prune_requested_at) == (JobState.RECEIVED, None)

    def test_two_retries_are_one(
        self, house: House, other: Callable[[Callable[[], object]], Other]
    ) -> None:
        job = ended(house)
        bystander = other(lambda: house.jobs.retry(house.ada, job.id))
        with at(Point.RETRY_BEFORE_COMMIT, bystander.begin):
            house.jobs.retry(house.ada, job.id)
        with pytest.raises(Conflict):
            bystander.end()
        house.feeder.step()
        assert house.job(job).attempt == 2

    def test_no_retry_by_itself_of_what_was_given_up(self, house: House) -> None:
        job = ended(house)
        house.jobs.prune(house.ada, job.id)
        with pytest.raises(Conflict):
            house.jobs.retry(house.ada, job.id)
        house.step()
        assert house.job(job).state is JobState.FAILED


class TestSameBucketTwice:
    def submit(self, house: House, caller: Caller, buckets: list[UUID]) -> list[UUID | Refused]:
        items = [NewJob(bucket_id=bucket, image="busybox:1") for bucket in buckets]
        return house.jobs.submit_many(caller, items)

    def at_once(self, *acts: Callable[[], object]) -> None:
        start = threading.Barrier(len(acts))

        def begin(act: Callable[[], object]) -> Other:
            made = Other(lambda: (start.wait(10), act()))
            made._thread.start()
            return made

        for one in [begin(act) for act in acts]:
            one.end()

    def test_by_one_member_is_one_job(self, house: House) -> None:
        """Also where the arrays meet from both ends."""
        buckets = [uuid4() for _ in range(50)]
        found: list[list[UUID | Refused]] = []
        self.at_once(
            lambda: found.append(self.submit(house, house.ada, buckets)),
            lambda: found.append(self.submit(house, house.ada, buckets[::-1])[::-1]),
            lambda: found.append(self.submit(house, house.ada, buckets)),
        )
        assert found[0] == found[1] == found[2]
        assert len(house.jobs.find(house.root, limit=200)) == 50

    def test_by_two_members_is_one_job_and_a_conflict(self, house: House) -> None:
        bob = house.add_user("bob")
        bucket = uuid4()
        found: list[UUID | Refused] = []
        self.at_once(
            lambda: found.extend(self.submit(house, house.ada, [bucket])),
            lambda: found.extend(self.submit(house, bob, [bucket])),
        )
        assert sorted(isinstance(one, Conflict) for one in found) == [False, True]
        assert len(house.jobs.find(house.root)) == 1

    def test_while_the_first_is_being_stored(self, house: House) -> None:
        bucket = uuid4()
        found: list[UUID | Refused] = []
        second = Other(lambda: found.extend(self.submit(house, house.ada, [bucket])))
        with at(Point.SUBMIT_BEFORE_COMMIT, second._thread.start):
            first = self.submit(house, house.ada, [bucket])
        second.end()
        assert found == first

    @pytest.mark.parametrize("point", [Point.SUBMIT_BEFORE_COMMIT, Point.SUBMIT_COMMITTED])
    def test_again_after_a_lost_answer(self, house: House, point: Point) -> None:
        buckets = [uuid4() for _ in range(3)]
        with killed_at(point):
            self.submit(house, house.ada, buckets)
        first = self.submit(house, house.ada, buckets)
        assert self.submit(house, house.ada, buckets) == first
        assert len(house.jobs.find(house.ada)) == 3

    def test_again_with_no_room_left_for_more(self, house: House) -> None:
        house.jobs._quota = Quota(per_user=3)
        buckets = [uuid4() for _ in range(3)]
        with killed_at(Point.SUBMIT_COMMITTED):
            self.submit(house, house.ada, buckets)
        assert len(self.submit(house, house.ada, buckets)) == 3
        with pytest.raises(Refused, match="1 more"):
            self.submit(house, house.ada, [*buckets, uuid4()])


class TestTwoAdmins:
    def test_who_is_demoted_meanwhile_changes_nothing(self, house: House) -> None:
        boss, _ = house.add_user("boss", admin=True), house.add_user("third", admin=True)
        house.groups.set_admin(house.root, "boss", False)
        for act in (
            lambda: house.groups.revoke(boss, "root"),
            lambda: house.groups.set_admin(boss, "boss", True),
            lambda: house.groups.add_user(boss, "mine", True),
            lambda: house.groups.rotate_compute_secret(boss),
        ):
            with pytest.raises(Forbidden):
                act()

    def test_who_is_revoked_meanwhile_changes_nothing(self, house: House) -> None:
        boss = house.add_user("boss", admin=True)
        house.groups.revoke(house.root, "boss")
        with pytest.raises(Forbidden):
            house.groups.revoke(boss, "root")
        users = house.groups.list_users(house.root)
        assert [user.name for user in users if user.revoked_at] == ["boss"]


class TestDeath:
    """Of the one process that works the queue, with a scheduler in memory."""

    @pytest.mark.parametrize(
        "point",
        [
            Point.CLAIM_CHOSEN,
            Point.CLAIM_BEFORE_COMMIT,
            Point.CLAIM_COMMITTED,
            Point.HAND_OVER_BEFORE_CALL,
            Point.HAND_OVER_CALLED,
            Point.RECORD_BEFORE_COMMIT,
            Point.RECORD_COMMITTED,
        ],
    )
    def test_in_the_feeder(self, house: House, point: Point) -> None:
        jobs = [house.submit() for _ in range(3)]
        with killed_at(point):
            house.feeder.step()
        house.pass_time(CLAIM_S + 1)
        house.step()
        house.scheduler.show(Observed.ENDED)
        house.step()
        assert {house.job(job).state for job in jobs} == {JobState.COMPLETED}
        assert {house.job(job).attempt for job in jobs} == {1}
        assert len(house.scheduler.specs) == 3

    @pytest.mark.parametrize(
        "point",
        [
            Point.OBSERVE_READ,
            Point.OBSERVE_POLLED,
            Point.REQUEUE_HALFWAY,
            Point.OBSERVE_BEFORE_COMMIT,
            Point.OBSERVE_COMMITTED,
        ],
    )
    def test_when_a_node_is_lost(self, house: House, point: Point) -> None:
        jobs = [running(house) for _ in range(2)]
        house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST, started_at=1.0)
        with killed_at(point):
            house.reconciler.step()
        house.reconciler.step()
        house.pass_time(11)
        house.feeder.step()
        house.scheduler.show(Observed.ENDED)
        house.reconciler.step()
        for job in jobs:
            seen = house.job(job)
            assert (seen.state, seen.attempt, seen.retries) == (JobState.COMPLETED, 2, 1)

    def test_over_a_rejection(self, house: House) -> None:
        def refuse(spec: AttemptSpec) -> None:
            raise JobRejected("no")

        house.scheduler.before_submit = refuse
        job = house.submit()
        with killed_at(Point.REJECT_BEFORE_COMMIT):
            house.feeder.step()
        house.pass_time(CLAIM_S + 1)
        house.feeder.step()
        assert (house.job(job).state, house.job(job).reason) == (JobState.FAILED, "no")

    def test_between_two_takers_of_one_claim(self, house: House) -> None:
        job = house.submit()
        with killed_at(Point.CLAIM_COMMITTED):
            house.feeder.step()
        house.pass_time(CLAIM_S + 1)
        with at(Point.RECLAIM_COMMITTED, house.feeder.step):
            house.feeder.step()
        assert len(house.scheduler.submits) == 1
        assert house.job(job).attempt == 1

    def test_a_claim_is_not_called_for_once_it_ran_out(self, house: House) -> None:
        """A process that was paused wakes up when the job is done and forgotten."""
        job = house.submit()

        def meanwhile() -> None:
            house.pass_time(CLAIM_S + 1)
            house.feeder.step()
            house.scheduler.show(Observed.ENDED)
            house.reconciler.step()
            house.pass_time(601)
            house.reconciler.forget()

        with at(Point.CLAIM_COMMITTED, meanwhile):
            house.feeder.step()
        assert house.job(job).state is JobState.COMPLETED
        assert house.scheduler.shown == {}

    def test_nothing_of_a_death_halfway_is_stored(self, house: House) -> None:
        job = running(house)
        house.scheduler.show(Observed.ENDED)
        with killed_at(Point.END_HALFWAY):
            house.reconciler.step()
        (attempt,) = attempts_of(house, job)
        assert attempt.state is AttemptState.RUNNING
        stored = house.db.read(lambda conn: jobs_db.get(conn, job.id))
        assert stored is not None and stored.state is JobState.RUNNING
