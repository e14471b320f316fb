"""A machine becomes a node: a fresh account here, the bundle, two scripts, no root.

Everything is real: a bridge with its Nomad server (mutual TLS, ACLs, strict introduction),
rootless Docker, the embedded storage, the client. The tests go through one node's life, in
this order on one worker.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.support import needs
from tests.support.machine import (
    ARCHITECTURE,
    Machine,
    assemble_downloads,
    machine,
    pinned,
)
from tests.support.nomad_cluster import NomadCluster, cluster
from tests.support.poll import eventually
from tests.support.service import RunningService
from tests.support.user_systemd import user_systemd

NEEDED = ("nomad", "docker", "root", "rootless-docker")
pytestmark = [pytest.mark.needs(*NEEDED), pytest.mark.xdist_group("node")]

IMAGE = "busybox:1"
FINAL = ("completed", "failed", "canceled")
NAME = "bench-1"


@pytest.fixture(scope="module")
def nomad() -> Iterator[NomadCluster]:
    for name in NEEDED:
        needs.need(name)
    with cluster(client=False) as running:
        yield running


@pytest.fixture(scope="module")
def service(
    nomad: NomadCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A bridge that lets machines in, with group ``lab``."""
    service = RunningService(tmp_path_factory.mktemp("node") / "home")
    service.init("--runtime", "process", group="first")
    configure(service, nomad)
    try:
        service.start()
        add_lab(service)
        yield service
    finally:
        service.close()


def configure(service: RunningService, nomad: NomadCluster) -> None:
    tokens = {
        "nomad.token": nomad.bridge_token,
        "nodes.token": nomad.token_with('node { policy = "write" }'),
    }
    for name, token in tokens.items():
        (service.home / name).touch(mode=0o600)
        (service.home / name).write_text(token)
    text = service.config.read_text().replace("connectors: [local]", "connectors: [nomad]")
    service.config.write_text(text)
    service.configure(
        nomad={
            "address": nomad.address,
            "ca_file": str(nomad.ca_file),
            "client_cert": str(nomad.bridge_pair.cert),
            "client_key": str(nomad.bridge_pair.key),
            "token_file": "nomad.token",
            "node_token_file": "nodes.token",
            "servers": list(nomad.servers),
            "ca_cert_file": str(nomad.authority.ca_file),
            "ca_key_file": str(nomad.authority.key_file),
            "sweep_interval_s": 2,
        },
        nodes={"inspect_interval_s": 1},
    )


def add_lab(service: RunningService) -> None:
    """Group lab with admin chief and user ada; credentials.env is theirs from now on."""
    config = ("--config", str(service.config))
    group = printed(
        service, "groups", "add", "lab", "--admin", "chief", "--connector", "nomad", *config
    )
    service.use(BRIDGE_GROUP_TOKEN=group["group_token"], BRIDGE_ADMIN_SECRET=group["admin_secret"])
    ada = printed(service, "users", "add", "ada")["secret"]
    compute = printed(service, "compute-secret", "rotate")["secret"]
    service.use(BRIDGE_COMPUTE_SECRET=compute, BRIDGE_API_SECRET=ada, LERULI_API_SECRET=ada)
    s3(service).create_bucket(Bucket=group["code_bucket"])
    done = service.command("codes", "publish", IMAGE)
    assert done.returncode == 0, done.stderr


def printed(service: RunningService, *arguments: str) -> Any:
    done = service.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def s3(service: RunningService) -> Any:
    known = service.credentials
    return boto3.client(
        "s3",
        endpoint_url=known["BRIDGE_S3_SERVER"],
        aws_access_key_id=known["BRIDGE_S3_ACCESS"],
        aws_secret_access_key=known["BRIDGE_S3_SECRET"],
        region_name="us-east-1",
    )


