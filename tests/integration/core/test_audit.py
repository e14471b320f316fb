"""What is done to jobs is on record, with who did it."""

from __future__ import annotations

import pytest

from bridge.db import audit
from bridge.errors import Conflict
from bridge.models.attempt import Cause, Observed
from tests.integration.core.conftest import House


def on_record(house: House, target: object) -> list[tuple[str, str]]:
    """Who did what to a job or a set, in order."""
    entries = house.db.read(lambda conn: audit.find(conn, house.root.group.id))
    found = [(one.actor, one.action) for one in entries if one.target == str(target)]
    return found[::-1]


def test_whoever_holds_and_releases_a_job(house: House) -> None:
    job = house.submit()
    house.jobs.hold(house.root, job.id)
    house.jobs.release(house.ada, job.id)
    assert on_record(house, job.id) == [("root", "job.hold"), ("ada", "job.release")]


def test_what_changed_nothing_is_not(house: House) -> None:
    job = house.submit(hold=True)
    house.jobs.hold(house.ada, job.id)
    house.jobs.release(house.ada, job.id)
    house.jobs.release(house.ada, job.id)
    house.step()
    for verb in (house.jobs.hold, house.jobs.release):
        with pytest.raises(Conflict):
            verb(house.ada, job.id)
    assert on_record(house, job.id) == [("ada", "job.release")]


@pytest.mark.parametrize("of", ["job", "set"])
def test_every_verb_is(house: House, of: str) -> None:
    job = house.submit(set="s")
    rules, target = (house.jobs, job.id) if of == "job" else (house.sets, "s")
    verbs = ("hold", "release", "retry", "cancel", "prune")
    for verb in verbs:
        if verb == "retry":  # of what failed
            house.step()
            house.scheduler.show(Observed.ENDED, cause=Cause.EXIT)
            house.step()
        getattr(rules, verb)(house.root, target)
    assert on_record(house, target) == [("root", f"{of}.{verb}") for verb in verbs]
