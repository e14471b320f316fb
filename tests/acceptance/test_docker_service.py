"""A whole service whose jobs run in containers, of an image published as code."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import archive, bucket_of, hand_in
from tests.support.docker import docker, published
from tests.support.needs import IMAGE, need
from tests.support.service import RunningService

pytestmark = pytest.mark.needs("docker")


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    need("docker")
    service = RunningService(tmp_path_factory.mktemp("docker") / "home")
    service.init("--runtime", "docker")
    service.configure(queue={"retries": 0})
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def image(boxed: RunningService) -> Iterator[str]:
    with published(boxed) as name:
        yield name


def test_a_folder_goes_in_and_its_results_come_back(
    boxed: RunningService, image: str, tmp_path: Path
) -> None:
    assert boxed.command("codes", "list").stdout.startswith(f"{image}\t")
    (tmp_path / "in.txt").write_text("hello\n")
    script = "cat in.txt; pwd; mkdir out; nproc >out/cores; echo $OMP_NUM_THREADS >&2"
    done = boxed.command("submit", image, "--", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    waited = boxed.command("wait", "--timeout", "90", cwd=tmp_path)
    assert waited.returncode == 0, waited.stdout + waited.stderr
    assert boxed.command("get", cwd=tmp_path).returncode == 0
    assert (tmp_path / "joblog.txt").read_text() == "hello\n/rundir\n"
    assert (tmp_path / "joberr.txt").read_text() == "1\n"
    assert (tmp_path / "out" / "cores").exists()


def test_jobs_are_confined(boxed: RunningService, image: str) -> None:
    (boxed.home / "witness").write_text("")
    script = (
        f"ls -d {boxed.home} /var/run/docker.sock 2>/dev/null; ls /sys/class/net;"
        " grep -E 'CapEff|NoNewPrivs' /proc/self/status | tr -d '\\t'; env"
    )
    job = hand_in(boxed, archive([], script), image=image)[0]
    assert boxed.wait_for(job, ["completed", "failed"], timeout=90)["state"] == "completed"
    said = (bucket_of(boxed, job) / "joblog.txt").read_text()
    assert said.splitlines()[:3] == ["lo", "CapEff:0000000000000000", "NoNewPrivs:1"]
    assert not [value for value in boxed.credentials.values() if value in said]


def test_an_image_that_nobody_published(boxed: RunningService) -> None:
    # The engine has it, but not from the group's code bucket.
    job = hand_in(boxed, archive([]), image=IMAGE)[0]
    seen = boxed.wait_for(job, ["completed", "failed"], timeout=90)
    assert (seen["state"], seen["cause"]) == ("failed", "image_missing")
    assert seen["reason"] == f"Image {IMAGE} not found"


def test_cancel_keeps_what_there_is(boxed: RunningService, image: str) -> None:
    job = hand_in(boxed, archive([], "echo begun; sleep 600"), image=image)[0]
    boxed.wait_for(job, ["running"], timeout=90)
    assert boxed.command("cancel", job).returncode == 0
    assert boxed.wait_for(job, ["canceled"], timeout=90)["cause"] == "canceled"
    assert (bucket_of(boxed, job) / "joblog.txt").read_text() == "begun\n"
    assert docker("ps", "-q", "--filter", f"name={uuid.UUID(job).hex}") == ""


def test_memory_and_exit_code(boxed: RunningService, image: str) -> None:
    # The engine tells of it by an event, which is to come before the program's end.
    greedy = "head -c 200000000 /dev/zero | tail; code=$?; sleep 1; exit $code"
    jobs = hand_in(boxed, archive([], greedy), archive([], "exit 7"), image=image)
    oom, failed = (boxed.wait_for(job, ["completed", "failed"], timeout=90) for job in jobs)
    assert (oom["state"], oom["cause"]) == ("failed", "oom"), oom
    assert (failed["cause"], failed["exit_code"], failed["reason"]) == ("exit", 7, "exit code 7")
