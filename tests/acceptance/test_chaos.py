"""Service and storage killed at random moments, again and again, under a queue of jobs."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.lab import QUEUE, Lab, new_lab
from tests.support.poll import eventually

JOBS = 40
KILLS = 8
LONGEST_PAUSE_S = 1.5


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    # Storage that is away when a job begins costs an attempt, and not the job.
    made = new_lab(tmp_path_factory.mktemp("chaos"), {**QUEUE, "retries": KILLS})
    yield made
    made.service.close()


def test_every_job_ends_well_and_ran_once(lab: Lab) -> None:
    chance = random.Random(20)
    works = [lab.work(f"sleep {chance.uniform(0, 0.5):.2f}; echo done") for _ in range(JOBS)]
    jobs = lab.submit(*works)
    for victim in chance.choices(["service", "storage", "both"], k=KILLS):
        time.sleep(chance.uniform(0.1, LONGEST_PAUSE_S))  # the moment is what is random here
        if victim != "service":
            lab.kill_storage()
        if victim != "storage":
            lab.service.stop(signal.SIGKILL)
            lab.service.start()
        eventually(lab.storage_answers, timeout=30)
    assert lab.submit(*works) == jobs
    ends = {job: lab.end(job, timeout=90)["state"] for job in jobs}
    assert set(ends.values()) == {"completed"}, ends
    assert [work.runs for work in works] == [1] * JOBS
    assert all(lab.result(work) for work in works)
