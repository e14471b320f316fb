"""The public leruli client 22.1.6 against our service.

Its exit codes and messages are its own (success of task-submit is exit code 1
without a word), so these tests look at what it leaves behind.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import leruli
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs("leruli")

Result = subprocess.CompletedProcess[str]


def client(service: RunningService, cwd: Path, *arguments: str) -> Result:
    return leruli.run(*arguments, cwd=cwd, credentials=service.credentials)


def submit(service: RunningService, folder: Path, *command: str) -> str:
    client(service, folder, "task-submit", "any", "1", *command)
    assert (folder / "leruli.job").exists()
    return (folder / "leruli.job").read_text().strip()


def status(service: RunningService, folder: Path) -> str:
    return client(service, folder, "task-status").stdout.strip()


def wait_for(service: RunningService, folder: Path, word: str) -> None:
    eventually(lambda: status(service, folder) == word, timeout=60)


def test_submit_status_get_prune(service: RunningService, folder: Path) -> None:
    submit(service, folder, "mkdir -p out/deep; cat in.txt; cp in.txt out/deep/copy.txt")
    wait_for(service, folder, "completed")
    got = client(service, folder, "task-get")
    assert got.returncode == 0, got.stderr
    assert (folder / "joblog.txt").read_text() == "hello\n"
    assert (folder / "out" / "deep" / "copy.txt").read_text() == "hello\n"
    pruned = client(service, folder, "task-prune")
    assert pruned.returncode == 0, pruned.stdout + pruned.stderr
    bucket = (folder / "leruli.bucket").read_text().strip()
    assert not list(service.home.glob(f"**/{bucket}/run.tgz"))


def test_failure_is_told_with_its_reason(service: RunningService, folder: Path) -> None:
    submit(service, folder, "exit", "3")
    wait_for(service, folder, "failed: exit code 3")


def test_cancel_keeps_partial_results(service: RunningService, folder: Path) -> None:
    submit(service, folder, "echo begun; sleep 60")
    wait_for(service, folder, "running")
    asked = client(service, folder, "task-cancel")
    assert asked.returncode == 0, asked.stderr
    wait_for(service, folder, "canceled")
    assert client(service, folder, "task-get").returncode == 0
    assert (folder / "joblog.txt").read_text() == "begun\n"


def test_batch_of_120(service: RunningService, tmp_path: Path) -> None:
    folders = [tmp_path / f"job{number:03}" for number in range(120)]
    for number, one in enumerate(folders):
        one.mkdir()
        (one / "number").write_text(str(number))
    client(service, tmp_path, "task-submit", "--batch", "job*", "any", "1", "cat number")
    ids = [(one / "leruli.job").read_text().strip() for one in folders]
    assert len(set(ids)) == 120
    for job in ids:
        service.wait_for(job, ["completed"], timeout=240)
    assert client(service, folders[77], "task-get").returncode == 0
    assert (folders[77] / "joblog.txt").read_text() == "77"


def test_a_job_of_somebody_else_is_not_found(service: RunningService, folder: Path) -> None:
    submit(service, folder, "true")
    other = service.command("users", "add", "eve", "--json", secret=admin(service))
    assert other.returncode == 0, other.stderr
    known = service.credentials | {"LERULI_API_SECRET": secret_in(other.stdout)}
    seen = leruli.run("task-status", cwd=folder, credentials=known)
    assert "No such job or not your job." in seen.stdout
    assert seen.returncode == 1


def test_a_wrong_secret_submits_nothing(service: RunningService, folder: Path) -> None:
    known = service.credentials | {"LERULI_API_SECRET": "nbapi_wrong"}
    said = leruli.run("task-submit", "any", "1", "true", cwd=folder, credentials=known)
    assert "Cannot submit jobs" in said.stdout
    assert not (folder / "leruli.job").exists()


def test_list_codes_of_an_empty_store(service: RunningService, folder: Path) -> None:
    listed = client(service, folder, "task-list-codes")
    assert listed.returncode == 0, listed.stderr


@pytest.mark.needs("docker")
def test_publish_and_list_codes(service: RunningService, folder: Path) -> None:
    published = client(service, folder, "task-publish-code", "busybox", "1")
    assert published.returncode == 0, published.stdout + published.stderr
    listed = client(service, folder, "task-list-codes")
    assert "busybox" in listed.stdout


def admin(service: RunningService) -> str:
    return service.credentials["BRIDGE_ADMIN_SECRET"]


def secret_in(text: str) -> str:
    import json

    return str(json.loads(text)["secret"])
