"""What the bridge adds to jobs on a real Nomad cluster, and how soon it sees their ends.

- Against the very job specifications that the bridge renders, registered with Nomad
  directly by as many threads as the bridge uses, until their allocations are complete.
  They take turns. At most 1.10 times as long for many jobs, 0.3 s longer for one.
- From the end on the node to its record at the bridge: p95 at most 0.5 s by events, and
  one sweep interval where there are none.

Exit code 1 when any of these is missed. Needs ``nomad`` on the PATH, and a Docker engine
with the image busybox:1; the cluster is the bench's own.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from comparing import complete, in_turns, judge_excess, judge_ratio, leave_nothing_behind, timed

from bridge import process
from bridge.connectors.nomad.client import NomadClient
from bridge.core.feeder import Pace
from tests.support import nomad_proxy
from tests.support.buckets import archive, fill
from tests.support.needs import IMAGE
from tests.support.nomad_cluster import NomadCluster, cluster
from tests.support.nomad_service import on_nomad
from tests.support.service import RunningService

MOST_RATIO = 1.10
MOST_EXCESS_S = 0.3
MOST_DELAY_S = 0.5
SWEEP_S = 10.0
NAMESPACE = "g-lab"
JOB = {"image": IMAGE, "cores": 1, "memory_mb": 64}


class Directly:
    """The specifications of the bridge, registered by a plain client."""

    def __init__(self, nomad: NomadCluster, rendered: dict[str, Any]) -> None:
        self._nomad = nomad
        self._rendered = rendered
        self._client = NomadClient(nomad.connection())

    def run(self, buckets: Sequence[str]) -> float:
        """Seconds until all have ended."""
        name = f"plain-{uuid.uuid4().hex}"
        jobs = [self._job(f"{name}-{number}", bucket) for number, bucket in enumerate(buckets)]
        took = timed(lambda: self._run(name, jobs))
        for job in jobs:
            self._client.deregister(job["ID"], NAMESPACE, purge=True)
        return took

    def _run(self, name: str, jobs: Sequence[dict[str, Any]]) -> None:
        with ThreadPoolExecutor(Pace().threads) as pool:
            list(pool.map(self._client.register, jobs))
        while (ended := self._ended(name)).count("complete") < len(jobs):
            assert not {"failed", "lost"} & set(ended), ended
            time.sleep(0.02 if len(jobs) == 1 else 0.5)

    def _job(self, job_id: str, bucket: str) -> dict[str, Any]:
        job = copy.deepcopy(self._rendered) | {"ID": job_id, "Name": job_id}
        for task in job["TaskGroups"][0]["Tasks"]:
            if "BRIDGE_BUCKET" in task["Env"]:
                task["Env"]["BRIDGE_BUCKET"] = bucket
        return job

    def _ended(self, name: str) -> list[str]:
        over = 'ClientStatus != "pending" and ClientStatus != "running"'
        wanted = f'JobID matches "^{name}-" and {over}'
        found = self._nomad.call(
            "GET", "allocations", namespace=NAMESPACE, filter=wanted, task_states="false"
        )
        return [alloc["ClientStatus"] for alloc in found]


class ByBridge:
    """The same work through the service, from the submission to the last end."""

    def __init__(self, service: RunningService) -> None:
        self._service = service

    def run(self, buckets: Sequence[str]) -> float:
        """Seconds until all are completed."""
        return timed(lambda: complete(self._service, JOB, buckets))

    def delays(self, since: float) -> list[float]:
        """Seconds between the end on the node and its record, of the jobs since then."""
        # Read from the database: nobody could ask over HTTP as often as this needs.
        source = f"file:{self._service.home / 'bridge.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(source, uri=True)) as db:
            found = db.execute(
                "SELECT recorded_at - ended_at FROM attempts"
                " WHERE state = 'ended' AND claimed_at >= ?",
                [since],
            )
            return [delay for (delay,) in found]


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=60)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cut-jobs", type=int, default=20, help="jobs with the stream cut")
    asked = parser.parse_args()
    leave_nothing_behind()
    rclone = process.which("rclone")
    assert rclone is not None
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster() as nomad,
        on_nomad(nomad, Path(folder) / "home", rclone) as service,
    ):
        fine = against_nomad(nomad, service, asked.jobs, asked.runs)
        if asked.cut_jobs:
            fine.append(without_events(nomad, service, asked.cut_jobs))
    return int(not all(fine))


def against_nomad(nomad: NomadCluster, service: RunningService, jobs: int, runs: int) -> list[bool]:
    """One job and many, in turns with Nomad alone, and the delays by events."""
    ours = ByBridge(service)
    ours.run([fill(service, archive([]))])  # loads the image
    direct = Directly(nomad, only_job(nomad))

    def took(side: ByBridge | Directly, count: int) -> float:
        return side.run([fill(service, archive([])) for _ in range(count)])

    began = time.time()
    one, many = "1 job", f"{jobs} jobs"
    single = in_turns(one, 2 * runs, lambda: took(ours, 1), lambda: took(direct, 1))
    batch = in_turns(many, runs, lambda: took(ours, jobs), lambda: took(direct, jobs))
    return [
        judge_excess(one, single, MOST_EXCESS_S),
        judge_ratio(many, batch, MOST_RATIO),
        judge_delays("end to record, by events", ours.delays(began), MOST_DELAY_S),
    ]


def without_events(nomad: NomadCluster, service: RunningService, jobs: int) -> bool:
    """The delays where Nomad's event stream cannot be had."""
    with nomad_proxy.before(nomad) as door:
        door.streamless = True
        service.stop()
        service.configure(nomad={"address": door.url, "sweep_interval_s": SWEEP_S})
        service.start()
        began = time.time()
        ours = ByBridge(service)
        ours.run([fill(service, archive([])) for _ in range(jobs)])
        delays = ours.delays(began)
        service.stop()
    return judge_delays(f"end to record, no events, a sweep every {SWEEP_S:g} s", delays, SWEEP_S)


def only_job(nomad: NomadCluster) -> dict[str, Any]:
    """The job that the bridge has registered, as Nomad keeps it."""
    (listed,) = nomad.call("GET", "jobs", namespace=NAMESPACE)
    found: dict[str, Any] = nomad.call("GET", f"job/{listed['ID']}", namespace=NAMESPACE)
    return found


def judge_delays(what: str, delays: Sequence[float], most_s: float) -> bool:
    """Whether 95 of 100 are at most ``most_s``; prints it."""
    p95 = statistics.quantiles(delays, n=20, method="inclusive")[-1]
    fine = p95 <= most_s
    print(
        f"{what}  p95 {p95:.2f} s (at most {most_s:g} s)  median {statistics.median(delays):.2f} s"
        f"  longest {max(delays):.2f} s  {'ok' if fine else 'TOO SLOW'}  ({len(delays)} jobs)",
        flush=True,
    )
    return fine


if __name__ == "__main__":
    sys.exit(main())
