"""What a scheduler refuses in one place, or for one attempt, holds up nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from bridge.core.feeder import Feeder, Pace
from bridge.core.patience import Act, Fault
from bridge.core.reconcile import Reconciler
from bridge.core.verdict import Policy
from bridge.db import attempts, instance
from bridge.db.engine import Database
from bridge.errors import JobRejected, LeaseLost
from bridge.models.attempt import AttemptSpec, AttemptState, Cause, Handle, Observation, Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState
from bridge.points import Point
from tests.integration.core.conftest import Clock, House
from tests.integration.core.scenes import attempts_of
from tests.support.interleave import at
from tests.support.picky_connector import RETRY_S, PickyConnector

LAB, DEN = "g-lab", "g-den"  # in the order in which their groups are served


@dataclass
class Homes(House):
    """Two groups; ``bob`` is of the second."""

    scheduler: PickyConnector = field(default_factory=PickyConnector)

    def __post_init__(self) -> None:
        super().__post_init__()
        _, secret = self.groups.add_group("den", "bob", connector="local")
        self.groups.rotate_compute_secret(self.access.by_secret(secret))
        self.bob = self.access.by_secret(secret)

    def both(self) -> tuple[Job, Job]:
        """A job of each group, handed over."""
        jobs = self.submit(), self.submit(self.bob)
        self.feeder.step()
        assert {self.of(self.ada, jobs[0]).state, self.of(self.bob, jobs[1]).state} == {
            JobState.SUBMITTED
        }
        return jobs

    def of(self, caller: Caller, job: Job) -> Job:
        return self.jobs.get(caller, job.id)

    def show(self, job: Job, state: Observed, cause: Cause | None = None) -> None:
        [one] = attempts_of(self, job)
        handle = Handle(one.native_id, one.namespace)
        self.scheduler.shown[handle] = Observation(state=state, cause=cause)

    def faults(self) -> list[Fault]:
        return self.patience.faults("local")

    def places(self) -> set[tuple[Act, str]]:
        return {(fault.act, fault.place) for fault in self.faults()}


@pytest.fixture
def homes(db: Database) -> Iterator[Homes]:
    built = Homes(db)
    yield built
    built.feeder.close()


class TestFeeding:
    @pytest.mark.parametrize("call", ["room", "submit"])
    def test_the_other_groups_are_fed(self, homes: Homes, call: str) -> None:
        homes.scheduler.refuse(call, LAB)
        homes.submit()
        first = homes.submit(homes.bob)
        homes.feeder.step()
        assert homes.of(homes.bob, first).state is JobState.SUBMITTED
        second = homes.submit(homes.bob)
        homes.feeder.step()  # at once, not after the delay of the other group
        assert homes.of(homes.bob, second).state is JobState.SUBMITTED
        assert {spec.group for spec in homes.scheduler.specs.values()} == {"den"}

    @pytest.mark.parametrize("call", ["room", "submit"])
    def test_who_was_refused_is_served_once_that_is_mended(self, homes: Homes, call: str) -> None:
        homes.scheduler.refuse(call, LAB)
        job = homes.submit()
        homes.feeder.step()
        homes.scheduler.allow()
        homes.pass_time(61)  # the delay, and a claim that may stand
        homes.feeder.step()
        assert homes.of(homes.ada, job).state is JobState.SUBMITTED
        assert [spec.group for spec in homes.scheduler.specs.values()] == ["lab"]
        assert homes.job(job).attempt == 1

    def test_it_is_not_asked_again_at_once(self, homes: Homes) -> None:
        homes.scheduler.refuse("room", LAB)
        homes.submit()
        for _ in range(3):
            homes.feeder.step()
        assert homes.scheduler.calls["room"] == 1
        homes.pass_time(RETRY_S)
        homes.feeder.step()
        assert homes.scheduler.calls["room"] == 2

    def test_one_that_does_not_answer_is_asked_once_for_all(self, homes: Homes) -> None:
        homes.scheduler.away = True
        homes.submit()
        homes.submit(homes.bob)
        homes.feeder.step()
        assert homes.scheduler.calls["room"] == 1
        assert homes.places() == {(Act.FEED, "")}

    def test_claims_that_cannot_be_handed_over_hold_up_nobody(self, homes: Homes) -> None:
        homes.scheduler.refuse("submit", LAB)
        homes.submit()
        homes.feeder.step()
        homes.pass_time(61)  # the claim has run out
        job = homes.submit(homes.bob)
        homes.feeder.step()
        assert homes.of(homes.bob, job).state is JobState.SUBMITTED
        assert homes.scheduler.calls["submit"] == 3

    def test_it_is_said_which_right_is_missing_until_it_is_there(self, homes: Homes) -> None:
        homes.scheduler.refuse("submit", LAB)
        homes.submit()
        homes.submit(homes.bob)
        homes.feeder.step()
        homes.reconciler.step()
        homes.reconciler.sweep()
        [fault] = homes.faults()
        assert (fault.act, fault.place) == (Act.FEED, "lab")
        assert fault.hint == "The token lacks submit-job."
        homes.scheduler.allow()
        homes.pass_time(61)
        homes.feeder.step()
        assert homes.faults() == []


class TestGivingUp:
    def test_a_pass_that_is_given_up_leaves_no_call_behind(self, house: House) -> None:
        """The lease may be another's by then."""
        first, over = threading.Lock(), []

        def call(spec: AttemptSpec) -> None:
            if first.acquire(blocking=False):
                raise LeaseLost
            threading.Event().wait(0.3)
            over.append(spec.handle)

        house.scheduler.before_submit = call
        for _ in range(2):
            house.submit()
        with pytest.raises(LeaseLost):
            house.feeder.step()
        assert len(over) == 1

    def test_a_fault_that_nobody_foresaw_holds_up_no_other(self, house: House) -> None:
        first, second = house.submit(), house.submit()

        def call(spec: AttemptSpec) -> None:
            if spec.job_id == first.id:
                raise KeyError("of our own")

        house.scheduler.before_submit = call
        house.feeder.step()
        assert house.job(second).state is JobState.SUBMITTED
        house.scheduler.before_submit = lambda spec: None
        house.pass_time(61)
        house.feeder.step()
        assert {spec.job_id for spec in house.scheduler.specs.values()} == {first.id, second.id}

    def test_a_refusal_under_a_lost_claim_ends_nothing(self, house: House) -> None:
        job = house.submit()

        def take_over(spec: AttemptSpec) -> None:
            house.scheduler.before_submit = lambda spec: None
            house.pass_time(61)
            house.feeder.step()
            raise JobRejected("too large, it said then")

        house.restart()
        slow = Feeder(
            house.db,
            {"local": house.scheduler},
            prefix="bridge-t-",
            pace=Pace(threads=2),
            clock=house.clock,
            ticks=house.clock,
        )
        house.scheduler.before_submit = take_over
        slow.step()
        slow.close()
        assert house.job(job).state is JobState.SUBMITTED
        assert [one.state for one in attempts_of(house, job)] == [AttemptState.SUBMITTED]

    def test_a_refusal_ends_the_job(self, house: House) -> None:
        def refuse(spec: AttemptSpec) -> None:
            raise JobRejected("too large")

        job = house.submit()
        house.scheduler.before_submit = refuse
        house.feeder.step()
        found = house.job(job)
        assert (found.state, found.reason) == (JobState.FAILED, "too large")


