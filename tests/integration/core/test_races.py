"""The races of the queue, each with the interleaving that would lose or double a job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete, update

from bridge.core.quota import Gate, Quota
from bridge.db import tables
from bridge.db.engine import Connection
from bridge.errors import Conflict, Forbidden, Refused
from bridge.models.attempt import AttemptState, Cause, Observed
from bridge.models.identity import Caller
from bridge.models.job import JobState, NewJob
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import (
    Begin,
    arrive,
    attempts_of,
    ended,
    running,
)
from tests.support.interleave import Other, at, killed_at


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


class TestPowerCut:
    """A claim need not be on disk: the job waits again, while its attempt goes on."""

    def lose_claims(self, house: House) -> None:
        def lose(conn: Connection) -> None:
            conn.execute(delete(tables.attempts))
            conn.execute(update(tables.jobs).values(state="received", attempt=0))

        house.db.write(lose)
        house.restart()

    @pytest.mark.parametrize("first", ["feeder", "sweeper"])
    def test_it_is_claimed_again_under_the_same_name(self, house: House, first: str) -> None:
        job = house.submit()
        house.step()
        self.lose_claims(house)
        if first == "sweeper":
            assert house.reconciler.sweep() == 0
        house.step()
        assert house.reconciler.sweep() == 0
        assert len(set(house.scheduler.submits)) == 1
        assert house.scheduler.cancels == []
        house.scheduler.show(Observed.ENDED)
        house.step()
        assert (house.job(job).state, house.job(job).attempt) == (JobState.COMPLETED, 1)

    def test_canceled_meanwhile_its_attempt_is_stopped(self, house: House) -> None:
        job = house.submit()
        house.step()
        self.lose_claims(house)
        assert house.jobs.cancel(house.ada, job.id).state is JobState.CANCELED
        assert house.reconciler.sweep() == 1
        assert house.scheduler.cancels == house.scheduler.submits


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
    def test_a_retry_while_a_prune_is_being_stored(self, house: House, other: Begin) -> None:
        job = ended(house)
        bystander = other(lambda: house.jobs.retry(house.ada, job.id))
        with at(Point.PRUNE_BEFORE_COMMIT, bystander.begin):
            house.jobs.prune(house.ada, job.id)
        with pytest.raises(Conflict):
            bystander.end()
        assert house.job(job).state is JobState.FAILED

    def test_a_prune_while_a_retry_is_being_stored(self, house: House, other: Begin) -> None:
        """Its client must not be told to delete the bucket."""
        job = ended(house)
        bystander = other(lambda: house.jobs.prune(house.ada, job.id))
        with at(Point.RETRY_BEFORE_COMMIT, bystander.begin):
            house.jobs.retry(house.ada, job.id)
        with pytest.raises(Conflict):
            bystander.end()
        again = house.job(job)
        assert (again.state, again.prune_requested_at) == (JobState.RECEIVED, None)

    def test_two_retries_are_one(self, house: House, other: Begin) -> None:
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
        house.jobs._gate = Gate(house.db, Quota(per_user=3))
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
