"""A machine becomes a node: a fresh account here, the bundle, two scripts, no root.

The tests go through one node's life, in this order on one worker.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.machine import Machine
from tests.support.node_site import (
    NAME,
    NEEDED,
    UNTIL_STOP,
    end,
    fetched,
    let_end,
    prepare,
    runs_again,
    seen,
    start,
    submit,
)
from tests.support.nomad_cluster import NomadCluster
from tests.support.poll import eventually
from tests.support.service import RunningService
from tests.support.user_systemd import user_systemd

pytestmark = pytest.mark.needs(*NEEDED)

BEGUN_AND_ENDED = f"echo begun; {UNTIL_STOP}; echo ended"


def test_from_the_tar_to_the_first_result(
    service: RunningService, node: Machine, downloads: Path, folder: Path
) -> None:
    """Two commands, no root, no network; a minute where nothing else goes on."""
    began = time.monotonic()
    prepare(node, downloads)
    start(node)
    job = submit(service, folder, "tr a-z A-Z <in.txt >big.txt; cat in.txt")
    ended = end(service, job)
    assert (ended["state"], ended["node"]) == ("completed", NAME), ended
    assert fetched(service, folder, "big.txt") == "HELLO\n"
    took = time.monotonic() - began
    print(f"from the tar to the first result: {took:.1f} s")
    assert took < 300


def test_its_own_test_passes(service: RunningService, joined: Machine) -> None:
    joined.says("ok    test job: its results were in the storage", timeout=120)
    eventually(lambda: seen(service)["selftest"] is not None, timeout=60)
    found = seen(service)
    assert found["selftest"]["ok"], found
    assert found["state"] == "ready" and found["generation_current"], found


def test_preparing_it_again_changes_nothing(joined: Machine, downloads: Path) -> None:
    before = snapshot(joined)
    again = joined.get_started("--from", str(downloads))
    assert again.returncode == 0, again.stdout + again.stderr
    assert snapshot(joined) == before


def snapshot(machine: Machine) -> dict[str, tuple[int, int, int]]:
    """All that is there, but for what the running programs themselves change."""
    busy = [machine.folder / part for part in ("docker", "nomad", "var/log", "var/tmp", "var/run")]
    found = {}
    for top, folders, files in os.walk(machine.folder):
        # Not even listed: what is in them comes and goes.
        folders[:] = [name for name in folders if Path(top, name) not in busy]
        for name in (*folders, *files):
            seen = Path(top, name).lstat()
            found[str(Path(top, name))] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return found


def test_no_secret_can_be_read(service: RunningService, joined: Machine, folder: Path) -> None:
    job = submit(service, folder, f"env; cat /proc/mounts; {UNTIL_STOP}")
    service.wait_for(job, ["running"])
    known = service.credentials
    bucket = service.get(f"/v1/jobs/{job}").body["bucket_id"]
    secrets = {
        name: known[f"BRIDGE_{name}"]
        for name in ("GROUP_TOKEN", "COMPUTE_SECRET", "S3_ACCESS", "S3_SECRET")
    }
    arguments = b"".join(
        (Path("/proc") / str(pid) / "cmdline").read_bytes()
        for pid in joined.processes()
        if (Path("/proc") / str(pid)).exists()
    ).decode(errors="replace")
    for name, secret in (secrets | {"bucket": bucket}).items():
        assert secret not in arguments, name
    logs = "".join(
        file.read_text(errors="replace") for file in (joined.folder / "var" / "log").rglob("*")
    )
    for name, secret in (secrets | {"bucket": bucket}).items():
        assert secret not in logs + joined.output(), name
    let_end(joined.folder)
    assert end(service, job)["state"] == "completed"
    inside = fetched(service, folder, "joblog.txt")
    for name, secret in (secrets | {"bucket": bucket}).items():
        assert secret not in inside, name
    assert "s3.conf" not in inside and str(joined.folder / "etc") not in inside
    readable = joined.run("find", str(joined.folder / "etc"), "-type", "f", "-perm", "/077")
    assert readable.stdout == ""


def test_its_owner_pauses_and_resumes(
    service: RunningService,
    nomad: NomadCluster,
    joined: Machine,
    folder: Path,
    tmp_path: Path,
) -> None:
    long = submit(service, folder, f"{UNTIL_STOP}; echo through")
    service.wait_for(long, ["running"])
    done = joined.run_sh("--pause")
    assert done.returncode == 0, done.stderr
    assert "no more jobs come" in done.stdout
    known = nomad.call("GET", f"node/{nomad.node(NAME)['ID']}")
    assert known["Meta"].get("bridge_paused") == "1"
    other = tmp_path / "other"
    other.mkdir()
    (other / "in.txt").write_text("x")
    waiting = submit(service, other, "true")
    eventually(lambda: seen(service)["state"] == "paused", timeout=60, every=0.2)
    # What ran when it was paused goes on, and ends well.
    let_end(joined.folder)
    assert end(service, long)["state"] == "completed"
    assert fetched(service, folder, "joblog.txt") == "through\n"
    assert service.get(f"/v1/jobs/{waiting}").body["state"] in ("received", "submitted")
    assert joined.run_sh("--resume").returncode == 0
    assert end(service, waiting)["state"] == "completed"


def test_docker_dies_under_a_job(service: RunningService, joined: Machine, folder: Path) -> None:
    job = submit(service, folder, BEGUN_AND_ENDED)
    service.wait_for(job, ["running"])
    engine = int((joined.folder / "var" / "engine.pid").read_text().split()[0])
    os.kill(engine, signal.SIGKILL)
    runs_again(service, job)
    let_end(joined.folder)
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
    assert fetched(service, folder, "joblog.txt") == "begun\nended\n"


def test_after_a_power_cut(service: RunningService, joined: Machine, folder: Path) -> None:
    """What ran is lost and runs again; the node comes back by the same two commands."""
    job = submit(service, folder, BEGUN_AND_ENDED)
    service.wait_for(job, ["running"])
    joined.power_cut()
    joined.log.write_text("")
    status = joined.run_sh("--status")
    assert status.returncode == 1
    assert "does not run" in status.stdout
    joined.join()
    joined.says(f"--- {NAME} has joined ---")
    runs_again(service, job)
    let_end(joined.folder)
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
    assert fetched(service, folder, "joblog.txt") == "begun\nended\n"


def test_started_by_the_units_own_commands(
    service: RunningService, joined: Machine, folder: Path
) -> None:
    joined.power_cut()
    joined.log.write_text("")
    units = joined.run_sh("--units").stdout
    commands = [
        line.partition("=")[2]
        for line in units.splitlines()
        if line.startswith(("ExecStart=", "ExecStartPost="))
    ]
    docker, client, *post = (
        str(joined.folder / "bin" / "node-docker"),
        str(joined.folder / "bin" / "node-client"),
        *f"{joined.folder}/bin/node-client --joined".split(),
    )
    assert {docker, client, " ".join(post)} <= set(commands), commands
    joined.start(docker)
    started = joined.start(client)
    assert joined.run(*post, timeout=120).returncode == 0
    assert end(service, submit(service, folder, "true"))["state"] == "completed"
    started.terminate()
    started.wait(timeout=180)


def test_it_leaves(service: RunningService, joined: Machine) -> None:
    left = joined.run_sh("--leave", "--within", "30")
    assert left.returncode == 0, left.stderr
    eventually(lambda: not joined.processes(), timeout=60, every=0.2)
    eventually(lambda: seen(service)["state"] != "ready", timeout=60, every=0.5)


@pytest.mark.needs("systemd")
def test_under_systemd_it_comes_back_after_a_reboot(
    service: RunningService, joined: Machine, folder: Path
) -> None:
    joined.power_cut()
    log = service.home / "systemd.log"
    with user_systemd(joined, log):
        installed = joined.run_sh("--install")
        assert installed.returncode == 0, installed.stdout + installed.stderr
        job = submit(service, folder, BEGUN_AND_ENDED)
        service.wait_for(job, ["running"])
    assert not joined.processes()
    with user_systemd(joined, log):
        runs_again(service, job)
        let_end(joined.folder)
        ended = end(service, job)
        assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
        status = joined.run_sh("--status")
        assert status.returncode == 0 and "systemd (user)" in status.stdout, status
        assert joined.run_sh("--leave").returncode == 0
    eventually(lambda: not joined.processes(), timeout=60, every=0.2)


def test_a_wrong_secret_is_told(service: RunningService, joined: Machine) -> None:
    joined.power_cut()
    joined.log.write_text("")
    conf = joined.folder / "etc" / "node.conf"
    good = conf.read_text()
    conf.write_text(good.replace("BRIDGE_COMPUTE_SECRET=", "BRIDGE_COMPUTE_SECRET=x"))
    started = joined.join()
    assert started.wait(timeout=180) != 0
    conf.write_text(good)
    assert "compute secret" in joined.output(), joined.output()


def test_wrong_keys_are_told(joined: Machine, downloads: Path, storage_keys: Path) -> None:
    bad = joined.home / "bad.conf"
    bad.write_text(storage_keys.read_text().replace("S3_SECRET=", "S3_SECRET=x"))
    done = joined.get_started("--from", str(downloads), "--s3-config", str(bad))
    assert done.returncode == 1
    assert "FAIL  storage: a bucket cannot be made: the storage refuses the keys" in done.stdout
    assert (joined.folder / "etc" / "s3.conf").read_text() == storage_keys.read_text()


def test_it_is_removed_from_the_machine(joined: Machine) -> None:
    done = joined.run_sh("--uninstall", "--yes")
    assert done.returncode == 0, done.stderr
    assert not list(joined.folder.iterdir())
