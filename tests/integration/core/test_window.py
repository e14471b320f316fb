"""How much leaves the queue: what can start, a small reserve, and no more than the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bridge.connectors.base import Machine, Room
from bridge.core.feeder import Feeder, Pace
from bridge.core.queue import Reserve
from bridge.db import queue
from bridge.db.engine import Connection, Database
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Cause, Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState
from tests.integration.core.conftest import Clock, House
from tests.support.fake_connector import FakeConnector

CORES = 8


class Pool(FakeConnector):
    """One machine, whose scheduler keeps what cannot start yet; what it took starts at once
    where there is room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.cores = CORES
        self.refuses: set[str] = set()  # namespaces, to register in
        self.narrow = True

    def room(self, namespace: str, node_pool: str) -> Room:
        """Of all groups together."""
        self._ask()
        alive = [h for h, seen in self.shown.items() if seen.state is not Observed.ENDED]
        free = max(self.cores - sum(self.specs[handle].cores for handle in alive), 0)
        one = Machine(
            name="m", cores=self.cores, memory_mb=99_999, cores_free=free, memory_free_mb=99_999
        )
        return Room(slots=9999, machines=(one,), queues=True)

    def submit(self, spec: AttemptSpec) -> None:
        self.calls += 1
        if spec.handle.namespace in self.refuses:
            raise ConnectorUnavailable("500 to register", retry_after=1.0, narrow=self.narrow)
        super().submit(spec)


@pytest.fixture
def scheduler() -> Pool:
    return Pool()


class Ticking(Clock):
    """It moves between any two looks."""

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
def house(db: Database, scheduler: Pool) -> Iterator[House]:
    built = House(db, clock=Ticking(), scheduler=scheduler)
    yield built
    built.feeder.close()


@pytest.fixture
def second(house: House) -> Caller:
    """A member of another group on the same scheduler."""
    _, secret = house.groups.add_group("den", "bob", connector="local")
    house.groups.rotate_compute_secret(house.access.by_secret(secret))
    return house.access.by_secret(secret)


@pytest.fixture
def paced(house: House) -> Iterator[Any]:
    feeders: list[Feeder] = []

    def make(**pace: Any) -> Feeder:
        house.feeder.close()
        house.feeder = Feeder(
            house.db,
            {"local": house.scheduler},
            prefix="bridge-t-",
            pace=Pace(threads=2, **pace),
            patience=house.patience,
            clock=house.clock,
            ticks=house.clock,
        )
        feeders.append(house.feeder)
        return house.feeder

    yield make
    for feeder in feeders:
        feeder.close()


def states(house: House, jobs: list[Job]) -> Counter[JobState]:
    return Counter(house.job(job).state for job in jobs)