class TestLooking:
    def test_is_refused_in_one_namespace(self, homes: Homes) -> None:
        ours, theirs = homes.both()
        homes.scheduler.refuse("poll", LAB)
        homes.scheduler.show(Observed.ENDED, exit_code=0)
        assert homes.reconciler.step() == 1
        assert homes.of(homes.bob, theirs).state is JobState.COMPLETED
        assert homes.of(homes.ada, ours).state is JobState.SUBMITTED
        assert homes.places() == {(Act.LOOK, LAB)}
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert homes.reconciler.step() == 1
        assert homes.faults() == []

    def test_one_that_does_not_answer_is_asked_once(self, homes: Homes) -> None:
        homes.both()
        homes.scheduler.away = True
        homes.scheduler.calls.clear()
        for _ in range(3):
            homes.reconciler.step()
            homes.reconciler.sweep()
        assert homes.scheduler.calls == {"poll": 1, "sweep": 1}

    @pytest.mark.parametrize("call", ["sweep", "forget"])
    def test_goes_on_though_something_else_is_refused(self, homes: Homes, call: str) -> None:
        for _ in range(2):  # one to forget, and one to look at
            job, _ = homes.both()
            homes.scheduler.show(Observed.ENDED, exit_code=0)
            if call == "forget":
                homes.reconciler.step()
                homes.pass_time(601)
            homes.scheduler.refuse(call, LAB)
            homes.reconciler.sweep()
            homes.reconciler.forget()
            homes.reconciler.step()
            assert homes.of(homes.ada, job).state is JobState.COMPLETED

    def test_a_stop_that_is_refused_holds_up_no_end(self, homes: Homes) -> None:
        ours, theirs = homes.both()
        mine = homes.submit()
        homes.feeder.step()
        homes.scheduler.refuse("cancel", LAB)
        homes.jobs.cancel(homes.ada, ours.id)
        homes.show(theirs, Observed.ENDED)
        homes.show(mine, Observed.ENDED)
        assert homes.reconciler.step() == 2
        assert homes.of(homes.bob, theirs).state is JobState.COMPLETED
        assert homes.of(homes.ada, mine).state is JobState.COMPLETED
        assert homes.places() == {(Act.STOP, LAB)}
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        homes.reconciler.step()
        [stopped] = attempts_of(homes, ours)
        assert homes.scheduler.cancels == [Handle(stopped.native_id, LAB)]

    def test_a_stop_that_always_fails_holds_up_no_other_stop(self, homes: Homes) -> None:
        ours, theirs = homes.both()
        [broken] = attempts_of(homes, ours)
        homes.scheduler.break_down(
            lambda call, of: of.native_id == broken.native_id and call == "cancel"
        )
        homes.jobs.cancel(homes.ada, ours.id)
        homes.jobs.cancel(homes.bob, theirs.id)
        for _ in range(3):
            homes.reconciler.step()
            homes.pass_time(2)
        assert [handle.namespace for handle in homes.scheduler.cancels] == [DEN]

    def test_a_lost_node_stays_a_wish_while_its_stop_is_refused(self, homes: Homes) -> None:
        ours, _ = homes.both()
        homes.show(ours, Observed.UNKNOWN)
        homes.reconciler.step()
        homes.pass_time(601)
        homes.scheduler.refuse("cancel", LAB)
        homes.reconciler.step()
        assert homes.of(homes.ada, ours).state is JobState.SUBMITTED
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert homes.reconciler.step() == 1
        assert homes.of(homes.ada, ours).state is JobState.RECEIVED


