"""A job that a node failed is not sent back there if another can have it."""

from __future__ import annotations

from bridge.models.attempt import Cause, Observed
from tests.integration.core.conftest import House


def test_the_next_attempt_is_told_where_the_others_failed(house: House) -> None:
    house.submit()
    house.step()
    house.scheduler.show(Observed.ENDED, cause=Cause.INTERNAL, node="n1")
    house.step()
    house.pass_time(60)
    house.step()
    assert [spec.avoid for spec in house.scheduler.specs.values()] == [(), ("n1",)]
