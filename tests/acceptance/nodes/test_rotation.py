"""The public client's jobs on a node, before and after the compute secret was rotated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import leruli
from tests.support.machine import Machine
from tests.support.node_site import (
    NAME,
    NEEDED,
    UNTIL_STOP,
    attempts,
    end,
    fetched,
    finds_no_node,
    let_end,
    make_bundle,
    seen,
    start,
    submit,
    told,
    unpack,
)
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs(*NEEDED, "leruli")

# In which two jobs are to begin, and the first one to end.
OVERLAP_S = 90
ROTATED = "enrolled before the compute secret was rotated"


def client(service: RunningService, folder: Path, *arguments: str) -> str:
    done = leruli.run(*arguments, cwd=folder, credentials=service.credentials)
    return done.stdout.strip()


def runs_by_the_public_client(service: RunningService, parent: Path) -> None:
    """A job from its submission to its results, with ``leruli`` and nothing else."""
    folder = parent / "leruli"
    folder.mkdir()
    (folder / "in.txt").write_text("hello\n")
    client(service, folder, "task-submit", "busybox", "1", "cat in.txt; tr a-z A-Z <in.txt >big")
    job = (folder / "leruli.job").read_text().strip()
    eventually(
        lambda: client(service, folder, "task-status") == "completed", timeout=180, every=0.5
    )
    client(service, folder, "task-get")
    assert (folder / "joblog.txt").read_text() == "hello\n"
    assert (folder / "big").read_text() == "HELLO\n"
    assert service.get(f"/v1/jobs/{job}").body["node"] == NAME


def take(node: Machine, bundle: Path) -> None:
    """What the owner does with a new bundle."""
    unpack(node, bundle)
    done = node.get_started()
    assert done.returncode == 0, done.stdout + done.stderr
    done = node.run_sh("--restart")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_of_the_public_client(
    service: RunningService, joined: Machine, tmp_path: Path
) -> None:
    runs_by_the_public_client(service, tmp_path)


def test_with_an_overlap_the_node_works_to_its_end(
    service: RunningService, joined: Machine, downloads: Path, folder: Path, tmp_path: Path
) -> None:
    new = service.home / "second.tar"
    make_bundle(service, downloads, new, "--rotate", "--overlap", str(OVERLAP_S))
    runs_by_the_public_client(service, tmp_path)
    assert not seen(service)["generation_current"] or seen(service)["state"] == "ready"
    # The overlap ends under a job: that goes on.
    long = submit(service, folder, f"{UNTIL_STOP}; echo through")
    service.wait_for(long, ["running"])
    eventually(lambda: seen(service)["state"] == "ineligible", timeout=OVERLAP_S + 30, every=0.5)
    assert ROTATED in told(service), told(service)
    let_end(joined.folder)
    assert end(service, long)["state"] == "completed"
    assert fetched(service, folder, "joblog.txt") == "through\n"

    other = tmp_path / "other"
    other.mkdir()
    (other / "in.txt").write_text("x")
    waiting = submit(service, other, "true")
    finds_no_node(service, waiting)
    take(joined, new)
    eventually(lambda: seen(service)["state"] == "ready", timeout=60, every=0.5)
    assert seen(service)["generation_current"]
    ended = end(service, waiting)
    assert (ended["state"], ended["node"], ended["attempt"]) == ("completed", NAME, 1), str(ended)


def test_without_an_overlap_it_ends_at_once(
    service: RunningService, joined: Machine, downloads: Path, folder: Path, tmp_path: Path
) -> None:
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / "in.txt").write_text("x")
    long = submit(service, busy, UNTIL_STOP, cores=os.cpu_count() or 1)
    service.wait_for(long, ["running"])
    waiting = submit(service, folder, "echo once >>runs")
    service.wait_for(waiting, ["submitted"])
    new = service.home / "third.tar"
    make_bundle(service, downloads, new, "--rotate", "--overlap", "0")
    eventually(lambda: seen(service)["state"] == "ineligible", timeout=60, every=0.5)
    assert ROTATED in told(service), told(service)
    # It waited for a node as that one was: it is taken back, and waits anew.
    eventually(lambda: attempts(service, waiting)[0]["ended_at"], timeout=60, every=0.2)
    first = attempts(service, waiting)[0]
    assert (first["cause"], first["started_at"]) == ("withdrawn", None), first
    finds_no_node(service, waiting)
    let_end(joined.folder)
    assert end(service, long)["state"] == "completed"

    # The bundle that it has opens no door any more.
    assert joined.run_sh("--leave", "--within", "10").returncode == 0
    assert joined.run_sh("--forget").returncode == 0
    joined.log.write_text("")
    assert joined.join().wait(timeout=180) != 0
    assert "compute secret" in joined.output(), joined.output()

    unpack(joined, new)
    done = joined.get_started()
    assert done.returncode == 0, done.stdout + done.stderr
    start(joined)
    ended = end(service, waiting)
    assert (ended["state"], ended["node"], ended["attempt"]) == ("completed", NAME, 2), str(ended)
    assert fetched(service, folder, "runs") == "once\n"
    runs_by_the_public_client(service, tmp_path)
