"""What one scheduler says of one attempt does not keep others from being recorded."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import JobState
from tests.integration.core.conftest import House


@pytest.mark.parametrize(
    "said",
    [
        {"reason": "no such \0 file"},
        {"reason": "half \ud83d of a pair"},
        {"exit_code": 0xC0000005},
        {"node": "n" * 300},
    ],
    ids=["nul", "half", "code", "node"],
)
def test_whatever_it_is(house: House, said: dict[str, Any]) -> None:
    submitted = [house.submit() for _ in range(3)]
    house.step()
    house.scheduler.show(Observed.ENDED, cause=Cause.EXIT, exit_code=1)
    one = next(iter(house.scheduler.shown))
    house.scheduler.shown[one] = Observation(state=Observed.ENDED, cause=Cause.EXIT, **said)
    house.step()
    assert {house.job(job).state for job in submitted} == {JobState.FAILED}
