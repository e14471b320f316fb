"""How much faster jobs are handed in here than they are registered with Nomad.

In turns, a few seconds each, from this machine: jobs are registered with a Nomad server of
the bench's own, by the client and as many threads as the bridge uses; and arrays of 1,000
jobs are handed in to a new service. The Nomad server is as in production, with mutual TLS
and ACLs; it has no nodes, so that every job waits, on both sides. What was taken is stored
durably, on both sides too. At least 40 times as fast.

Exit code 1 when it is less. Needs ``nomad`` on the PATH.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pour import ARRAY, Door
from running import service

from bridge.connectors.nomad.client import NomadClient
from bridge.core.feeder import Pace
from tests.support.nomad_cluster import NomadCluster, cluster

LEAST = 40.0
DOORS = 2  # connections to the service; more would only wait for each other
WAITS: dict[str, object] = {"image": "psi4:1.5", "hold": True}
BLOCKED: dict[str, Any] = {
    "Type": "batch",
    "TaskGroups": [
        {
            "Name": "job",
            "Tasks": [
                {
                    "Name": "main",
                    "Driver": "docker",
                    "Config": {"image": "psi4:1.5"},
                    "Resources": {"Cores": 1, "MemoryMB": 4000},
                }
            ],
        }
    ],
}


def registrations(nomad: NomadCluster) -> list[Callable[[], int]]:
    """What the threads do: each registers one job of a new name."""
    client = NomadClient(nomad.connection())
    place = {"Namespace": nomad.pool, "NodePool": nomad.pool}
    numbers = itertools.count()

    def register() -> int:
        name = f"job-{next(numbers)}"
        client.register(BLOCKED | place | {"ID": name, "Name": name})
        return 1

    return [register] * Pace().threads


def submissions(address: str, secret: str) -> list[Callable[[], int]]:
    """What the threads do: each hands in an array."""

    def through(door: Door) -> Callable[[], int]:
        def submit() -> int:
            door.post()
            return ARRAY

        return submit

    return [through(Door(address, secret, WAITS)) for _ in range(DOORS)]


def rate(actions: Sequence[Callable[[], int]], seconds: float) -> float:
    """Jobs per second, when each thread does its own again and again."""
    start = time.perf_counter()

    def work(act: Callable[[], int]) -> int:
        done = 0
        while time.perf_counter() - start < seconds:
            done += act()
        return done

    with ThreadPoolExecutor(len(actions)) as pool:
        done = sum(pool.map(work, actions))
    return done / (time.perf_counter() - start)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns")
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    parser.add_argument("--dir", type=Path, help="where the database goes (a real disk)")
    asked = parser.parse_args()
    ratios = []
    with (
        tempfile.TemporaryDirectory(dir=asked.dir) as folder,
        cluster(client=False) as nomad,
        service(Path(folder) / "service") as running,
    ):
        theirs = registrations(nomad)
        ours = submissions(running.address, running.secret)
        for act in (theirs[0], *ours):
            act()
        for _ in range(asked.runs):
            registered, taken_in = rate(theirs, asked.seconds), rate(ours, asked.seconds)
            ratios.append(taken_in / registered)
            print(
                f"Nomad registers {registered:>5,.0f}/s  the service takes in"
                f" {taken_in:>6,.0f}/s  ratio {ratios[-1]:.0f}",
                flush=True,
            )
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.0f} (at least {LEAST:.0f}) {'ok' if ratio >= LEAST else 'TOO SLOW'}")
    return int(ratio < LEAST)


if __name__ == "__main__":
    sys.exit(main())
