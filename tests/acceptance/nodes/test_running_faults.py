"""What happens to a node under its jobs is told, and no job is lost by it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.door import Door, door
from tests.support.machine import Machine
from tests.support.node_site import (
    NAME,
    NEEDED,
    UNTIL_STOP,
    Settings,
    attempts,
    end,
    fetched,
    let_end,
    runs_again,
    seen,
    submit,
    write_keys,
)
from tests.support.poll import eventually, free_port
from tests.support.service import RunningService

pytestmark = pytest.mark.needs(*NEEDED)

SECOND = "bench-2"
FULL = "or its disk is full"
DISK_MB = 700
LEFT_KB = 3000


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Jobs are tried again soon and often enough for a test to mend the node meanwhile."""
    return {
        "queue": {"retries": 8, "retry_delay_s": 1},
        "nodes": {"quarantine_failures": 0, "inspect_interval_s": 1},
    }


@pytest.fixture(scope="module")
def away(service: RunningService) -> Iterator[Door]:
    """The way from the node to the storage, which a test may close."""
    address = urlsplit(service.credentials["BRIDGE_S3_SERVER"])
    assert address.hostname and address.port
    with door(address.hostname, address.port) as made:
        yield made


@pytest.fixture(scope="module")
def storage_keys(service: RunningService, away: Door) -> Path:
    file = service.home / "s3.conf"
    write_keys(service, file, S3_SERVER=f"http://127.0.0.1:{away.port}")
    return file


@pytest.fixture(scope="module")
def node(node: Machine) -> Iterator[Machine]:
    """The machine, whose jobs have a disk of their own, and a small one."""
    disk = node.folder / "nomad"
    disk.mkdir()
    options = f"size={DISK_MB}m,mode=711,uid={node.folder.stat().st_uid}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    if mounted.returncode:
        pytest.skip(f"needs root: a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield node
    node.power_cut()
    subprocess.run(["umount", "--lazy", str(disk)], check=False, timeout=20)


class Ballast:
    """Fills the disk of the node's jobs."""

    def __init__(self, node: Machine) -> None:
        self._folder = node.folder / "nomad"
        self._file = self._folder / "ballast"

    def fill(self, left_kb: int) -> None:
        room = os.statvfs(self._folder)
        free = room.f_bavail * room.f_frsize - left_kb * 1024
        with open(self._file, "ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(free, 1))

    def drop(self) -> None:
        self._file.unlink(missing_ok=True)


@pytest.fixture
def ballast(joined: Machine) -> Iterator[Ballast]:
    made = Ballast(joined)
    yield made
    made.drop()


def first_end(service: RunningService, job: str) -> dict[str, Any]:
    """How the first attempt of a job ended."""
    eventually(lambda: attempts(service, job)[0]["ended_at"], timeout=180, every=0.2)
    return attempts(service, job)[0]


def phase(service: RunningService, job: str) -> str | None:
    found: str | None = service.get(f"/v1/jobs/{job}").body["phase"]
    return found


def test_the_disk_is_full_while_staging(
    service: RunningService, joined: Machine, ballast: Ballast, folder: Path
) -> None:
    # More than there is room for, and nothing that could be packed.
    (folder / "large").write_bytes(os.urandom(20_000_000))
    ballast.fill(LEFT_KB)
    job = submit(service, folder, "wc -c <large")
    first = first_end(service, job)
    assert FULL in first["reason"], first
    ballast.drop()
    ended = end(service, job)
    assert ended["state"] == "completed", ended
    assert fetched(service, folder, "joblog.txt").strip() == "20000000"


def test_the_disk_is_full_while_uploading(
    service: RunningService, joined: Machine, ballast: Ballast, folder: Path
) -> None:
    job = submit(service, folder, f"echo fine >result; {UNTIL_STOP}")
    service.wait_for(job, ["running"])
    ballast.fill(0)
    let_end(joined.folder)  # an empty file takes none of the room
    first = first_end(service, job)
    ballast.drop()
    if first["cause"]:
        runs_again(service, job)
        let_end(joined.folder)
    ended = end(service, job)
    assert ended["state"] == "completed", ended
    assert ended["attempt"] == 1 or FULL in first["reason"], (first, ended)
    assert fetched(service, folder, "result") == "fine\n"


def test_docker_is_restarted_under_a_job(
    service: RunningService, joined: Machine, folder: Path
) -> None:
    """As by its unit: it ends its containers, and comes back."""
    job = submit(service, folder, f"echo begun; {UNTIL_STOP}; echo ended")
    service.wait_for(job, ["running"])
    engine = int((joined.folder / "var" / "engine.pid").read_text().split()[0])
    os.kill(engine, signal.SIGTERM)
    runs_again(service, job)
    let_end(joined.folder)
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
    assert fetched(service, folder, "joblog.txt") == "begun\nended\n"


def test_the_storage_is_away_while_uploading(
    service: RunningService, joined: Machine, folder: Path, away: Door
) -> None:
    job = submit(service, folder, f"echo fine >result; {UNTIL_STOP}")
    service.wait_for(job, ["running"])
    away.close()
    let_end(joined.folder)
    try:
        eventually(lambda: phase(service, job) == "uploading", timeout=60, every=0.2)
        waits(service, job)
    finally:
        away.open()
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 1), str(ended)
    assert fetched(service, folder, "result") == "fine\n"


def test_the_storage_is_away_while_staging(
    service: RunningService, joined: Machine, folder: Path, away: Door
) -> None:
    away.close()
    try:
        job = submit(service, folder, "cat in.txt")
        eventually(lambda: phase(service, job) == "staging", timeout=60, every=0.2)
        waits(service, job)
    finally:
        away.open()
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 1), str(ended)
    assert fetched(service, folder, "joblog.txt") == "hello\n"


