"""Everything that a job on Nomad needs, killed at random moments, again and again: the
bridge, the Nomad server, the Nomad client, Docker, the storage; one or two at a time.

BRIDGE_TEST_CHAOS_JOBS and BRIDGE_TEST_CHAOS_SEED choose another size and another course.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import needs
from tests.support.lab import Work
from tests.support.nomad_cluster import NODE, POOL, cluster
from tests.support.nomad_lab import NOMAD_QUEUE, NomadLab, nomad_lab
from tests.support.poll import eventually
from tests.support.private_docker import PrivateDocker, engine

pytestmark = pytest.mark.needs("nomad", "docker", "root")

# The program is cut off when it runs first, and succeeds when it runs again.
SECOND_TIME_LUCKY = '[ $(wc -l <"$RUNS") -gt 1 ]'
JOBS = int(os.environ.get("BRIDGE_TEST_CHAOS_JOBS", "24"))
SEED = int(os.environ.get("BRIDGE_TEST_CHAOS_SEED", "20"))
KILLS_OF_EACH = max(2, JOBS // 15)
LONGEST_PAUSE_S = 2.0
LONGEST_ABSENCE_S = 3.0
# In so short an absence Nomad is to give up some of the clients, and not others.
HASTY = {"heartbeat_grace": "2s"}
# What is killed costs an attempt, and not the job. A purged job would not refuse a call
# that comes late, so that nothing is forgotten before the end.
QUEUE = {**NOMAD_QUEUE, "claim_ttl_s": 3, "retries": 50, "attempts_at_most": 50}


class World:
    """What is killed and started again; in the order in which they need each other."""

    def __init__(self, docker: PrivateDocker, lab: NomadLab) -> None:
        self._kill: dict[str, Callable[[], object]] = {
            "docker": docker.kill,
            "server": lab.nomad.kill_server,
            "client": lab.nomad.kill_client,
            "bridge": lambda: lab.service.stop(signal.SIGKILL),
            "storage": lab.kill_storage,
        }
        self._start: dict[str, Callable[[], object]] = {
            "docker": docker.start,
            "server": lab.nomad.start_server,
            "client": lab.nomad.start_client,
            "bridge": lab.service.start,
            # The bridge starts it again.
            "storage": lambda: eventually(lab.storage_answers, timeout=60),
        }

    @property
    def victims(self) -> list[str]:
        """By name."""
        return list(self._kill)

    def strike(self, victims: set[str], absence_s: float) -> None:
        """Kill them, and bring them back after a while."""
        for name in self.victims:
            if name in victims:
                self._kill[name]()
        time.sleep(absence_s)  # how long they are away is random, and no signal ends it
        for name in self.victims:
            if name in victims:
                self._start[name]()


@pytest.fixture(scope="module")
def docker() -> Iterator[PrivateDocker]:
    for name in ("nomad", "docker", "root"):
        needs.need(name)
    with engine() as made:
        yield made


@pytest.fixture(scope="module")
def lab(
    docker: PrivateDocker, rclone: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NomadLab]:
    with (
        cluster(cores=4, volumes=True, docker_host=docker.host, server=HASTY) as nomad,
        nomad_lab(tmp_path_factory.mktemp("chaos"), nomad, rclone, QUEUE) as made,
    ):
        yield made


def test_an_engine_killed_under_a_job(lab: NomadLab, docker: PrivateDocker) -> None:
    """Nomad says that the program has ended with code 0; it has not, and goes on for as long
    as the engine is away.
    """
    work = lab.work(f"{SECOND_TIME_LUCKY} || exec sleep 600")
    (job,) = lab.submit(work)
    lab.await_run(work)
    docker.kill()
    try:
        eventually(lambda: lab.job(job)["attempt"] == 2, timeout=120)
        assert work.runs == 1
    finally:
        docker.start()
    # Nomad looks every 30 s whether the engine is back.
    seen = lab.end(job, timeout=120)
    first, second = attempts(lab, job)
    assert (first["cause"], first["exit_code"]) == ("node_lost", None), first
    assert "container engine" in first["reason"]
    assert (seen["state"], second["exit_code"], work.runs) == ("completed", 0, 2), seen
    # The second attempt has removed what the first could not.
    assert not [name for name in containers(docker, "--all") if name.startswith("main-")]


def containers(docker: PrivateDocker, *options: str) -> list[str]:
    """Those that run, or what ``options`` of docker ps say."""
    return docker.ask("ps", *options, "--format", "{{.Names}}").split()


def test_every_job_ends_well_and_ran_once(lab: NomadLab, docker: PrivateDocker) -> None:
    chance = random.Random(SEED)
    works = [lab.work(f"sleep {chance.uniform(0, 1):.2f}; echo done") for _ in range(JOBS)]
    jobs = lab.submit(*works)
    world = World(docker, lab)
    strikes = [name for name in world.victims for _ in range(KILLS_OF_EACH)]
    chance.shuffle(strikes)
    while strikes:
        time.sleep(chance.uniform(0.1, LONGEST_PAUSE_S))  # the moment is what is random here
        victims = {strikes.pop() for _ in range(min(chance.choice([1, 1, 2]), len(strikes)))}
        world.strike(victims, chance.uniform(0, LONGEST_ABSENCE_S))
    assert lab.submit(*works) == jobs
    ends = {job: lab.end(job, timeout=60 + 5 * JOBS) for job in jobs}
    tried = {job: attempts(lab, job) for job in jobs}
    causes = Counter(str(one["cause"]) for some in tried.values() for one in some)
    print(f"{JOBS} jobs, {sum(causes.values())} attempts, by cause: {dict(causes)}")
    for job, work in zip(jobs, works, strict=True):
        check(lab, ends[job], work, tried[job])
    nothing_is_left(lab, docker)


def attempts(lab: NomadLab, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.service.get(f"/v1/jobs/{job}/attempts").body["attempts"]
    return found


def check(lab: NomadLab, seen: dict[str, Any], work: Work, tried: list[dict[str, Any]]) -> None:
    """It ended well; its program began once, and once more for each time that the machine
    lost it.
    """
    assert seen["state"] == "completed", (seen, tried)
    assert lab.result(work), tried
    *before, last = sorted(tried, key=lambda one: one["number"])
    assert (last["exit_code"], last["cause"]) == (0, None), tried
    lost = [one for one in before if one["cause"] == "node_lost"]
    assert 1 <= work.runs <= 1 + len(lost), (work.runs, tried)


def nothing_is_left(lab: NomadLab, docker: PrivateDocker) -> None:
    """One more job: whoever comes next removes what a dead engine could not."""
    (last,) = lab.submit(lab.work())
    assert lab.end(last, timeout=120)["state"] == "completed"
    jobs = lab.nomad.call("GET", "jobs", namespace=POOL)
    assert [one["ID"] for one in jobs if one["Status"] != "dead"] == []
    eventually(lambda: not live_tasks(lab), timeout=60)
    with contextlib.suppress(AssertionError):  # the next line says more
        eventually(lambda: not containers(docker, "--all"), timeout=60)
    assert [story(lab, docker, name) for name in containers(docker, "--all")] == []
    # What has ended goes from the scheduler at the next start.
    lab.service.stop()
    lab.service.start()
    eventually(lambda: lab.nomad.call("GET", "jobs", namespace=POOL) == [], timeout=120)


def story(lab: NomadLab, docker: PrivateDocker, container: str) -> str:
    """What is known of a container that should be gone."""
    state = docker.ask("inspect", "--format", "{{json .State}}", container)
    alloc = container.removeprefix("main-")
    said = [line for line in lab.nomad.log(NODE).splitlines() if alloc in line]
    return "\n".join([container, state, *said])


def live_tasks(lab: NomadLab) -> list[str]:
    return [
        f"{alloc['JobID']} {name}"
        for alloc in lab.nomad.call("GET", "allocations", namespace=POOL)
        if alloc["ClientStatus"] in ("pending", "running", "unknown")
        for name, task in (alloc["TaskStates"] or {"": {"State": "pending"}}).items()
        if task["State"] != "dead"
    ]