class TestForgetting:
    def end_all(self, homes: Homes, count: int) -> None:
        for _ in range(count):
            homes.submit()
            homes.submit(homes.bob)
        for _ in range(count):
            homes.feeder.step()
        homes.scheduler.show(Observed.ENDED, exit_code=0)
        homes.reconciler.step()
        homes.pass_time(601)

    def test_is_refused_in_one_namespace(self, homes: Homes) -> None:
        self.end_all(homes, 2)
        homes.scheduler.refuse("forget", LAB)
        assert homes.reconciler.forget() == 2
        assert {handle.namespace for handle in homes.scheduler.forgotten} == {DEN}
        assert homes.scheduler.calls["forget"] == 3
        assert homes.places() == {(Act.FORGET, LAB)}
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert homes.reconciler.forget() == 2

    def test_one_that_always_fails_holds_up_no_other(self, homes: Homes) -> None:
        self.end_all(homes, 2)
        oldest, *_ = homes.db.read(
            lambda conn: attempts.to_forget(conn, "local", before=homes.clock(), limit=9)
        )
        homes.scheduler.break_down(lambda call, of: of == oldest[1])
        assert homes.reconciler.forget() == 0
        homes.pass_time(30)
        assert homes.reconciler.forget() == 3

    def test_all_that_is_due_goes_in_one_pass(
        self, homes: Homes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bridge.core.forget._BATCH", 3)
        self.end_all(homes, 4)
        homes.scheduler.refuse("forget", LAB)
        assert homes.reconciler.forget() == 4
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert homes.reconciler.forget() == 4
        assert homes.reconciler.forget() == 0

    def test_a_pass_ends_in_time_for_the_next(
        self, homes: Homes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bridge.core.forget._BATCH", 3)
        self.end_all(homes, 4)
        with at(Point.FORGET_COMMITTED, lambda: homes.pass_time(30)):
            assert homes.reconciler.forget() == 3
        assert homes.reconciler.forget() == 5


class TestSweepAfterRestore:
    @pytest.fixture(autouse=True)
    def restored(self, homes: Homes) -> None:
        homes.submit()
        homes.feeder.step()
        homes.db.write(lambda conn: instance.get_or_create(conn, now=homes.clock()))
        homes.db.write(lambda conn: instance.start_epoch(conn, above=1, now=homes.clock()))
        homes.restart()

    def swept(self, homes: Homes) -> bool:
        homes.reconciler.sweep()
        return homes.db.read(instance.is_swept)

    def test_a_group_that_nobody_ever_set_up_is_not_waited_for(self, homes: Homes) -> None:
        homes.scheduler.refuse("sweep", DEN)
        assert self.swept(homes)

    def test_one_that_had_attempts_is(self, homes: Homes) -> None:
        homes.scheduler.refuse("sweep", LAB)
        assert not self.swept(homes)
        assert not self.swept(homes)  # not asked again yet
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert self.swept(homes)

    def test_one_whose_attempts_are_all_forgotten_is(self, homes: Homes) -> None:
        homes.scheduler.show(Observed.ENDED, exit_code=0)
        homes.reconciler.step()
        homes.pass_time(601)
        assert homes.reconciler.forget() == 1
        homes.scheduler.refuse("sweep", LAB)
        assert not self.swept(homes)

    def test_a_scheduler_that_does_not_answer_is(self, homes: Homes) -> None:
        homes.scheduler.refuse("sweep", LAB)
        homes.scheduler.away = True
        assert not self.swept(homes)
        assert not self.swept(homes)

    def test_a_stray_that_cannot_be_stopped_is_not_waited_for(self, homes: Homes) -> None:
        stray = Handle("bridge-t-0123456789abcdef0123456789abcdef-1", LAB)
        homes.scheduler.shown[stray] = Observation(state=Observed.RUNNING)
        homes.scheduler.refuse("cancel", LAB)
        assert self.swept(homes)
        homes.scheduler.allow()
        homes.pass_time(RETRY_S)
        assert homes.reconciler.sweep() == 1
        assert homes.scheduler.cancels == [stray]


class TestPauses:
    """We are paused, as a virtual machine or a laptop is."""

    @pytest.mark.parametrize("seen", [Observed.UNKNOWN, Observed.GONE])
    def test_between_answer_and_judgement(self, house: House, seen: Observed) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(seen)
        house.reconciler.step()
        house.pass_time(5)
        with at(Point.OBSERVE_POLLED, lambda: house.pass_time(700)):
            house.reconciler.step()
        house.scheduler.show(Observed.RUNNING)
        house.reconciler.step()
        assert (house.job(job).state, house.scheduler.cancels) == (JobState.RUNNING, [])

    @pytest.mark.parametrize("seen", [Observed.UNKNOWN, Observed.GONE])
    def test_between_two_looks(self, db: Database, seen: Observed) -> None:
        house = House(db, asleep_s=60)
        try:
            job = house.submit()
            house.step()
            house.scheduler.show(seen)
            house.reconciler.step()
            house.pass_time(700)
            house.reconciler.step()  # the node is not back yet either
            assert house.job(job).state is JobState.SUBMITTED
            for _ in range(14):
                house.pass_time(50)
                house.reconciler.step()
            assert house.job(job).state is JobState.RECEIVED  # it never came
        finally:
            house.feeder.close()

    def test_while_the_scheduler_could_not_be_asked(self, db: Database) -> None:
        house = House(db, asleep_s=60)
        try:
            job = house.submit()
            house.step()
            house.scheduler.show(Observed.UNKNOWN)
            house.reconciler.step()
            house.scheduler.away = True
            for _ in range(20):
                house.pass_time(50)
                house.reconciler.step()
            house.scheduler.away = False
            house.pass_time(2)
            house.reconciler.step()
            assert house.job(job).state is JobState.SUBMITTED
        finally:
            house.feeder.close()


@pytest.mark.parametrize("back_s", [0.0, 3600.0])
def test_a_clock_that_is_put_back_silences_nobody(house: House, back_s: float) -> None:
    ticks = Clock(0.0)
    house.clock.now += 7200
    connectors = {"local": house.scheduler}
    times: dict[str, Any] = {"clock": house.clock, "ticks": ticks}
    feeder = Feeder(house.db, connectors, prefix="bridge-t-", pace=Pace(threads=1), **times)
    reconciler = Reconciler(house.db, connectors, policy=Policy(), **times)
    done = house.submit()
    feeder.step()
    house.scheduler.away = True
    waiting = house.submit()
    feeder.step()
    reconciler.step()
    house.scheduler.away = False
    house.scheduler.show(Observed.ENDED, exit_code=0)
    house.pass_time(-back_s)
    assert (reconciler.step(), len(house.scheduler.submits)) == (0, 1)
    ticks.now += 2
    later = house.submit()
    assert reconciler.step() == 1
    feeder.step()
    feeder.close()
    assert house.job(done).state is JobState.COMPLETED
    assert house.job(waiting).state is JobState.SUBMITTED
    assert len(house.scheduler.submits) == 3
    assert house.job(later).state is JobState.SUBMITTED
