"""Nodes that an attempt is kept off if another can have it."""

from __future__ import annotations

from bridge.connectors.base import Machine, Room
from bridge.db.engine import Database
from bridge.models.attempt import Cause, Observed
from tests.integration.core.conftest import House
from tests.support.fake_connector import FakeConnector


def test_the_next_attempt_is_told_where_the_others_failed(house: House) -> None:
    house.submit()
    house.step()
    house.scheduler.show(Observed.ENDED, cause=Cause.INTERNAL, node="n1")
    house.step()
    house.pass_time(60)
    house.step()
    assert [spec.avoid for spec in house.scheduler.specs.values()] == [(), ("n1",)]


class Pool(FakeConnector):
    """A large machine that is in use, and a small one that is not."""

    def room(self, namespace: str, node_pool: str) -> Room:
        large = Machine(name="large", cores=64, memory_mb=64_000, cores_free=8, memory_free_mb=900)
        small = Machine(name="small", cores=8, memory_mb=8000, cores_free=8, memory_free_mb=8000)
        return Room(slots=99, machines=(large, small), queues=True)


def test_a_machine_that_is_kept_for_another_job_is_avoided(db: Database) -> None:
    house = House(db, scheduler=Pool())
    wide = house.submit(cores=64, priority=60)
    narrow = house.submit(memory_mb=500)
    house.feeder.step()
    avoided = {spec.job_id: spec.avoid for spec in house.scheduler.specs.values()}
    assert avoided == {wide.id: (), narrow.id: ("large",)}
    house.feeder.close()
