"""What a deep queue at the bridge costs Nomad, and the jobs of another pool.

On a real Nomad cluster of the bench's own, with a node in each of two pools and tasks that
do nothing. In turns, a group hands in 100,000 jobs and cancels them; meanwhile a member of
another group, with a pool of its own, hands in one job after another.

- how many jobs Nomad has: what runs and the reserve, never more
- its server's memory: at most 50 MB more than before
- the other group's jobs: at most 1.1 times as long as with an empty queue

Exit code 1 when any of these is missed. Needs a build of Nomad that has mock_driver, which
releases have not, and Docker, without which a node takes no jobs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import NamedTuple

from running import HERE

from bridge import process
from bridge.core.queue import Reserve
from tests.support.nomad_cluster import POOL, NomadCluster, cluster
from tests.support.nomad_service import on_nomad, printed
from tests.support.poll import eventually
from tests.support.service import RunningService

CORES = 8
ARRAY = 1000
MOST_MB = 50
MOST_RATIO = 1.10
OTHER = "g-other"
JOB = {"image": "any:1", "memory_mb": 16}


class Round(NamedTuple):
    """Seconds that jobs of the other group took, with the queue deep or empty."""

    deep: list[float]
    empty: list[float]


class Bench:
    """The groups: ``lab``, whose queue is deep, and the other one."""

    def __init__(self, nomad: NomadCluster, service: RunningService) -> None:
        self._nomad = nomad
        self._service = service
        nomad.register_group(OTHER, OTHER)
        nomad.start_client("other", {"node_pool": OTHER, "meta": {"run_for": "50ms"}})
        place = ("--connector", "nomad", "--config", str(service.config))
        group = printed(service, "groups", "add", "other", "--admin", "boss", *place)
        self._other = group["admin_secret"]
        assert service.post("/v1/compute-secret/rotate", {}, self._other).status == 200

    @property
    def server_mb(self) -> float:
        """Resident memory of the Nomad server."""
        status = Path(f"/proc/{self._nomad.pid('server')}/status").read_text()
        kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kb) / 1024

    @property
    def at_nomad(self) -> int:
        """How many jobs of the deep queue are at Nomad and have not ended."""
        jobs = self._nomad.call("GET", "jobs", namespace=POOL, filter='Status != "dead"')
        return len(jobs)

    def fill(self, jobs: int) -> str:
        """Hand in so many jobs that do not end; the name of their set."""
        name = uuid.uuid4().hex
        for first in range(0, jobs, ARRAY):
            items = [
                JOB | {"bucket_id": str(uuid.uuid4()), "set": name}
                for _ in range(min(ARRAY, jobs - first))
            ]
            assert self._service.post("/v1/jobs", items).status == 200
        eventually(lambda: self._states(name).get("running") == CORES, timeout=60, every=0.2)
        return name

    def cancel(self, name: str) -> float:
        """Cancel a set, and wait until nothing of it is left; seconds of the request."""
        began = time.monotonic()
        assert self._service.post(f"/v1/sets/{name}/cancel", {}).status == 200
        took = time.monotonic() - began
        eventually(lambda: self._states(name).keys() == {"canceled"}, timeout=120, every=0.2)
        return took

    def one_job(self) -> float:
        """Seconds that a job of the other group takes."""
        began = time.monotonic()
        item = JOB | {"bucket_id": str(uuid.uuid4())}
        job = self._service.post("/v1/jobs", [item], self._other).body[0]["id"]
        while (seen := self._service.get(f"/v1/jobs/{job}", self._other).body)["ended_at"] is None:
            time.sleep(0.005)
        assert seen["state"] == "completed", seen
        return time.monotonic() - began

    def _states(self, name: str) -> dict[str, int]:
        found = self._service.get(f"/v1/sets/{name}").body["jobs"]
        return {state: count for state, count in found.items() if count}


def measure(bench: Bench, jobs: int, rounds: int, probes: int) -> bool:
    """Whether all is as it should be; prints it."""
    for _ in range(probes):
        bench.one_job()
    before = bench.server_mb
    most_at_nomad, most_mb, done = 0, before, list[Round]()
    for number in range(1, rounds + 1):
        empty = [bench.one_job() for _ in range(probes)]
        name = bench.fill(jobs)
        deep = []
        for _ in range(probes):
            deep.append(bench.one_job())
            most_at_nomad = max(most_at_nomad, bench.at_nomad)
            most_mb = max(most_mb, bench.server_mb)
        took = bench.cancel(name)
        done.append(Round(deep, empty))
        print(
            f"round {number}  a job of the other pool {statistics.median(deep):.2f} s"
            f"  with an empty queue {statistics.median(empty):.2f} s"
            f"  ({jobs:,} jobs canceled in {took:.1f} s)",
            flush=True,
        )
    ratio = statistics.median(
        statistics.median(one.deep) / statistics.median(one.empty) for one in done
    )
    window = CORES + Reserve().most
    return all(
        [
            judge("jobs at Nomad", most_at_nomad, window, ""),
            judge("more memory of its server", most_mb - before, MOST_MB, " MB"),
            judge("time of a job in another pool", ratio, MOST_RATIO, " of that without"),
        ]
    )


def judge(what: str, seen: float, most: float, unit: str) -> bool:
    """Whether it is at most ``most``; prints it."""
    fine = seen <= most
    verdict = "ok" if fine else "TOO MUCH"
    print(f"{what}  {seen:.4g}{unit} (at most {most:g})  {verdict}", flush=True)
    return fine


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=9, help="jobs of the other group at a time")
    asked = parser.parse_args()
    rclone = process.which("rclone")
    assert rclone is not None
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster(cores=CORES, node={"meta": {"run_for": "24h"}}) as nomad,
        on_nomad(
            nomad, Path(folder) / "home", rclone, job_file=str(HERE / "mock.nomad.hcl")
        ) as service,
    ):
        fine = measure(Bench(nomad, service), asked.jobs, asked.rounds, asked.probes)
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