class TestWhileNothingIsTaken:
    @pytest.mark.parametrize("narrow", [True, False])
    def test_no_more_leave_the_queue(self, house: House, scheduler: Pool, narrow: bool) -> None:
        jobs = [house.submit() for _ in range(150)]
        scheduler.refuses, scheduler.narrow = {"g-lab"}, narrow
        calls = []
        for _ in range(450):
            scheduler.calls = 0
            house.step()
            house.pass_time(0.3)
            calls.append(scheduler.calls)
        left = states(house, jobs)[JobState.SUBMITTED]
        fits = CORES + Reserve().least
        assert fits <= left <= fits + 70  # by turns with those that left, another one is tried
        assert (max(calls[1:]), calls[0]) == (1, fits)  # also when their claims have run out
        scheduler.refuses = set()
        for _ in range(6):
            house.pass_time(1.5)
            house.step()
        taken = {spec.job_id for spec in scheduler.specs.values()}
        assert taken >= {job.id for job in jobs[:left]}

    @pytest.mark.parametrize("narrow", [True, False])
    def test_all_are_tried_again_once_it_works(
        self, house: House, scheduler: Pool, narrow: bool
    ) -> None:
        jobs = [house.submit() for _ in range(10)]
        scheduler.refuses, scheduler.narrow = {"g-lab"}, narrow
        house.step()
        scheduler.refuses = set()
        for _ in range(2):
            house.pass_time(1.5)
            house.step()
        assert len(scheduler.submits) == len(jobs)

    @pytest.mark.parametrize("narrow", [True, False])
    def test_one_that_is_never_taken_delays_no_other(
        self, house: House, scheduler: Pool, narrow: bool
    ) -> None:
        never = house.submit()

        def call(spec: AttemptSpec) -> None:
            if spec.job_id == never.id:
                raise ConnectorUnavailable("500 to register", retry_after=1.0, narrow=narrow)

        scheduler.before_submit = call
        house.step()
        others = [house.submit() for _ in range(CORES)]
        for _ in range(8):
            house.pass_time(1.5)
            house.step()
        assert states(house, others) == {JobState.SUBMITTED: len(others)}
        assert len(scheduler.submits) == len(others)

    def test_a_call_that_was_not_made_tells_nothing(self, house: House, scheduler: Pool) -> None:
        """Their claims ran out while others were waited for."""
        jobs = [house.submit() for _ in range(9)]

        def hang(spec: AttemptSpec) -> None:
            house.pass_time(61)
            raise ConnectorUnavailable("no answer", retry_after=1.0)

        scheduler.before_submit = hang
        house.step()
        for _ in range(20):
            scheduler.calls = 0
            house.pass_time(2)
            house.step()
            assert scheduler.calls <= 1
        scheduler.before_submit = lambda spec: None
        for _ in range(4):
            house.pass_time(2)
            house.step()
        assert states(house, jobs) == {JobState.SUBMITTED: len(jobs)}

    def test_a_fault_of_ours_empties_no_queue(self, house: House, scheduler: Pool) -> None:
        jobs = [house.submit() for _ in range(60)]

        def fault(spec: AttemptSpec) -> None:
            raise TypeError("our own")

        scheduler.before_submit = fault
        for _ in range(30):
            house.pass_time(0.5)
            house.step()
        assert states(house, jobs)[JobState.SUBMITTED] <= CORES + Reserve().least + 3
        sentence = house.jobs.explain(house.ada, jobs[0].id).sentence
        assert "a fault of this program (TypeError)" in sentence

    def test_what_is_canceled_meanwhile_is_not_handed_over(
        self, house: House, scheduler: Pool
    ) -> None:
        job = house.submit()
        scheduler.refuses = {"g-lab"}
        house.step()
        house.jobs.cancel(house.ada, job.id)
        scheduler.refuses = set()
        for _ in range(70):
            house.pass_time(2)
            house.step()
        assert (house.job(job).state, scheduler.submits) == (JobState.CANCELED, [])

    def test_another_group_is_fed(self, house: House, scheduler: Pool, second: Caller) -> None:
        ours = house.submit()
        scheduler.refuses = {"g-lab"}
        house.step()
        theirs = [house.submit(second) for _ in range(3)]
        for _ in range(3):
            house.pass_time(0.3)
            house.step()
        assert {spec.job_id for spec in scheduler.specs.values()} == {job.id for job in theirs}
        scheduler.refuses = set()
        house.pass_time(1)
        house.step()
        assert ours.id in {spec.job_id for spec in scheduler.specs.values()}


