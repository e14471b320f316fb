"""What a thousand running jobs cost the bridge: processor time of the whole service.

The jobs run on a real Nomad cluster of the bench's own and do nothing. Events are on, and
nobody asks for anything over HTTP. Exit code 1 when the service needs more than a tenth of
a core, what it needs with nothing to do included. Needs a build of Nomad that has
mock_driver, which releases have not, and Docker, without which a node takes no jobs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

from running import HERE

from bridge import process
from tests.support.nomad_cluster import cluster
from tests.support.nomad_service import on_nomad
from tests.support.poll import eventually
from tests.support.service import RunningService

MOST = 0.10
ARRAY = 1000


def cpu_s(pid: int) -> float:
    """Processor time that a process has had, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share(service: RunningService, seconds: float) -> float:
    """How much of a core the service uses, over so many seconds."""
    assert service.process is not None
    began, before = time.monotonic(), cpu_s(service.process.pid)
    time.sleep(seconds)
    return (cpu_s(service.process.pid) - before) / (time.monotonic() - began)


def running(service: RunningService) -> int:
    """How many jobs run."""
    return int(service.get("/v1/sets/many").body["jobs"].get("running", 0))


def start(service: RunningService, jobs: int) -> None:
    """Hand in so many jobs that do not end, and wait until all run."""
    for first in range(0, jobs, ARRAY):
        items = [
            {"bucket_id": str(uuid.uuid4()), "image": "any:1", "memory_mb": 16, "set": "many"}
            for _ in range(min(ARRAY, jobs - first))
        ]
        answer = service.post("/v1/jobs", items)
        assert answer.status == 200, answer
    eventually(lambda: running(service) == jobs, timeout=60 + jobs, every=1)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=40)
    asked = parser.parse_args()
    rclone = process.which("rclone")
    assert rclone is not None
    node = {
        "meta": {"run_for": "24h"},
        "memory_total_mb": 32 * asked.jobs + 4096,
        "gc_max_allocs": 4 * asked.jobs,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(cores=asked.jobs + 10, node=node) as nomad,
        on_nomad(
            nomad, Path(folder) / "home", rclone, job_file=str(HERE / "mock.nomad.hcl")
        ) as service,
    ):
        idle = share(service, asked.seconds / 2)
        began = time.monotonic()
        start(service, asked.jobs)
        print(f"{asked.jobs:,} jobs run after {time.monotonic() - began:.0f} s", flush=True)
        used = share(service, asked.seconds)
        fine = used <= MOST
        print(
            f"of a core  {used:.1%} with {asked.jobs:,} running jobs (at most {MOST:.0%})  "
            f"{idle:.1%} with none  {'ok' if fine else 'TOO MUCH'}",
            flush=True,
        )
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
