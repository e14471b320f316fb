"""The laboratory of ``lab`` on a real Nomad cluster: jobs in containers, the real stage
program, the service's own storage.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bridge import resources
from bridge.points import Point
from tests.support.crashing_service import CrashingService
from tests.support.docker import docker
from tests.support.lab import QUEUE, Lab, Work
from tests.support.nomad_cluster import POOL, NomadCluster
from tests.support.nomad_service import running_on

# Where jobs see the folder in which their runs are counted.
RUNS = "/runs"
NOMAD_QUEUE = {**QUEUE, "gone_grace_s": 1}


class NomadLab(Lab):
    """A laboratory whose jobs run on ``nomad``, in the group of its only pool."""

    def __init__(self, service: CrashingService, folder: Path, nomad: NomadCluster) -> None:
        super().__init__(service, folder, RUNS)
        self.nomad = nomad

    @contextlib.contextmanager
    def refusing(self, point: Point) -> Iterator[Work]:
        work = self.work()
        self.crash_at(point)
        # Nomad's Docker driver would ask a registry for this version every time.
        self.submit_if_alive(work, image="busybox:latest")
        self.service.await_crash()
        yield work

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


@contextlib.contextmanager
def nomad_lab(
    home: Path, nomad: NomadCluster, rclone: str, queue: Mapping[str, object] = NOMAD_QUEUE
) -> Iterator[NomadLab]:
    """A service below ``home`` on a cluster whose jobs may mount folders, until the end."""
    runs = home / "runs"
    runs.mkdir()
    job_file = home / "job.nomad.hcl"
    shipped = resources.path("nomad-jobs/job.nomad.hcl").read_text()
    mark = 'network_mode = "none"\n'
    assert shipped.count(mark) == 1
    mount = f'mount {{\n type = "bind"\n source = "{runs}"\n target = "{RUNS}"\n}}\n'
    job_file.write_text(shipped.replace(mark, mark + mount))
    settings = {"job_file": str(job_file), "sweep_interval_s": 2}
    service = CrashingService(home / "home")
    with running_on(nomad, service, rclone, nomad_settings=settings, queue=queue):
        yield NomadLab(service, runs, nomad)
