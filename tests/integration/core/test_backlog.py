"""What waits at a scheduler that others handed it to: a process before, or the leader before."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bridge.connectors.base import Pending
from bridge.models.attempt import Observed
from tests.integration.core.conftest import House
from tests.support.fake_connector import FakeConnector


class Keeper(FakeConnector):
    """Its scheduler keeps what cannot start yet."""

    def __init__(self) -> None:
        super().__init__()
        self.recalled: list[list[Pending]] = []

    def recall(self, pending: Iterable[Pending]) -> None:
        self.recalled.append(list(pending))


@pytest.fixture
def scheduler() -> Keeper:
    return Keeper()


def test_is_recalled_when_a_process_begins(house: House, scheduler: Keeper) -> None:
    house.step()
    job = house.submit(cores=4, memory_mb=512)
    house.step()
    assert scheduler.recalled == [[]]
    [handle] = scheduler.submits
    house.restart()
    house.step()
    assert scheduler.recalled == [[], [Pending(handle, job.cores, job.memory_mb)]]
    house.step()
    assert len(scheduler.recalled) == 2


def test_is_recalled_when_a_reign_begins(house: House, scheduler: Keeper) -> None:
    house.submit()
    house.step()
    house.feeder.begin()
    house.step()
    assert [len(some) for some in scheduler.recalled] == [0, 1]


def test_what_has_a_machine_or_is_to_stop_does_not_wait(house: House, scheduler: Keeper) -> None:
    house.submit()
    house.step()
    scheduler.show(Observed.RUNNING, node="n1", started_at=house.clock.now)
    house.step()
    job = house.submit()
    house.step()
    house.jobs.cancel(house.ada, job.id)
    house.restart()
    house.step()
    assert scheduler.recalled[-1] == []
