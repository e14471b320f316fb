"""Which attempts are looked at between two looks at all of them."""

from __future__ import annotations

import pytest

from bridge.db import attempts
from bridge.models.attempt import Observed
from bridge.models.job import Phase
from tests.integration.core.conftest import House
from tests.integration.core.scenes import running


def due_now(house: House) -> int:
    now = house.clock.now
    return len(house.db.read(lambda conn: attempts.due(conn, "local", [], now=now, limit=10)))


@pytest.mark.parametrize(("phase", "due"), [(Phase.EXECUTING, 1), (None, 1), (Phase.UPLOADING, 0)])
def test_what_runs_beyond_its_time_is_looked_at_and_uploads_are_not(
    house: House, phase: Phase | None, due: int
) -> None:
    house.submit(time_limit_s=100)
    house.step()
    house.scheduler.show(Observed.RUNNING, phase=phase, started_at=house.clock.now)
    house.step()
    house.pass_time(200)
    assert due_now(house) == due


@pytest.mark.parametrize("absent", [Observed.UNKNOWN, Observed.GONE])
def test_a_time_limit_is_no_reason_to_look_at_what_is_absent(
    house: House, absent: Observed
) -> None:
    """Hundreds on machines out of touch would be asked about at every pass, for nothing."""
    running(house, time_limit_s=100)
    house.scheduler.show(absent)
    house.step()
    house.pass_time(200)
    assert due_now(house) == 0
    house.scheduler.show(Observed.RUNNING)
    house.reconciler.step()
    assert house.scheduler.cancels != []
