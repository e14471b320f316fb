"""A time in which nobody looked takes nothing of any grace, and is not charged. A time limit
passes whether the node is in touch or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event
from typing import Any

import pytest

from bridge.core.patience import Patience
from bridge.core.reconcile import Reconciler
from bridge.core.verdict import Policy
from bridge.db import usage
from bridge.db.engine import Database
from bridge.models.attempt import Cause, Handle, Observation, Observed
from bridge.models.job import Job, JobState, Phase
from tests.integration.core.conftest import Clock, House
from tests.integration.core.scenes import attempts_of, running
from tests.support.fake_connector import FakeConnector

ASLEEP_S = 60.0
ABSENT = [Observed.UNKNOWN, Observed.GONE]
HANDED_OVER = {JobState.SUBMITTED}


class Telling(FakeConnector):
    """Is asked about all attempts only now and then."""

    def watch(
        self,
        namespaces: Callable[[], Iterable[str]],
        changed: Callable[[str | None], None],
        stopped: Event,
    ) -> None:
        stopped.wait()


class Hurried(FakeConnector):
    """Has time for one attempt in a call; a later call begins with the next."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        wanted = list(handles)
        self.turn += 1
        return super().poll([wanted[self.turn % len(wanted)]])


@pytest.fixture
def sleepy(db: Database) -> Iterator[House]:
    house = House(db, asleep_s=ASLEEP_S)
    yield house
    house.feeder.close()


def look_on(house: House, seconds: float, every_s: float = 50.0) -> None:
    """Time passes, with looks."""
    for _ in range(round(seconds / every_s)):
        house.pass_time(every_s)
        house.reconciler.step()


def states(house: House, jobs: Iterable[Job]) -> set[JobState]:
    return {house.job(job).state for job in jobs}


def used(house: House) -> float:
    months = house.db.read(lambda conn: usage.by_month(conn, house.root.group.id))
    return sum(month.core_seconds for month in months)


class TestEveryAttempt:
    """Not only those of the first look at their place."""

    @pytest.mark.parametrize("seen", ABSENT)
    @pytest.mark.parametrize("restarted", [False, True])
    def test_beyond_the_first_batch(
        self, sleepy: House, monkeypatch: pytest.MonkeyPatch, seen: Observed, restarted: bool
    ) -> None:
        monkeypatch.setattr("bridge.core.reconcile._BATCH", 2)
        jobs = [sleepy.submit() for _ in range(5)]
        sleepy.step()
        sleepy.scheduler.show(seen)
        sleepy.reconciler.step()
        sleepy.pass_time(3600)
        if restarted:
            sleepy.feeder.close()
            sleepy.restart()
        sleepy.reconciler.step()
        assert (states(sleepy, jobs), sleepy.scheduler.cancels) == (HANDED_OVER, [])
        look_on(sleepy, 650)
        assert not states(sleepy, jobs) & HANDED_OVER  # they never came back

    @pytest.mark.parametrize("seen", ABSENT)
    def test_after_a_hint_about_one(self, db: Database, seen: Observed) -> None:
        house, ticks = House(db, scheduler=Telling()), Clock(0.0)
        every_s = 30.0
        times: dict[str, Any] = {"clock": house.clock, "ticks": ticks, "patience": Patience(ticks)}
        house.reconciler = Reconciler(
            db, {"local": house.scheduler}, policy=Policy(), full_look_every_s=every_s, **times
        )
        jobs = [house.submit() for _ in range(3)]
        house.step()
        house.scheduler.show(seen)
        house.reconciler.hint("local", None)
        house.reconciler.step()
        house.pass_time(3600)  # suspended: the clock of the timers stands still
        [first] = attempts_of(house, jobs[0])
        house.reconciler.hint("local", first.native_id)
        house.reconciler.step()
        house.pass_time(every_s)
        ticks.now += every_s
        house.reconciler.step()
        house.feeder.close()
        assert states(house, jobs[1:]) == HANDED_OVER

    def test_that_there_was_no_time_for_at_first(self, db: Database) -> None:
        house = House(db, scheduler=Hurried(), asleep_s=ASLEEP_S)
        jobs = [house.submit() for _ in range(3)]
        house.step()
        house.scheduler.show(Observed.GONE)
        for _ in jobs:
            house.reconciler.step()
        house.pass_time(3600)
        for _ in jobs:
            house.reconciler.step()
            house.pass_time(20)  # the last one is looked at when the grace of the first is over
        house.feeder.close()
        assert states(house, jobs) == HANDED_OVER


