"""Every process says what the leader met at schedulers, as long as it leads."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy import update

from bridge.core.leader import Leader
from bridge.core.patience import Act, Patience
from bridge.core.tidings import Tidings
from bridge.db.engine import Database
from bridge.db.tables import leases
from bridge.errors import ConnectorUnavailable
from tests.integration.core.conftest import Clock

DENIED = ConnectorUnavailable("Permission denied", "The token lacks list-jobs.", 30, narrow=True)
AWAY = ConnectorUnavailable("no answer", "Start it.", 5)


@dataclass
class Process:
    """What one of several has of these."""

    db: Database
    holder: str
    clock: Clock
    ended: str = ""
    patience: Patience = field(init=False)

    def __post_init__(self) -> None:
        self.patience = Patience(self.clock)
        self.leader = Leader(
            self.db, holder=self.holder, lease_s=60, has_ended=lambda one: one == self.ended
        )
        self.tidings = Tidings(self.leader, self.patience, ["nomad", "local"], self.clock)

    def hears(self, connector: str = "nomad") -> set[tuple[Act, str, str, str]]:
        self.clock.now += 1  # what was heard is old
        return {
            (one.act, one.place, one.message, one.hint) for one in self.tidings.faults(connector)
        }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def one(db: Database, clock: Clock) -> Process:
    made = Process(db, "one", clock)
    assert made.leader.step()
    return made


@pytest.fixture
def two(db: Database, clock: Clock, one: Process) -> Process:
    made = Process(db, "two", clock)
    assert not made.leader.step()
    return made


def fences_and_words(db: Database) -> list[tuple[int, str | None]]:
    query = leases.select().with_only_columns(leases.c.fence, leases.c.told)
    return [(row[0], row[1]) for row in db.read(lambda conn: conn.execute(query).all())]


def test_they_are_heard_by_who_follows(one: Process, two: Process) -> None:
    one.patience.failed("nomad", Act.SWEEP, DENIED, "g-lab")
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    sweep = (Act.SWEEP, "g-lab", "Permission denied", "The token lacks list-jobs.")
    assert two.hears() == one.hears() == {sweep, (Act.FEED, "", "no answer", "Start it.")}
    assert two.hears("local") == one.hears("local") == set()


def test_they_end(one: Process, two: Process) -> None:
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    assert two.hears()
    one.patience.worked("nomad", Act.FEED, "lab")
    one.tidings.tell()
    assert two.hears() == set()


def test_they_are_looked_up_once_a_second(one: Process, two: Process) -> None:
    assert two.hears() == set()
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    assert two.tidings.faults("nomad") == []
    assert two.hears()


def test_they_are_stored_only_as_news(one: Process, db: Database) -> None:
    one.tidings.tell()
    assert fences_and_words(db) == [(1, None)]
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    db.write(lambda conn: conn.execute(update(leases).values(told="seen")))
    one.clock.now += 1
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    assert fences_and_words(db) == [(1, "seen")]


def test_who_has_lost_the_lease_tells_nothing(one: Process, db: Database, clock: Clock) -> None:
    two = Process(db, "two", clock, ended="one")
    assert two.leader.step()
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    assert fences_and_words(db) == [(2, None)]
    assert not one.leader.leads and one.hears() == set()


def test_another_reign_begins_without_them(one: Process, two: Process, db: Database) -> None:
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    one.leader.release()
    assert two.leader.step()
    assert fences_and_words(db) == [(2, None)]
    assert one.hears() == two.hears() == set()
    two.patience.failed("nomad", Act.FEED, AWAY, "lab")
    two.tidings.tell()
    assert one.hears() == two.hears() != set()


def test_nobody_leads(one: Process, two: Process) -> None:
    assert one.tidings.is_led() and two.tidings.is_led()
    one.patience.failed("nomad", Act.FEED, AWAY, "lab")
    one.tidings.tell()
    one.leader.release()
    why = "no process of this service leads, so nobody asks it"
    assert two.hears() == {(Act.FEED, "", why, ""), (Act.LOOK, "", why, "")}
    assert not two.tidings.is_led()


def test_a_leader_of_another_version_is_not_understood(
    one: Process, two: Process, db: Database
) -> None:
    for words in ("", '{"nomad": [{"act": "dance"}]}', "no JSON"):
        db.write(lambda conn: conn.execute(update(leases).values(told=words)))  # noqa: B023
        assert two.hears() == set() and two.tidings.is_led()
