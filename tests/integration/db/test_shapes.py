"""Rows become values, whatever is in them."""

from __future__ import annotations

import math

import pytest

from bridge.db import identity, jobs
from bridge.models.job import JobState, Phase
from tests.integration.db.conftest import NOW, Lab


@pytest.mark.parametrize("text", ['"quoted" \\ back', "ünï ☃ 💥", "' ; --", "{}", "null", "a/b"])
def test_texts_come_back_as_they_are(lab: Lab, text: str) -> None:
    job_id = lab.add_job(name=text, set=text, labels={text: text})
    job = lab.db.read(lambda conn: jobs.get(conn, job_id))
    assert job is not None
    assert (job.name, job.set, job.labels) == (text, text, {text: text})


def test_nothing_comes_back_as_nothing(lab: Lab) -> None:
    job_id = lab.add_job()
    job = lab.db.read(lambda conn: jobs.get(conn, job_id))
    assert job is not None
    assert (job.set, job.labels, job.input_sha256, job.phase, job.node) == (
        None,
        {},
        None,
        None,
        None,
    )
    assert (job.hold, job.attempts_before, job.started_at) == (False, 0, None)


def test_times_keep_their_last_digit(lab: Lab) -> None:
    job_id = lab.add_job(hold=True)
    started = math.nextafter(NOW + 1 / 3, math.inf)
    for state, to in (
        (JobState.RECEIVED, JobState.SUBMITTED),
        (JobState.SUBMITTED, JobState.RUNNING),
    ):
        lab.db.write(
            lambda conn, state=state, to=to: jobs.move(  # type: ignore[misc]
                conn, job_id, frm={state}, to=to, started_at=started, phase=Phase.EXECUTING
            )
        )
    job = lab.db.read(lambda conn: jobs.get(conn, job_id))
    assert job is not None
    assert (job.started_at, job.phase, job.hold) == (started, Phase.EXECUTING, True)


def test_a_member_and_the_group_from_one_row(lab: Lab) -> None:
    found = lab.db.read(lambda conn: identity.group_by_id(conn, lab.group.id))
    assert found == lab.group
    users = lab.db.read(lambda conn: identity.list_users(conn, lab.group.id))
    assert lab.ada in users