class TestUse:
    @pytest.mark.parametrize("asleep_s", [0.0, 36_000.0])
    def test_ends_where_the_node_was_first_missed(self, sleepy: House, asleep_s: float) -> None:
        job = running(sleepy, cores=4)
        look_on(sleepy, 100)
        sleepy.scheduler.show(Observed.UNKNOWN, node="n1")
        sleepy.reconciler.step()
        sleepy.pass_time(asleep_s)
        look_on(sleepy, 750)
        [attempt, *_] = attempts_of(sleepy, job)
        assert sleepy.job(job).state is JobState.RECEIVED
        assert attempt.started_at is not None
        assert attempt.ended_at == attempt.started_at + 100
        assert used(sleepy) == 400


class TestTimeLimit:
    """It passes while the node is out of touch."""

    @pytest.fixture
    def job(self, house: House) -> Job:
        job = running(house, time_limit_s=100)
        house.pass_time(50)
        house.scheduler.show(Observed.UNKNOWN, node="n1")
        house.step()
        return job

    def test_what_is_lost_then_is_not_tried_again(self, house: House, job: Job) -> None:
        look_on(house, 700)
        house.pass_time(1000)
        house.step()
        failed = house.job(job)
        assert (failed.state, failed.cause) == (JobState.FAILED, Cause.NODE_LOST)
        assert "time limit of 100 s reached" in (failed.reason or "")
        assert len(house.scheduler.submits) == 1
        assert len(house.scheduler.cancels) == 1  # the ghost

    @pytest.mark.parametrize(
        ("cause", "state"), [(None, JobState.COMPLETED), (Cause.EXIT, JobState.FAILED)]
    )
    def test_what_ended_in_time_out_there_counts(
        self, house: House, job: Job, cause: Cause | None, state: JobState
    ) -> None:
        look_on(house, 150)
        times = {"started_at": house.clock.now - 200, "ended_at": house.clock.now - 110}
        house.scheduler.show(Observed.ENDED, cause=cause, node="n1", **times)
        house.step()
        ended = house.job(job)
        assert (ended.state, ended.cause, house.scheduler.cancels) == (state, cause, [])

    @pytest.mark.parametrize(("phase", "stops"), [(Phase.EXECUTING, 1), (Phase.UPLOADING, 0)])
    def test_what_is_back_is_stopped_unless_it_uploads(
        self, house: House, job: Job, phase: Phase, stops: int
    ) -> None:
        look_on(house, 150)
        house.scheduler.show(Observed.RUNNING, phase=phase, node="n1")
        house.step()
        assert len(house.scheduler.cancels) == stops


class TestRareLooks:
    """They are no pause each time: a lost node is given up all the same."""

    def test_by_the_pace_of_the_looks(self, sleepy: House) -> None:
        job = sleepy.submit()
        sleepy.step()
        sleepy.scheduler.show(Observed.UNKNOWN)
        look_on(sleepy, 1000, every_s=ASLEEP_S + 1)
        assert sleepy.job(job).state is JobState.RECEIVED

    def test_by_the_interval_that_is_set(self, house: House) -> None:
        house.reconciler = Reconciler(
            house.db,
            {"local": house.scheduler},
            policy=Policy(),
            look_every_s=300,
            clock=house.clock,
            ticks=house.clock,
        )
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.UNKNOWN)
        house.reconciler.step()
        for _ in range(3):  # woken now and then between two looks
            look_on(house, 300, every_s=300)
            look_on(house, 2, every_s=1)
        assert house.job(job).state is JobState.RECEIVED

    def test_but_a_pause_among_quick_ones_is(self, sleepy: House) -> None:
        job = sleepy.submit()
        sleepy.step()
        sleepy.scheduler.show(Observed.UNKNOWN)
        for _ in range(10):
            look_on(sleepy, 100, every_s=1)
            sleepy.pass_time(3600)
        sleepy.reconciler.step()
        assert sleepy.job(job).state is JobState.SUBMITTED
