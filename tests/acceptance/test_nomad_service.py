"""The whole service with its jobs on a real Nomad cluster: mutual TLS, ACLs, Docker,
the stage program, the embedded storage; by HTTP, by the command line and by the
public client.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import leruli, needs
from tests.support.docker import docker
from tests.support.nomad_cluster import NomadCluster, cluster
from tests.support.nomad_service import on_nomad, printed
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs("nomad", "docker")

IMAGE = "busybox:1"
FINAL = ("completed", "failed", "canceled")


@pytest.fixture(scope="module")
def nomad() -> Iterator[NomadCluster]:
    for name in ("nomad", "docker"):
        needs.need(name)
    with cluster() as running:
        yield running


@pytest.fixture(scope="module")
def service(
    nomad: NomadCluster, rclone: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    with on_nomad(
        nomad, tmp_path_factory.mktemp("nomad") / "home", rclone, sweep_interval_s=2
    ) as running:
        yield running


def submit(service: RunningService, folder: Path, script: str, *options: str) -> str:
    """Submit by the command line; the job's id."""
    image = options[-1] if options and ":" in options[-1] else IMAGE
    options = tuple(option for option in options if option != image)
    done = service.command(
        "submit", "--dir", str(folder), "--memory", "64", *options, image, "--", script
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def end(service: RunningService, job: str) -> dict[str, Any]:
    return service.wait_for(job, FINAL, timeout=120)


def fetched(service: RunningService, folder: Path, name: str) -> str:
    done = service.command("get", "--dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / name).read_text()


def test_the_group_has_its_place(service: RunningService) -> None:
    groups = {
        one["name"]: one
        for one in printed(service, "groups", "list", "--config", str(service.config))
    }
    lab = groups["lab"]
    assert (lab["connector"], lab["namespace"], lab["node_pool"]) == ("nomad", "g-lab", "g-lab")


def test_a_folder_goes_in_and_its_results_come_back(service: RunningService, folder: Path) -> None:
    job = submit(service, folder, "mkdir -p out; cat in.txt; tr a-z A-Z <in.txt >out/big.txt")
    seen = end(service, job)
    assert (seen["state"], seen["exit_code"], seen["attempt"]) == ("completed", 0, 1), seen
    assert seen["node"] == "node-1"
    assert seen["created_at"] < seen["started_at"] <= seen["ended_at"]
    assert fetched(service, folder, "joblog.txt") == "hello\n"
    assert (folder / "out" / "big.txt").read_text() == "HELLO\n"


def test_the_exit_code_of_the_program(service: RunningService, folder: Path) -> None:
    seen = end(service, submit(service, folder, "echo half >half.txt; exit 3"))
    assert (seen["state"], seen["cause"], seen["exit_code"]) == ("failed", "exit", 3)
    assert fetched(service, folder, "half.txt") == "half\n"


def test_out_of_memory(service: RunningService, folder: Path) -> None:
    # The engine tells of it by an event, which is to come before the program's end.
    script = "dd if=/dev/zero of=/dev/null bs=500M count=1; code=$?; sleep 1; exit $code"
    seen = end(service, submit(service, folder, script))
    assert (seen["state"], seen["cause"]) == ("failed", "oom"), seen


@pytest.mark.parametrize("by", ["http", "command"])
def test_cancel_keeps_partial_results(service: RunningService, folder: Path, by: str) -> None:
    job = submit(service, folder, "echo begun; sleep 60")
    service.wait_for(job, ["running"])
    eventually(lambda: service.get(f"/v1/jobs/{job}").body["phase"] == "executing")
    if by == "http":
        assert service.post(f"/v1/jobs/{job}/cancel", {}).status == 200
    else:
        assert service.command("cancel", "--dir", str(folder)).returncode == 0
    assert end(service, job)["state"] == "canceled"
    assert fetched(service, folder, "joblog.txt") == "begun\n"


def test_missing_image(service: RunningService, folder: Path) -> None:
    seen = end(service, submit(service, folder, "true", "no-such-code:1"))
    assert (seen["state"], seen["cause"]) == ("failed", "image_missing"), seen
    assert "image was not found" in seen["reason"]


def test_missing_input(service: RunningService) -> None:
    answer = service.post("/v1/jobs", {"bucket_id": str(uuid.uuid4()), "image": IMAGE})
    assert answer.status == 201
    seen = end(service, answer.body["id"])
    assert (seen["state"], seen["reason"]) == ("failed", "Input files missing")
    known = service.credentials
    old = service.post(
        "/v22_1/task-status",
        {"secret": known["BRIDGE_API_SECRET"], "jobid": answer.body["id"]},
    )
    assert (old.body["status"], old.body["reason"]) == ("failed", "Input files missing")


def test_the_time_limit_keeps_partial_results(service: RunningService, folder: Path) -> None:
    seen = end(service, submit(service, folder, "echo begun; sleep 60", "--time", "2"))
    assert (seen["state"], seen["cause"]) == ("failed", "timeout"), seen
    assert "2 s" in seen["reason"]
    assert fetched(service, folder, "joblog.txt") == "begun\n"


def test_many_at_once_by_one_request(service: RunningService) -> None:
    """They all miss their input: what counts is that each is handed over once."""
    jobs = [{"bucket_id": str(uuid.uuid4()), "image": IMAGE, "set": "many"} for _ in range(20)]
    answer = service.post("/v1/jobs", jobs)
    assert [one["status"] for one in answer.body] == [201] * 20
    for one in answer.body:
        seen = end(service, one["id"])
        assert (seen["reason"], seen["attempt"]) == ("Input files missing", 1)


def test_nothing_secret_reaches_nomad(
    service: RunningService, nomad: NomadCluster, folder: Path
) -> None:
    job = submit(service, folder, "sleep 1")
    service.wait_for(job, ["running", *FINAL])
    (spec,) = [
        nomad.call("GET", f"job/{one['ID']}", namespace="g-lab")
        for one in nomad.call("GET", "jobs", namespace="g-lab")
        if uuid.UUID(job).hex in one["ID"]
    ]
    bucket = service.get(f"/v1/jobs/{job}").body["bucket_id"]
    tasks = {task["Name"]: task for task in spec["TaskGroups"][0]["Tasks"]}
    for name in ("stage-in", "stage-out"):
        assert tasks[name]["Env"].pop("BRIDGE_BUCKET") == bucket
    text = json.dumps(spec)
    known = service.credentials
    secrets = [
        known[name] for name in known if name.endswith(("_SECRET", "_ACCESS")) and known[name]
    ]
    assert not [secret for secret in (bucket, *secrets) if secret in text]
    assert end(service, job)["state"] == "completed"


class TestPublicClient:
    """leruli 22.1.6 from PyPI, unmodified. Its exit codes are its own."""

    pytestmark = pytest.mark.needs("leruli")

    def run(self, service: RunningService, cwd: Path, *arguments: str) -> str:
        done = leruli.run(*arguments, cwd=cwd, credentials=service.credentials)
        return done.stdout.strip()

    def wait_for(self, service: RunningService, cwd: Path, word: str) -> None:
        eventually(lambda: self.run(service, cwd, "task-status") == word, timeout=60, every=0.2)

    def test_publish_submit_get_prune(self, service: RunningService, folder: Path) -> None:
        code = f"own-{uuid.uuid4().hex[:8]}"
        docker("tag", IMAGE, f"{code}:1")
        try:
            self.run(service, folder, "task-publish-code", code, "1")
        finally:
            docker("rmi", f"{code}:1")
        try:
            assert code in self.run(service, folder, "task-list-codes")
            command = "mkdir -p out; cat in.txt; cp in.txt out/copy.txt"
            self.run(service, folder, "task-submit", code, "1", command)
            self.wait_for(service, folder, "completed")
            self.run(service, folder, "task-get")
            assert (folder / "joblog.txt").read_text() == "hello\n"
            assert (folder / "out" / "copy.txt").read_text() == "hello\n"
            bucket = (folder / "leruli.bucket").read_text().strip()
            assert list(service.home.glob(f"**/{bucket}/run.tgz"))
            self.run(service, folder, "task-prune")
            assert not list(service.home.glob(f"**/{bucket}/run.tgz"))
        finally:
            docker("rmi", f"bridge.invalid/{code}:1")

    def test_cancel(self, service: RunningService, folder: Path) -> None:
        self.run(service, folder, "task-submit", "busybox", "1", "echo begun; sleep 60")
        self.wait_for(service, folder, "running")
        self.run(service, folder, "task-cancel")
        self.wait_for(service, folder, "canceled")
        self.run(service, folder, "task-get")
        assert (folder / "joblog.txt").read_text() == "begun\n"

    def test_failure_is_told_with_its_reason(self, service: RunningService, folder: Path) -> None:
        self.run(service, folder, "task-submit", "busybox", "1", "exit 3")
        self.wait_for(service, folder, "failed: Exit code 3")

    def test_batch_of_12(self, service: RunningService, tmp_path: Path) -> None:
        folders = [tmp_path / f"job{number:02}" for number in range(12)]
        for number, one in enumerate(folders):
            one.mkdir()
            (one / "number").write_text(str(number))
        arguments = ("--batch", "job*", "--memory", "64", "busybox", "1", "cat number")
        self.run(service, tmp_path, "task-submit", *arguments)
        ids = [(one / "leruli.job").read_text().strip() for one in folders]
        assert len(set(ids)) == 12
        for job in ids:
            assert service.wait_for(job, FINAL, timeout=120)["state"] == "completed"
        self.run(service, folders[7], "task-get")
        assert (folders[7] / "joblog.txt").read_text() == "7"
