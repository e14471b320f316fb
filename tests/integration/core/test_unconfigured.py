"""Connectors that were taken out of the configuration while groups or attempts need them."""

from __future__ import annotations

import pytest

from bridge.core.unconfigured import Unconfigured
from bridge.db.engine import Database
from bridge.db.unconfigured import UnconfiguredConnector, connectors
from bridge.errors import NotFound
from bridge.models.attempt import Observed
from bridge.models.job import JobState
from tests.integration.core.conftest import House

BACK = "Name local in `connectors` of the configuration again"
GROUPS = "there are 2 groups to be served by it"
MOVE = "`nomad-bridge groups move` lets another connector serve a group."


def told(house: House, *configured: str) -> list[tuple[str, str, str]]:
    found = Unconfigured(house.db, configured).findings()
    assert not any(one.ok for one in found) and all(one.degrades for one in found)
    return [(one.what, one.detail, one.remedy) for one in found]


def test_all_are_configured(house: House) -> None:
    house.submit()
    house.step()
    assert told(house, "local", "nomad") == []


def test_of_a_group_and_its_attempts(house: House) -> None:
    assert told(house, "nomad") == [
        (
            "connector local",
            "it is not configured, and there is 1 group to be served by it",
            f"{BACK}. {MOVE}",
        )
    ]
    jobs = [house.submit() for _ in range(3)]
    house.step()
    house.jobs.cancel(house.ada, jobs[0].id)
    house.groups.add_group("den", "bob", connector="local")
    assert told(house, "nomad") == [
        (
            "connector local",
            f"it is not configured, and {GROUPS} and 3 attempts that nobody follows or can stop",
            f"{BACK} until they have ended and are forgotten. {MOVE}",
        )
    ]


def test_of_attempts_whose_group_was_moved(house: House) -> None:
    house.submit()
    house.step()
    assert house.groups.move_group("lab", "nomad").connector == "nomad"
    [(_, detail, remedy)] = told(house, "nomad")
    assert detail == "it is not configured, and there is 1 attempt that nobody follows or can stop"
    assert remedy == f"{BACK} until they have ended and are forgotten."
    house.scheduler.show(Observed.ENDED, exit_code=0)
    house.step()
    [(_, detail, remedy)] = told(house, "nomad")
    assert detail.endswith("there is 1 ended attempt that it was not told to forget")
    house.pass_time(86400)
    house.reconciler.forget()
    assert told(house, "nomad") == []


def test_each_connector_once(db: Database, house: House) -> None:
    for name in ("slurm", "nomad", "slurm"):
        house.submit()
        house.step()
        house.groups.move_group("lab", name)
    others = db.read(lambda conn: connectors(conn, ["nomad"]))
    assert [one.name for one in others] == ["local", "slurm"]
    assert others[1] == UnconfiguredConnector(name="slurm", groups=1, live=0, ended=0)
    assert db.read(lambda conn: connectors(conn, ["nomad", "slurm", "local"])) == []


def test_it_is_logged_when_it_changes(house: House, caplog: pytest.LogCaptureFixture) -> None:
    unconfigured = Unconfigured(house.db, ["nomad"])

    def logged() -> int:
        unconfigured.tell()
        lines = [one for one in caplog.messages if "what=connector local" in one]
        assert all(BACK in line for line in lines)
        return len(lines)

    assert [logged(), logged()] == [1, 1]
    house.submit()
    house.step()
    assert [logged(), logged()] == [2, 2]
    assert "1 attempt that nobody follows" in caplog.messages[-1]


class TestMoving:
    def test_what_waits_goes_to_the_other_connector(self, house: House) -> None:
        held, running = house.submit(hold=True), house.submit()
        house.step()
        house.groups.move_group("lab", "nomad")
        house.jobs.release(house.ada, held.id)
        house.step()
        assert house.job(held).state is JobState.RECEIVED  # there is only `local` here
        house.scheduler.show(Observed.ENDED, exit_code=0)
        house.step()
        assert house.job(running).state is JobState.COMPLETED
        house.groups.move_group("lab", "local")
        house.step()
        assert house.job(held).state is JobState.SUBMITTED

    def test_an_unknown_group_is_named(self, house: House) -> None:
        with pytest.raises(NotFound, match="no group 'den'"):
            house.groups.move_group("den", "nomad")