class TestLimits:
    def test_of_all_that_waits_at_a_scheduler(
        self, house: House, scheduler: Pool, second: Caller, paced: Any
    ) -> None:
        paced(reserve=Reserve(least=6, most=6), reserve_total=9)
        blocker = house.submit(cores=CORES)
        house.step()
        assert house.job(blocker).state is JobState.SUBMITTED
        scheduler.show(Observed.RUNNING, started_at=house.clock.now)
        house.step()
        for _ in range(20):
            house.submit(cores=CORES)
            house.submit(second, cores=CORES)
        for _ in range(3):
            house.step()
        taken = Counter(spec.group for spec in scheduler.specs.values())
        assert taken == {"lab": 1 + 6, "den": 3}

    @pytest.mark.parametrize(
        ("limit", "mine", "all_of_it"), [("running_per_user", 2, 4), ("running_per_group", 3, 3)]
    )
    def test_of_what_runs(
        self, house: House, scheduler: Pool, paced: Any, limit: str, mine: int, all_of_it: int
    ) -> None:
        paced(**{limit: mine})
        eve = house.add_user("eve")
        jobs = [house.submit() for _ in range(6)]
        jobs += [house.submit(eve) for _ in range(6)]
        for _ in range(3):
            house.step()
            scheduler.show(Observed.RUNNING, started_at=house.clock.now)
            house.pass_time(1)
        assert states(house, jobs)[JobState.RUNNING] == all_of_it
        # What is tried again takes its place anew.
        scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
        for _ in range(3):
            house.pass_time(100)
            house.step()
        assert len(scheduler.submits) == 2 * all_of_it
        owners = Counter(
            house.job(job).user_id for job in jobs if house.job(job).state is JobState.SUBMITTED
        )
        assert owners.total() == all_of_it
        assert limit != "running_per_user" or set(owners.values()) == {mine}


class TestWhatFitsNoMachine:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many rows of lines each statement gave; of few, a pass reads no more."""
        monkeypatch.setattr(queue, "_IN_VAIN", 40)
        monkeypatch.setattr(queue, "_MOST", 8)
        monkeypatch.setattr(queue, "_MOST_IN_VAIN", 16)
        counted: list[int] = []
        every = queue._JOBS.all

        def all_of(conn: Connection, **values: object) -> list[Sequence[Any]]:
            rows = every(conn, **values)
            counted.append(len(rows))
            return rows

        monkeypatch.setattr(queue._JOBS, "all", all_of)
        return counted

    def test_of_very_many_a_pass_reads_some(self, house: House, read: list[int]) -> None:
        for _ in range(300):
            house.submit(cores=CORES + 1)
        small = house.submit()
        passes = 0
        while house.job(small).state is JobState.RECEIVED:
            read.clear()
            house.pass_time(0.5)
            house.step()
            passes += 1
            assert sum(read) <= 40 + 16
            assert passes <= 12
        # It goes on from there for what comes later, and soon begins anew.
        later, old = house.submit(), house.submit(cores=CORES + 1)
        for _ in range(2):
            house.pass_time(0.5)
            house.step()
        assert house.job(later).state is JobState.SUBMITTED
        assert house.job(old).state is JobState.RECEIVED

    def test_what_comes_back_is_found(self, house: House, read: list[int]) -> None:
        for _ in range(100):
            house.submit(cores=CORES + 1)
        held = house.submit(hold=True)
        for _ in range(100):
            house.submit(cores=CORES + 1)
        for _ in range(20):
            house.pass_time(0.5)
            house.step()
        house.jobs.release(house.ada, held.id)
        for _ in range(140):
            house.pass_time(0.5)
            house.step()
        assert house.job(held).state is JobState.SUBMITTED

    def test_a_larger_machine_begins_anew(
        self, house: House, scheduler: Pool, read: list[int]
    ) -> None:
        large = [house.submit(cores=2 * CORES) for _ in range(100)]
        for _ in range(10):
            house.pass_time(0.5)
            house.step()
        scheduler.cores = 2 * CORES
        house.pass_time(0.5)
        house.step()
        assert house.job(large[0]).state is JobState.SUBMITTED

    @pytest.mark.parametrize("how", ["mine", "others"])
    def test_holds_up_nobody(self, house: House, db: Database, how: str) -> None:
        eve = house.add_user("eve")
        for number in range(300):
            house.submit(cores=CORES + 1, priority=50 + number % 20)
        small = house.submit(house.ada if how == "mine" else eve)
        house.step()
        assert house.job(small).state is JobState.SUBMITTED

    def test_is_not_ahead_of_what_waits_for_its_turn(self, house: House) -> None:
        for _ in range(200):
            house.submit(cores=CORES + 1)
        blocker, waits = house.submit(cores=CORES), house.submit(hold=True)
        house.step()
        assert house.job(blocker).state is JobState.SUBMITTED
        house.jobs.release(house.ada, waits.id)
        assert "No job is ahead of it" in house.jobs.explain(house.ada, waits.id).sentence
