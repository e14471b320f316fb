"""The process that works the queue dies between two steps; the scheduler is in memory."""

from __future__ import annotations

import pytest

from bridge.db import jobs as jobs_db
from bridge.errors import JobRejected
from bridge.models.attempt import AttemptSpec, AttemptState, Cause, Observed
from bridge.models.job import JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import (
    CLAIM_S,
    attempts_of,
    running,
)
from tests.support.interleave import at, killed_at


class TestDeath:
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
