"""Every loop of the leader writes through its fence: another process has taken the lease, and
this one has not noticed yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from bridge import app
from bridge.app import Bridge, build
from bridge.config import Config, load
from bridge.core.leader import Leader
from bridge.core.patience import Act
from bridge.daemon import Loop, loops
from bridge.db import identity
from bridge.db.engine import Connection, Database
from bridge.db.tables import metadata
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle, Observation, Observed
from bridge.models.identity import Caller
from bridge.models.job import Job, NewJob
from tests.support.fake_connector import FakeConnector

PLACE = "g-lab"
# By any process, whether it leads or not.
EVERYBODYS = {"uses", "unconfigured", "storage", "leader"}


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Config:
    flags = {
        "data_dir": tmp_path,
        "database.url": database_url,
        "storage.embedded": False,
        "queue.forget_after_s": 0.0,
        "queue.retention_days": 1e-9,
    }
    return load(None, {}, flags)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> FakeConnector:
    made = FakeConnector()
    monkeypatch.setitem(app._CONNECTORS, "local", lambda config, prefix: made)
    return made


@pytest.fixture
def bridge(config: Config, scheduler: FakeConnector) -> Iterator[Bridge]:
    built = build(config)
    assert built.leader.step()
    yield built
    built.close()


@pytest.fixture
def thief(bridge: Bridge, config: Config) -> Iterator[Leader]:
    """Another process. It finds that this one has ended, which was only paused."""
    db = Database(config.database.url)
    yield Leader(db, holder="thief", lease_s=60, has_ended=lambda _: True)
    db.close()


@pytest.fixture
def ada(bridge: Bridge) -> Caller:
    _, secret = bridge.groups.add_group("lab", "ada", connector="local")
    bridge.groups.rotate_compute_secret(bridge.access.by_secret(secret))
    return bridge.access.by_secret(secret)


class House:
    """What a loop of ``bridge`` finds to do."""

    def __init__(self, bridge: Bridge, scheduler: FakeConnector, ada: Caller) -> None:
        self.bridge = bridge
        self.scheduler = scheduler
        self.ada = ada

    def waiting(self) -> Job:
        return self.bridge.jobs.submit(self.ada, NewJob(bucket_id=uuid4(), image="a:1"))

    def handed_over(self) -> None:
        self.waiting()
        assert self.bridge.feeder.step() == 1

    def ended_at_the_scheduler(self) -> None:
        self.handed_over()
        self.scheduler.show(Observed.ENDED)

    def ended(self) -> None:
        self.ended_at_the_scheduler()
        assert self.bridge.reconciler.step() == 1

    def forgotten(self) -> None:
        self.ended()
        assert self.bridge.reconciler.forget() == 1

    def a_later_attempt(self) -> None:
        """As after a restore; its job goes on with that one."""
        handle = Handle(self.bridge.feeder.native_id(self.waiting().id, 7), PLACE)
        self.scheduler.shown[handle] = Observation(state=Observed.RUNNING)

    def for_nodes_of_no_use(self) -> None:
        """Another compute secret counts by now: it is taken back, and handed over anew."""
        self.handed_over()
        group = self.ada.group.id
        self.bridge.db.write(lambda conn: identity.set_compute_secret(conn, group, None, "other"))

    def refused(self) -> None:
        """Told to other processes beside the lease."""
        away = ConnectorUnavailable("Permission denied", retry_after=30, narrow=True)
        self.bridge.patience.failed("local", Act.FEED, away, PLACE)


TO_DO: dict[str, Callable[[House], object]] = {
    "feeder": House.waiting,
    "reconciler": House.ended_at_the_scheduler,
    "sweeper": House.a_later_attempt,
    "forgetter": House.ended,
    "nodes": House.for_nodes_of_no_use,
    "archiver": House.forgotten,
    "tidings": House.refused,
}


def stored(db: Database) -> dict[str, list[dict[str, object]]]:
    """Everything."""

    def read(conn: Connection) -> dict[str, list[dict[str, object]]]:
        return {
            table.name: [
                dict(row)
                for row in conn.execute(select(table).order_by(*table.primary_key)).mappings()
            ]
            for table in metadata.sorted_tables
        }

    return db.read(read)


def leaders_loops(bridge: Bridge, config: Config) -> dict[str, Loop]:
    found = {loop.name: loop for loop in loops(bridge, config, str)}
    return {name: loop for name, loop in found.items() if name not in EVERYBODYS}


def test_they_are_all_here(bridge: Bridge, config: Config) -> None:
    assert leaders_loops(bridge, config).keys() == TO_DO.keys()


@pytest.mark.parametrize("name", TO_DO)
def test_nothing_is_written_without_the_lease(
    bridge: Bridge,
    config: Config,
    scheduler: FakeConnector,
    thief: Leader,
    ada: Caller,
    name: str,
) -> None:
    act = leaders_loops(bridge, config)[name]._act
    TO_DO[name](House(bridge, scheduler, ada))
    assert thief.step()
    before = stored(bridge.db)
    act()
    assert stored(bridge.db) == before
    assert not bridge.leader.leads
    thief.release()
    assert bridge.leader.step()
    before = stored(bridge.db)
    act()
    assert stored(bridge.db) != before  # so there was something to do
