"""The laboratory of ``lab`` on a real Nomad cluster: jobs in containers, the real stage
program, the service's own storage.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bridge import resources
from bridge.client.storage import Storage
from tests.support.crashing_service import CrashingService
from tests.support.docker import docker
from tests.support.lab import QUEUE, Lab
from tests.support.needs import IMAGE
from tests.support.nomad_cluster import POOL, NomadCluster
from tests.support.s3 import S3

# Where jobs see the folder in which their runs are counted.
RUNS = "/runs"
NOMAD_QUEUE = {**QUEUE, "gone_grace_s": 1}


class NomadLab(Lab):
    """A laboratory whose jobs run on ``nomad``, in the group of its only pool."""

    def __init__(self, service: CrashingService, folder: Path, nomad: NomadCluster) -> None:
        super().__init__(service, folder, RUNS)
        self.nomad = nomad

    def kept(self, job: str) -> Sequence[str]:
        jobs = self.nomad.call("GET", "jobs", namespace=POOL)
        return sorted(one["ID"] for one in jobs if uuid.UUID(job).hex in one["ID"])

    def lose(self, job: str) -> None:
        """As a restart of the machine: agent and container are gone, and the agent is back."""
        (attempt,) = self.kept(job)
        (alloc,) = self.nomad.call("GET", f"job/{attempt}/allocations", namespace=POOL)
        self.nomad.kill_client()
        docker("rm", "--force", f"main-{alloc['ID']}")
        self.nomad.start_client()

    def publish(self, image: str) -> None:
        """Put an image of the machine into the group's code bucket."""
        done = self.service.command("codes", "publish", image)
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def nomad_lab(
    home: Path, nomad: NomadCluster, rclone: str, queue: Mapping[str, object] = NOMAD_QUEUE
) -> Iterator[NomadLab]:
    """A service below ``home`` on a cluster whose jobs may mount folders, until the end."""
    runs = home / "runs"
    runs.mkdir()
    service = CrashingService(home / "home")
    service.init("--runtime", "process", group="first")
    settings = yaml.safe_load(service.config.read_text())
    settings |= {
        "connectors": ["nomad"],
        "nomad": _nomad_settings(service, nomad, runs),
        "queue": dict(queue),
    }
    service.config.write_text(yaml.safe_dump(settings))
    try:
        service.start()
        _furnish(service, nomad, rclone)
        lab = NomadLab(service, runs, nomad)
        lab.publish(IMAGE)
        yield lab
    finally:
        service.close()


def _nomad_settings(
    service: CrashingService, nomad: NomadCluster, runs: Path
) -> dict[str, object]:
    token_file = service.home / "nomad.token"
    token_file.touch(mode=0o600)
    token_file.write_text(nomad.bridge_token)
    job_file = service.home / "job.nomad.hcl"
    shipped = resources.path("nomad-jobs/job.nomad.hcl").read_text()
    mount = f'mount {{\n type = "bind"\n source = "{runs}"\n target = "{RUNS}"\n}}\n'
    mark = 'network_mode = "none"\n'
    assert shipped.count(mark) == 1
    job_file.write_text(shipped.replace(mark, mark + mount))
    return {
        "address": nomad.address,
        "ca_file": str(nomad.ca_file),
        "client_cert": str(nomad.bridge_pair.cert),
        "client_key": str(nomad.bridge_pair.key),
        "token_file": "nomad.token",
        "job_file": str(job_file),
        "sweep_interval_s": 2,
    }


def _furnish(service: CrashingService, nomad: NomadCluster, rclone: str) -> None:
    """Group lab on Nomad with its user ada, its code bucket, and the stage program."""
    place = ("--connector", "nomad", "--config", str(service.config))
    group = _printed(service, "groups", "add", "lab", "--admin", "chief", *place)
    service.use(BRIDGE_GROUP_TOKEN=group["group_token"], BRIDGE_ADMIN_SECRET=group["admin_secret"])
    service.use(BRIDGE_API_SECRET=_printed(service, "users", "add", "ada")["secret"])
    _printed(service, "compute-secret", "rotate")
    known = service.credentials
    names = ("SERVER", "ACCESS", "SECRET")
    endpoint, access, secret = (known[f"BRIDGE_S3_{name}"] for name in names)
    Storage(endpoint, access, secret).make_bucket(group["code_bucket"])
    keys = S3(endpoint, access, secret, service.home)
    nomad.install_stage(resources.path("node-setup"), rclone, keys)


def _printed(service: CrashingService, *arguments: str) -> Any:
    done = service.command(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
