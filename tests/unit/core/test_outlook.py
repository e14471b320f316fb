"""Who explains asks a scheduler seldom, and not with many threads at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from bridge.connectors.base import Machine, Room
from bridge.core import outlook
from bridge.core.outlook import Rooms
from bridge.errors import ConnectorUnavailable
from bridge.models.identity import Group

ROOM = Room(
    slots=1,
    machines=(Machine(name="n1", cores=1, memory_mb=1, cores_free=1, memory_free_mb=1),),
)
LAB = Group(
    id=UUID(int=1),
    name="lab",
    token="token",
    connector="nomad",
    namespace="g-lab",
    node_pool="g-lab",
    generation=None,
    has_compute_secret=True,
    created_at=0.0,
)


class Pool:
    """Counts how often it is asked; may be slow or away."""

    def __init__(self) -> None:
        self.asked = 0
        self.away: ConnectorUnavailable | None = None
        self.is_asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def room(self, namespace: str, node_pool: str) -> Room:
        assert (namespace, node_pool) == ("g-lab", "g-lab")
        self.asked += 1
        self.is_asked.set()
        assert self.answers.wait(20)
        if self.away is not None:
            raise self.away
        return ROOM


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rooms(pool: Pool, clock: Clock) -> Rooms:
    return Rooms({"nomad": pool}, clock)  # type: ignore[dict-item]  # nothing else is asked


def test_what_was_seen_is_told_again_for_a_while(rooms: Rooms, pool: Pool, clock: Clock) -> None:
    assert [rooms.look(LAB).room for _ in range(5)] == [ROOM] * 5
    assert pool.asked == 1
    clock.now += 2
    rooms.look(LAB)
    assert pool.asked == 2


def test_a_scheduler_that_is_away_is_left_alone_as_long_as_it_says(
    rooms: Rooms, pool: Pool, clock: Clock
) -> None:
    pool.away = ConnectorUnavailable("no answer", retry_after=30)
    assert [rooms.look(LAB).away for _ in range(5)] == ["no answer"] * 5
    clock.now += 29
    rooms.look(LAB)
    assert pool.asked == 1
    clock.now += 1
    pool.away = None
    assert rooms.look(LAB).room == ROOM


def test_only_one_waits_for_a_slow_one(
    rooms: Rooms, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "_PATIENCE_S", 0.01)
    pool.answers.clear()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(rooms.look, LAB)
        assert pool.is_asked.wait(20)
        assert rooms.look(LAB).away == "it is slow to answer."
        pool.answers.set()
        assert first.result(20).room == ROOM
    assert pool.asked == 1


def test_a_connector_that_is_gone_from_the_settings_is_said(clock: Clock) -> None:
    assert Rooms({}, clock).look(LAB).away == "it is not configured here."
