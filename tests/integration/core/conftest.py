"""Core services on a real database (both kinds) with a scheduler in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from bridge.core.access import Access
from bridge.core.feeder import Feeder, Pace
from bridge.core.groups import Groups
from bridge.core.jobs import Jobs
from bridge.core.outlook import Outlook
from bridge.core.patience import Fault, Patience
from bridge.core.reconcile import Reconciler
from bridge.core.sets import Sets
from bridge.core.verdict import Policy
from bridge.db.engine import Database
from bridge.models.identity import Caller
from bridge.models.job import Job, NewJob
from tests.support.fake_connector import FakeConnector
from tests.support.interleave import Other


@dataclass
class Clock:
    """Time that only moves when told to."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    """One bridge without HTTP: group ``lab`` with admin ``root`` and user ``ada``."""

    db: Database
    clock: Clock = field(default_factory=Clock)
    scheduler: FakeConnector = field(default_factory=FakeConnector)
    asleep_s: float = math.inf  # time passes in leaps here
    patience: Patience = field(init=False)
    feeder: Feeder = field(init=False)
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        connectors = {"local": self.scheduler}
        self.restart()
        self.access = Access(self.db, self.clock)
        self.groups = Groups(self.db, self.clock)
        outlook = Outlook(self.db, connectors, faults=self._faults_of, clock=self.clock)
        self.jobs = Jobs(self.db, outlook=outlook, clock=self.clock)
        self.sets = Sets(self.db, outlook=outlook, clock=self.clock)
        _, secret = self.groups.add_group("lab", "root", connector="local")
        self.compute_secret = self.groups.rotate_compute_secret(self.access.by_secret(secret))
        self.root = self.access.by_secret(secret)
        self.ada = self.add_user("ada")

    def restart(self) -> None:
        """The loops of a new process: they remember nothing."""
        connectors = {"local": self.scheduler}
        self.patience = Patience(self.clock)
        times: dict[str, Any] = {
            "clock": self.clock,
            "ticks": self.clock,
            "patience": self.patience,
        }
        self.feeder = Feeder(self.db, connectors, prefix="bridge-t-", pace=Pace(threads=2), **times)
        self.reconciler = Reconciler(
            self.db, connectors, policy=Policy(), asleep_s=self.asleep_s, **times
        )

    def _faults_of(self, connector: str) -> list[Fault]:
        return self.patience.faults(connector)

    def add_user(self, name: str, admin: bool = False) -> Caller:
        return self.access.by_secret(self.groups.add_user(self.root, name, admin))

    def submit(self, caller: Caller | None = None, **fields: object) -> Job:
        new = {"bucket_id": uuid4(), "image": "busybox:1"} | fields
        return self.jobs.submit(caller or self.ada, NewJob(**new))  # type: ignore[arg-type]

    def job(self, job: Job) -> Job:
        return self.jobs.get(self.root, job.id)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def step(self) -> None:
        self.feeder.step()
        self.reconciler.step()


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def scheduler() -> FakeConnector:
    return FakeConnector()


@pytest.fixture
def house(db: Database, scheduler: FakeConnector) -> Iterator[House]:
    built = House(db, scheduler=scheduler)
    yield built
    built.feeder.close()


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