def waits(service: RunningService, job: str) -> None:
    """The node has tried at least twice, and has not given up."""
    before = service.get(f"/v1/jobs/{job}").body
    seen_at = seen(service)["last_seen_at"]
    # Twice the pause between two tries of the node.
    eventually(lambda: seen(service)["last_seen_at"] > seen_at, timeout=60, every=1)
    after = service.get(f"/v1/jobs/{job}").body
    assert (after["state"], after["attempt"]) == (before["state"], 1)


def test_two_nodes_on_one_docker(
    service: RunningService, joined: Machine, downloads: Path, folder: Path, tmp_path: Path
) -> None:
    """A second folder of the same account, whose Docker is the first one's: neither takes the
    other's containers for leftovers.
    """
    second = joined.folder / "second"
    made = joined.run("mkdir", "-p", str(second / "var"), "again")
    assert made.returncode == 0, made.stderr
    (second / "var" / "run").symlink_to(joined.folder / "var" / "run")
    # Each folder has its own scripts: they remember which is theirs.
    unpacked = joined.run("tar", "-xf", "nomadrun.tar", "-C", "again")
    assert unpacked.returncode == 0, unpacked.stderr
    scripts = joined.home / "again" / "nomadrun"
    done = joined.run(
        *("sh", str(scripts / "get-started.sh"), "--dir", str(second), "--name", SECOND),
        *("--from", str(downloads), "--s3-config", "s3.conf"),
        *("--network-interface", "lo", "--reserve-memory", "500"),
        *("--http-port", str(free_port())),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    joined.start("sh", str(scripts / "run.sh"))
    joined.says(f"--- {SECOND} has joined ---")
    both = (NAME, SECOND)
    cores = os.cpu_count() or 1
    jobs = []
    for name in both:
        mine = tmp_path / name
        mine.mkdir()
        (mine / "in.txt").write_text(name)
        jobs.append(submit(service, mine, f"{UNTIL_STOP}; cat in.txt", cores=cores))
    for job in jobs:
        service.wait_for(job, ["running"], timeout=180)
    assert {service.get(f"/v1/jobs/{job}").body["node"] for job in jobs} == set(both)
    restarted = joined.run("sh", str(scripts / "run.sh"), "--restart")
    assert restarted.returncode == 0, restarted.stderr
    for one in (joined.folder, second):
        let_end(one)
    for name, job in zip(both, jobs, strict=True):
        ended = end(service, job)
        assert (ended["state"], ended["attempt"]) == ("completed", 1), str(ended)
        assert fetched(service, tmp_path / name, "joblog.txt") == name
    left = joined.run("sh", str(scripts / "run.sh"), "--leave", "--within", "20")
    assert left.returncode == 0, left.stderr
    assert end(service, submit(service, folder, "true"))["state"] == "completed"
