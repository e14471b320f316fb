"""Which attempts are looked at between two looks at all of them."""

from __future__ import annotations

import pytest

from bridge.db import attempts
from bridge.models.attempt import Observed
from bridge.models.job import Phase
from tests.integration.core.conftest import House


@pytest.mark.parametrize(("phase", "due"), [(Phase.EXECUTING, 1), (None, 1), (Phase.UPLOADING, 0)])
def test_what_runs_beyond_its_time_is_looked_at_and_uploads_are_not(
    house: House, phase: Phase | None, due: int
) -> None:
    house.submit(time_limit_s=100)
    house.step()
    house.scheduler.show(Observed.RUNNING, phase=phase, started_at=house.clock.now)
    house.step()
    house.pass_time(200)
    found = house.db.read(
        lambda conn: attempts.due(conn, "local", [], now=house.clock.now, limit=10)
    )
    assert len(found) == due
