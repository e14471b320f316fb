"""What dies under a running service, and what becomes of the jobs."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import process
from tests.support.buckets import archive, bucket_of, hand_in
from tests.support.poll import eventually, free_port
from tests.support.service import RunningService

ENDED = ("completed", "failed", "canceled")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may be killed."""
    service = RunningService(tmp_path_factory.mktemp("recovery") / "home")
    service.init("--runtime", "process")
    service.configure(local={"cores": 4}, queue={"retry_delay_s": 0})
    try:
        service.start()
        yield service
    finally:
        service.close()


def supervisor(service: RunningService, job: str) -> int:
    """The pid of the supervisor of a job's last attempt."""
    attempts = service.home / "local" / "attempts"
    last = max(attempts.glob(f"*-{job.replace('-', '')}-*"))
    return int(json.loads((last / "steps.jsonl").read_text().splitlines()[0])["pid"])


def storage_pid(service: RunningService) -> int:
    return int(json.loads((service.home / "s3" / "server.pid").read_text())["pid"])


def test_jobs_go_on_while_the_service_is_dead(own: RunningService, tmp_path: Path) -> None:
    """They end meanwhile, or later, and all are picked up with their exit codes."""
    dead, go = tmp_path / "dead", tmp_path / "go"
    wait = "until [ -e {} ]; do sleep 0.05; done; "
    jobs = hand_in(
        own,
        archive([], wait.format(dead) + "echo 1 >out"),
        archive([], wait.format(dead) + "exit 3"),
        archive([], wait.format(go) + "exit 4"),
    )
    for job in jobs:
        own.wait_for(job, ["running"])
    own.stop(signal.SIGKILL)
    dead.touch()
    # The storage outlived it, so results come home.
    results = own.home / "s3" / "buckets"
    eventually(lambda: list(results.glob("*/out")), timeout=60)
    own.start()
    first, second = (own.wait_for(job, ENDED) for job in jobs[:2])
    assert own.get(f"/v1/jobs/{jobs[2]}").body["state"] == "running"
    go.touch()
    third = own.wait_for(jobs[2], ENDED)
    assert [seen["exit_code"] for seen in (first, second, third)] == [0, 3, 4]
    assert [seen["state"] for seen in (first, second, third)] == ["completed", "failed", "failed"]
    assert [seen["attempt"] for seen in (first, second, third)] == [1, 1, 1]


def test_a_killed_supervisor_is_another_attempt(own: RunningService, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    job = hand_in(own, archive([], f"echo $$ >>{runs}; [ $(wc -l <{runs}) -gt 1 ] || sleep 600"))[0]
    eventually(lambda: runs.exists() and own.get(f"/v1/jobs/{job}").body["state"] == "running",
               timeout=60)  # fmt: skip
    program = int(runs.read_text())
    os.kill(supervisor(own, job), signal.SIGKILL)
    seen = own.wait_for(job, ENDED)
    assert (seen["state"], seen["attempt"]) == ("completed", 2)
    assert process.start_time(program) is None


def test_a_killed_storage_is_started_again(own: RunningService) -> None:
    old = storage_pid(own)
    os.kill(old, signal.SIGKILL)
    eventually(lambda: storage_pid(own) != old, timeout=60)
    # Its keys are the same.
    eventually(lambda: own.command("codes", "list").returncode == 0, timeout=60)
    job = hand_in(own, archive([]))[0]
    assert own.wait_for(job, ENDED)["state"] == "completed"


def test_a_second_service_on_the_same_folder(own: RunningService, tmp_path: Path) -> None:
    """On the same address it is refused; on another each job still runs once."""
    refused = own.command("serve", "--config", str(own.config))
    assert refused.returncode == 2
    assert "cannot listen" in refused.stderr
    storage = storage_pid(own)
    second = RunningService(own.home)
    second.bind = f"127.0.0.1:{free_port()}"
    second.serve = [*second.serve[:-1], "--bind", second.bind, second.serve[-1]]
    second.start()
    try:
        runs = tmp_path / "runs"
        jobs = hand_in(own, *[archive([], f"echo run >>{runs}")] * 3)
        jobs += hand_in(second, *[archive([], f"echo run >>{runs}")] * 3)
        for number, job in enumerate(jobs):
            asked = own if number % 2 else second
            seen = asked.wait_for(job, ENDED)
            assert (seen["state"], seen["attempt"]) == ("completed", 1), seen
        assert runs.read_text() == "run\n" * 6
        assert storage_pid(own) == storage
    finally:
        second.stop()
    assert own.get("/v1/whoami").status == 200


def test_a_disk_that_takes_nothing_more(own: RunningService) -> None:
    """Nothing is promised, reading goes on, and later everything does."""
    assert own.process is not None
    pid = own.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    try:
        item = {"bucket_id": "00000000-0000-4000-8000-000000000000", "image": "any:1"}
        refused = own.post("/v1/jobs", item)
        assert (refused.status, refused.body["error"]) == (503, "unavailable"), refused
        assert own.get("/v1/jobs").status == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    job = hand_in(own, archive([], "echo fine"))[0]
    assert own.wait_for(job, ENDED)["state"] == "completed"
    assert (bucket_of(own, job) / "joblog.txt").read_text() == "fine\n"
