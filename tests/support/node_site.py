"""All that a group has before its first machine: a bridge with its Nomad server (mutual TLS,
ACLs, strict introduction), storage, an image, the bundle and the file with the storage's keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.machine import ARCHITECTURE, Machine
from tests.support.nomad_cluster import NomadCluster
from tests.support.nomad_service import running_on
from tests.support.poll import eventually, free_port
from tests.support.service import RunningService

NEEDED = ("nomad", "docker", "root", "rootless-docker")
IMAGE = "busybox:1"
FINAL = ("completed", "failed", "canceled")
NAME = "bench-1"
# A job goes on until ``let_end``.
UNTIL_STOP = "while [ ! -e stop ]; do sleep 0.1; done"

Settings = Mapping[str, Mapping[str, object]]


@contextlib.contextmanager
def letting_in(
    nomad: NomadCluster, home: Path, rclone: str, settings: Settings
) -> Iterator[RunningService]:
    """A bridge that lets machines in, with group ``lab``; ``settings`` by section."""
    service = RunningService(home)
    token_file = nomad.home / "nodes.token"
    token_file.touch(mode=0o600)
    token_file.write_text(nomad.token_with('node { policy = "write" }'))
    enrolment = {
        "node_token_file": str(token_file),
        "servers": list(nomad.servers),
        "ca_cert_file": str(nomad.authority.ca_file),
        "ca_key_file": str(nomad.authority.key_file),
        "sweep_interval_s": 2,
    }
    sections: Settings = {"nodes": {"inspect_interval_s": 1}, **settings}
    with running_on(nomad, service, rclone, nomad_settings=enrolment, **sections):
        yield service


def make_bundle(service: RunningService, downloads: Path, out: Path, *more: str) -> None:
    """The group's bundle, as an admin makes it."""
    done = service.command(
        *("nodes", "bundle", "--out", str(out), "--url", service.url, *more),
        *("--pins", str(downloads / "pins"), "--architecture", ARCHITECTURE),
    )
    assert done.returncode == 0, done.stderr


def write_keys(service: RunningService, file: Path, **other: str) -> None:
    """The file with the storage's keys, as the group itself writes it; some of it otherwise."""
    known = service.credentials
    names = ("SERVER", "ACCESS", "SECRET")
    keys = {f"S3_{name}": known[f"BRIDGE_S3_{name}"] for name in names} | other
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in keys.items()))


def unpack(node: Machine, bundle: Path) -> None:
    """Bring a bundle to a machine, over one that may be there."""
    node.give(bundle)
    done = node.run("tar", "-xf", bundle.name)
    assert done.returncode == 0, done.stderr


def prepare(node: Machine, downloads: Path, *more: str, name: str = NAME) -> None:
    """The first of the two commands that make a machine a node.

    Its port is ours: left to themselves, two nodes that start at the same time may find the
    same one free.
    """
    done = node.get_started(
        *("--name", name, "--from", str(downloads), "--s3-config", "s3.conf"),
        *("--http-port", str(free_port())),
        *("--network-interface", "lo", "--reserve-memory", "500", *more),
    )
    assert done.returncode == 0, done.stdout + done.stderr


def start(node: Machine, name: str = NAME) -> None:
    """The second one; returns when the scheduler has taken the node."""
    node.log.write_text("")
    node.join()
    node.says(f"--- {name} has joined ---")


def submit(
    service: RunningService, folder: Path, script: str, *, image: str = IMAGE, cores: int = 1
) -> str:
    """Hand in a job in ``folder``; its id."""
    size = ("--memory", "64", "--cores", str(cores))
    done = service.command("submit", "--dir", str(folder), *size, image, "--", script)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def runs_again(service: RunningService, job: str) -> None:
    """Wait until the program of a later attempt of a job runs."""

    def there() -> bool:
        seen = service.get(f"/v1/jobs/{job}").body
        assert seen["state"] not in FINAL, seen
        return bool(seen["state"] == "running" and seen["attempt"] > 1)

    eventually(there, timeout=180, every=0.2)


def let_end(folder: Path) -> None:
    """End the waiting of the jobs on the node in ``folder``."""
    for rundir in folder.glob("nomad/alloc/*/alloc/data/rundir"):
        (rundir / "stop").touch()


def end(service: RunningService, job: str, timeout: float = 180) -> dict[str, Any]:
    """The job, once it has ended."""
    return service.wait_for(job, FINAL, timeout=timeout)


def attempts(service: RunningService, job: str) -> list[dict[str, Any]]:
    """The attempts of a job, the first one first."""
    found: list[dict[str, Any]] = service.get(f"/v1/jobs/{job}/attempts").body["attempts"]
    return found


def finds_no_node(service: RunningService, job: str) -> None:
    """Wait until a job is known to wait for a node."""

    def explained() -> bool:
        told = service.get(f"/v1/jobs/{job}/explain").body["explanation"]
        return "The group's pool has no ready node." in told

    eventually(explained, timeout=60, every=0.2)


def fetched(service: RunningService, folder: Path, name: str) -> str:
    """A file of the results of the job in ``folder``."""
    done = service.command("get", "--dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / name).read_text()


def seen(service: RunningService, name: str = NAME) -> dict[str, Any]:
    """The node as the group's admin sees it."""
    answer = service.get(f"/v1/nodes/{name}", service.credentials["BRIDGE_ADMIN_SECRET"])
    assert answer.status == 200, answer
    return dict(answer.body)


def told(service: RunningService, name: str = NAME) -> str:
    """What ``nodes list`` shows of a node in a terminal, in one line."""
    done = service.command("nodes", "list")
    assert done.returncode == 0, done.stderr
    return next((line for line in done.stdout.splitlines() if line.split("\t")[0] == name), "")