@pytest.fixture(scope="module")
def downloads(rclone: str) -> Iterator[Path]:
    """What the operator downloaded, and the list of it, in a folder for everybody: those of
    pytest are for one user alone.
    """
    with tempfile.TemporaryDirectory(prefix="nb-downloads-") as name:
        folder = Path(name)
        assemble_downloads(folder, rclone)
        (folder / "pins").write_text(pinned(folder))
        yield folder


@pytest.fixture(scope="module")
def bundle(service: RunningService, downloads: Path) -> Path:
    """The group's bundle, as an admin makes it."""
    out = service.home / "nomadrun.tar"
    done = service.command(
        *("nodes", "bundle", "--out", str(out), "--url", service.url),
        *("--pins", str(downloads / "pins"), "--architecture", ARCHITECTURE),
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def storage_keys(service: RunningService) -> Path:
    """The file that the group itself writes."""
    known = service.credentials
    file = service.home / "s3.conf"
    file.touch(mode=0o600)
    names = ("SERVER", "ACCESS", "SECRET")
    file.write_text("".join(f"S3_{name}={known[f'BRIDGE_S3_{name}']}\n" for name in names))
    return file


@pytest.fixture(scope="module")
def node(bundle: Path, storage_keys: Path) -> Iterator[Machine]:
    with machine() as fresh:
        fresh.give(bundle)
        fresh.give(storage_keys)
        done = fresh.run("tar", "-xf", "nomadrun.tar")
        assert done.returncode == 0, done.stderr
        yield fresh
        if (fresh.folder / "current").exists():
            fresh.run_sh("--uninstall", "--yes")


@pytest.fixture
def joined(node: Machine, downloads: Path) -> Machine:
    """The machine as a node that takes jobs, whatever the test before has left."""
    if not (node.folder / "current").exists():
        prepare(node, downloads)
    if node.run_sh("--status").returncode != 0:
        node.log.write_text("")
        node.join()
        node.says(f"--- {NAME} has joined ---")
    return node


def prepare(node: Machine, downloads: Path) -> None:
    done = node.get_started(
        *("--name", NAME, "--from", str(downloads), "--s3-config", "s3.conf"),
        *("--network-interface", "lo", "--reserve-memory", "500"),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    (made / "in.txt").write_text("hello\n")
    return made


def submit(service: RunningService, folder: Path, script: str) -> str:
    done = service.command("submit", "--dir", str(folder), "--memory", "64", IMAGE, "--", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def end(service: RunningService, job: str) -> dict[str, Any]:
    return service.wait_for(job, FINAL, timeout=90)


def fetched(service: RunningService, folder: Path, name: str) -> str:
    done = service.command("get", "--dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / name).read_text()


def seen(service: RunningService, name: str = NAME) -> dict[str, Any]:
    """The node as the group's admin sees it."""
    answer = service.get(f"/v1/nodes/{name}", service.credentials["BRIDGE_ADMIN_SECRET"])
    assert answer.status == 200, answer
    return dict(answer.body)


def test_from_the_tar_to_the_first_result(
    service: RunningService, node: Machine, downloads: Path, folder: Path
) -> None:
    """Two commands, no root, no network, two minutes."""
    began = time.monotonic()
    prepare(node, downloads)
    node.join()
    node.says(f"--- {NAME} has joined ---")
    job = submit(service, folder, "tr a-z A-Z <in.txt >big.txt; cat in.txt")
    ended = end(service, job)
    assert (ended["state"], ended["node"]) == ("completed", NAME), ended
    assert fetched(service, folder, "big.txt") == "HELLO\n"
    took = time.monotonic() - began
    print(f"from the tar to the first result: {took:.1f} s")
    assert took < 120


def test_its_own_test_passes(service: RunningService, joined: Machine) -> None:
    joined.says("ok    test job: its results were in the storage", timeout=120)
    eventually(lambda: seen(service)["selftest"] is not None, timeout=20)
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
    return {
        str(path): (path.lstat().st_ino, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in machine.folder.rglob("*")
        if not any(path.is_relative_to(one) for one in busy)
    }


def test_no_secret_can_be_read(service: RunningService, joined: Machine, folder: Path) -> None:
    job = submit(service, folder, "env; cat /proc/mounts; sleep 3")
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
    assert end(service, job)["state"] == "completed"
    inside = fetched(service, folder, "joblog.txt")
    for name, secret in (secrets | {"bucket": bucket}).items():
        assert secret not in inside, name
    assert "s3.conf" not in inside and str(joined.folder / "etc") not in inside
    readable = joined.run("find", str(joined.folder / "etc"), "-type", "f", "-perm", "/077")
    assert readable.stdout == ""


def test_its_owner_pauses_and_resumes(
    service: RunningService, joined: Machine, folder: Path, tmp_path: Path
) -> None:
    long = submit(service, folder, "sleep 8; echo through")
    service.wait_for(long, ["running"])
    done = joined.run_sh("--pause")
    assert done.returncode == 0, done.stderr
    other = tmp_path / "other"
    other.mkdir()
    (other / "in.txt").write_text("x")
    waiting = submit(service, other, "true")
    eventually(lambda: seen(service)["state"] == "paused", timeout=30, every=0.2)
    # What ran when it was paused goes on, and ends well.
    assert end(service, long)["state"] == "completed"
    assert fetched(service, folder, "joblog.txt") == "through\n"
    assert service.get(f"/v1/jobs/{waiting}").body["state"] in ("received", "submitted")
    assert joined.run_sh("--resume").returncode == 0
    assert end(service, waiting)["state"] == "completed"


def test_docker_dies_under_a_job(service: RunningService, joined: Machine, folder: Path) -> None:
    job = submit(service, folder, "echo begun; sleep 5; echo ended")
    service.wait_for(job, ["running"])
    engine = int((joined.folder / "var" / "engine.pid").read_text().split()[0])
    os.kill(engine, signal.SIGKILL)
    ended = end(service, job)
    assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
    assert fetched(service, folder, "joblog.txt") == "begun\nended\n"


def test_after_a_power_cut(service: RunningService, joined: Machine, folder: Path) -> None:
    """What ran is lost and runs again; the node comes back by the same two commands."""
    job = submit(service, folder, "echo begun; sleep 5; echo ended")
    service.wait_for(job, ["running"])
    joined.power_cut()
    joined.log.write_text("")
    status = joined.run_sh("--status")
    assert status.returncode == 1
    assert "does not run" in status.stdout
    joined.join()
    joined.says(f"--- {NAME} has joined ---")
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
    started.wait(timeout=30)


def test_it_leaves(service: RunningService, joined: Machine) -> None:
    left = joined.run_sh("--leave", "--within", "30")
    assert left.returncode == 0, left.stderr
    eventually(lambda: not joined.processes(), timeout=20, every=0.2)
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
        job = submit(service, folder, "echo begun; sleep 5; echo ended")
        service.wait_for(job, ["running"])
    assert not joined.processes()
    with user_systemd(joined, log):
        ended = end(service, job)
        assert (ended["state"], ended["attempt"]) == ("completed", 2), str(ended)
        status = joined.run_sh("--status")
        assert status.returncode == 0 and "systemd (user)" in status.stdout, status
        assert joined.run_sh("--leave").returncode == 0
    eventually(lambda: not joined.processes(), timeout=20, every=0.2)


def test_a_wrong_secret_is_told(service: RunningService, joined: Machine) -> None:
    joined.power_cut()
    joined.log.write_text("")
    conf = joined.folder / "etc" / "node.conf"
    good = conf.read_text()
    conf.write_text(good.replace("BRIDGE_COMPUTE_SECRET=", "BRIDGE_COMPUTE_SECRET=x"))
    started = joined.join()
    assert started.wait(timeout=60) != 0
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
