"""Several processes serve one PostgreSQL database, and their jobs run on Nomad: leaders are
killed and paused, and each job runs once.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import resources
from tests.support import needs
from tests.support.crashing_service import CrashingService
from tests.support.lab import Work
from tests.support.nomad_cluster import cluster
from tests.support.nomad_lab import RUNS, NomadLab
from tests.support.nomad_service import running_on
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs("nomad", "docker", "postgres")

JOBS = 30
CORES = 6  # so many jobs at once
LEASE_S = 10.0
STALL_S = 30.0  # of the machine
QUEUE = {"lease_s": LEASE_S, "claim_ttl_s": LEASE_S}


class Process(CrashingService):
    """One of the processes; it has its own folder, as on a machine of its own."""

    serve = RunningService.serve  # type: ignore[assignment]  # the command as it is shipped

    def said(self, words: str) -> str:
        """The first line of its log with these words, if there is one."""
        lines = (self.home / "serve.log").read_text().splitlines()
        return next((line for line in lines if words in line), "")

    def leads(self, fence: int) -> float:
        """When it began to lead under the lease of this number, Unix seconds; 0: not yet."""
        line = self.said(f"action=lead fence={fence}")
        return dt.datetime.fromisoformat(line.split()[0]).timestamp() if line else 0.0

    @property
    def role(self) -> str:
        """As it says itself, of a moment ago."""
        found = self.get("/readyz").body["findings"]
        return next(str(one["detail"]) for one in found if one["what"] == "role")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It does nothing at all until the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


class House:
    """A laboratory that more processes can be started for."""

    def __init__(self, lab: NomadLab, first: Process, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self.first = first
        self._stack = stack

    def another(self, name: str) -> Process:
        """One more, by the same configuration but for the address; the storage is elsewhere."""
        made = Process(self.first.home.with_name(name))
        made.home.mkdir()
        for file in ("config.yaml", "credentials.env", "nomad.token"):
            shutil.copy(self.first.home / file, made.home / file)
        made.configure(server={"bind": made.bind}, storage={"embedded": False})
        self._stack.callback(made.close)
        made.start()
        return made


@pytest.fixture
def house(postgres_url: str, rclone: str, tmp_path: Path) -> Iterator[House]:
    for name in ("nomad", "docker"):
        needs.need(name)
    runs = tmp_path / "runs"
    runs.mkdir()
    job_file = tmp_path / "job.nomad.hcl"
    shipped = resources.path("nomad-jobs/job.nomad.hcl").read_text()
    mark = 'network_mode = "none"\n'
    assert shipped.count(mark) == 1
    mount = f'mount {{\n type = "bind"\n source = "{runs}"\n target = "{RUNS}"\n}}\n'
    job_file.write_text(shipped.replace(mark, mark + mount))
    first = Process(tmp_path / "first")
    with (
        cluster(cores=CORES, volumes=True) as nomad,
        running_on(
            nomad,
            first,
            rclone,
            nomad_settings={"job_file": str(job_file)},
            database={"url": postgres_url},
            queue=QUEUE,
        ),
        contextlib.ExitStack() as stack,
    ):
        yield House(NomadLab(first, runs, nomad), first, stack)


def begun(works: list[Work]) -> int:
    return sum(work.runs > 0 for work in works)


def test_each_job_runs_once(house: House) -> None:
    lab, first = house.lab, house.first
    second = house.another("second")
    eventually(lambda: (first.role, second.role) == ("leader", "follower"))
    works = [lab.work("sleep 0.3") for _ in range(JOBS)]
    lab.service = second
    jobs = lab.submit(*works)

    eventually(lambda: begun(works) >= CORES, timeout=120)
    killed = time.time()
    first.stop(signal.SIGKILL)
    led = eventually(lambda: second.leads(fence=2), timeout=120)
    assert led - killed <= 2 * LEASE_S + STALL_S

    third = house.another("third")
    eventually(lambda: second.said("action=submit "), timeout=120)
    paused = time.time()
    with second.paused():
        led = eventually(lambda: third.leads(fence=3), timeout=120)
        assert led - paused <= 2 * LEASE_S + STALL_S
        eventually(lambda: third.said("action=end "), timeout=120)
        assert begun(works) < JOBS
    eventually(lambda: second.said("action=follow lost_fence=2"), timeout=120)

    for job, work in zip(jobs, works, strict=True):
        seen = lab.end(job, timeout=180)
        assert (seen["state"], seen["attempt"], work.runs) == ("completed", 1, 1), seen
        assert lab.result(work)
    eventually(lambda: {second.role, third.role} == {"follower", "leader"})
    assert all(one.said("action=submit ") for one in (first, third))
