"""Jobs that have come to some point of their life, in a house of the tests' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge.db import attempts
from bridge.models.attempt import Attempt, AttemptSpec, Cause, Handle, Observed
from bridge.models.job import Job, JobState, Phase
from tests.integration.core.conftest import House
from tests.support.interleave import Other

CLAIM_S = CALL_S = 60  # how long a claim stands, and after that its call may be under way

# Starts somebody else; see the fixture ``other``.
Begin = Callable[[Callable[[], object]], Other]


def running(house: House, **fields: Any) -> Job:
    """A job whose program runs."""
    job = house.submit(**fields)
    house.step()
    house.scheduler.show(Observed.RUNNING, phase=Phase.EXECUTING, started_at=house.clock.now)
    house.step()
    assert house.job(job).state is JobState.RUNNING
    return job


def ended(house: House, cause: Cause | None = Cause.EXIT) -> Job:
    """A job that has ended."""
    job = running(house)
    house.scheduler.show(Observed.ENDED, cause=cause)
    house.reconciler.step()
    return job


def attempts_of(house: House, job: Job) -> list[Attempt]:
    return house.db.read(lambda conn: attempts.of_job(conn, job.id))


def arrive(house: House, job: Job) -> None:
    """The call for a job's only attempt reaches the scheduler now."""
    (attempt,) = attempts_of(house, job)
    handle = Handle(attempt.native_id, attempt.namespace)
    fields = dict.fromkeys(AttemptSpec.__struct_fields__) | {"handle": handle}
    house.scheduler.submit(AttemptSpec(**fields))  # type: ignore[arg-type]
