"""A connector that tells of changes is asked about those, and now and then about all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest

from bridge.db.engine import Database
from bridge.models.attempt import Cause, Handle, Observation, Observed
from bridge.models.job import JobState
from tests.integration.core.conftest import House
from tests.support.fake_connector import FakeConnector


class TellingConnector(FakeConnector):
    """Says what changed, and notes what it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.polled: list[set[str]] = []

    def poll(self, handles: Iterable[Handle]) -> dict[Handle, Observation]:
        wanted = list(handles)
        self.polled.append({handle.native_id for handle in wanted})
        return dict(super().poll(wanted))

    def watch(
        self,
        namespaces: Callable[[], Iterable[str]],
        changed: Callable[[str | None], None],
        stopped: threading.Event,
    ) -> None:
        stopped.wait()


@pytest.fixture
def telling(db: Database) -> House:
    house = House(db, scheduler=TellingConnector())
    for _ in range(3):
        house.submit()
    house.step()
    return house


def polled(house: House) -> list[set[str]]:
    assert isinstance(house.scheduler, TellingConnector)
    return house.scheduler.polled


class TestHints:
    def test_only_what_was_told_is_looked_at(self, telling: House) -> None:
        first, *_ = telling.scheduler.shown
        telling.scheduler.show(Observed.ENDED, exit_code=0)
        telling.reconciler.hint("local", first.native_id)
        polled(telling).clear()
        assert telling.reconciler.step() == 1
        assert telling.reconciler.step() == 0
        assert polled(telling) == [{first.native_id}]

    def test_all_are_looked_at_when_hints_may_be_lost(self, telling: House) -> None:
        telling.scheduler.show(Observed.ENDED, exit_code=0)
        telling.reconciler.hint("local", None)
        assert telling.reconciler.step() == 3

    def test_all_are_looked_at_now_and_then(self, telling: House) -> None:
        telling.scheduler.show(Observed.ENDED, exit_code=0)
        assert telling.reconciler.step() == 0
        telling.pass_time(11)
        assert telling.reconciler.step() == 3

    def test_hints_survive_a_scheduler_that_is_away(self, telling: House) -> None:
        telling.scheduler.show(Observed.ENDED, exit_code=0)
        telling.reconciler.hint("local", next(iter(telling.scheduler.shown)).native_id)
        telling.scheduler.away = True
        telling.reconciler.step()
        telling.scheduler.away = False
        telling.pass_time(2)
        assert telling.reconciler.step() == 3

    def test_a_wish_to_stop_needs_no_hint(self, telling: House) -> None:
        (job, *_) = telling.jobs.find(telling.ada)
        telling.jobs.cancel(telling.ada, job.id)
        telling.reconciler.step()
        assert len(telling.scheduler.cancels) == 1

    def test_nor_does_a_deadline(self, db: Database) -> None:
        house = House(db, scheduler=TellingConnector())
        job = house.submit(time_limit_s=5)
        house.step()
        house.scheduler.show(Observed.RUNNING, started_at=house.clock.now)
        house.reconciler.hint("local", None)
        house.reconciler.step()
        house.pass_time(6)
        house.reconciler.step()
        assert len(house.scheduler.cancels) == 1
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.reconciler.hint("local", None)
        house.reconciler.step()
        assert house.job(job).state is JobState.FAILED
