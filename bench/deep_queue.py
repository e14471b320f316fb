"""What a deep queue costs: a million jobs of a hundred users, against ten thousand.

For each fill, on a database of its own:

- claim: one pass of the feeder, from its start until the next 100 jobs are chosen by the
  rules and their claims committed, with 1,000 attempts under way; the scheduler is not counted.
- nothing fits: the same pass where no machine could hold any of the jobs.
- ready: from the start of the service until ``/readyz`` answers 200.
- read, page: requests over HTTP, while arrays of 1,000 jobs are poured in without a break.
- memory: the most that the service ever had resident.

Exit code 1 when a figure of the deep queue is over its bound. More in README.md.
"""

from __future__ import annotations

import argparse
import http.client
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import filled
from running import HERE, Service, child, service

from bridge import points
from bridge.connectors.base import Machine, Room
from bridge.core.feeder import Feeder, Pace
from bridge.core.queue import Reserve
from bridge.db.engine import Database
from bridge.points import Point
from tests.support.fake_connector import FakeConnector

SHALLOW = 10_000
NEXT = 100  # jobs claimed in one pass
UNDER_WAY = 1000
PASSES = 20
READS = 2000
PAGES = 400  # of each kind
SCHEDULER = "bench"  # no service knows it, so what it was handed stays under way

BOUNDS = {
    "claim, median (ms)": 20.0,
    "nothing fits, median (ms)": 20.0,
    "ready (s)": 3.0,
    "read by id, p99 (ms)": 5.0,
    "page, all states, p99 (ms)": 20.0,
    "page, one's own, p99 (ms)": 20.0,
    "page, by state, p99 (ms)": 20.0,
    "page, by user, p99 (ms)": 20.0,
    "page, by set, p99 (ms)": 20.0,
    "memory (MB)": 200.0,
}


class Roomy(FakeConnector):
    """Takes whatever it is handed and starts nothing."""

    memory_mb = 1_000_000_000

    def room(self, namespace: str, node_pool: str) -> Room:  # noqa: ARG002
        """More cores than anybody asks for."""
        much, mb = 1_000_000_000, self.memory_mb
        one = Machine(name="all", cores=much, memory_mb=mb, cores_free=much, memory_free_mb=mb)
        return Room(slots=much, machines=(one,), queues=True)


class Cramped(Roomy):
    """No job fits it."""

    memory_mb = 1


def claims(db: Database, scheduler: Roomy, each: int) -> list[float]:
    """Milliseconds of each pass, from its start until the claims are stored, ``each`` of them."""
    pace = Pace(reserve=Reserve(least=NEXT, most=NEXT), at_once=NEXT)
    feeder = Feeder(db, {SCHEDULER: scheduler}, prefix="bench-", pace=pace)
    stored: list[float] = []

    def note(point: Point) -> None:
        if point is Point.CLAIM_COMMITTED:
            stored.append(time.perf_counter())

    took = []
    with points.install(note):
        for _ in range(UNDER_WAY // NEXT + PASSES):
            start = time.perf_counter()
            count = feeder.step()
            assert count == each, count
            took.append((stored[-1] - start) * 1e3)
    feeder.close()
    return took[UNDER_WAY // NEXT :]


class Reader:
    """One connection that stays open; the secret changes with who asks."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=60)

    def get(self, path: str, user: int) -> float:
        """Milliseconds from the request to the whole answer."""
        headers = {"Authorization": f"Bearer {filled.secret(user)}"}
        start = time.perf_counter()
        self._http.request("GET", path, headers=headers)
        answer = self._http.getresponse()
        text = answer.read()
        took = (time.perf_counter() - start) * 1e3
        assert answer.status == 200, text
        return took


def reads(to: Service, sample: list[filled.Stored]) -> dict[str, float]:
    """The slowest hundredth of each kind of request, in ms; kinds come in turns."""
    reader = Reader(to.address)
    kinds = _kinds(sample)
    took: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(READS):
        for name, make in kinds.items():
            if name.startswith("read") or number % (READS // PAGES) == 0:
                took[name].append(reader.get(*make()))
    return {name: percentile(times, 99) for name, times in took.items()}


def _kinds(sample: list[filled.Stored]) -> dict[str, Callable[[], tuple[str, int]]]:
    """By name: something that makes a path, and says who asks for it."""

    def page(by: int, **query: str) -> tuple[str, int]:
        if random.random() < 0.5:  # the newest, or from anywhere
            query["cursor"] = str(random.choice(sample).id)
        return f"/v1/jobs?{urlencode(query | {'limit': '100'})}", by

    def one() -> tuple[str, int]:
        job = random.choice(sample)
        return f"/v1/jobs/{job.id}", job.user

    def user() -> int:
        return random.randrange(filled.USERS)

    return {
        "read by id, p99 (ms)": one,
        "page, all states, p99 (ms)": lambda: page(filled.ADMIN),
        "page, one's own, p99 (ms)": lambda: page(user()),
        "page, by state, p99 (ms)": lambda: page(filled.ADMIN, state="received"),
        "page, by user, p99 (ms)": lambda: page(filled.ADMIN, user=filled.user_name(user())),
        "page, by set, p99 (ms)": lambda: page(filled.ADMIN, set=filled.set_name(user())),
    }


def percentile(values: list[float], hundredth: int) -> float:
    """The value that so many hundredths do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[hundredth - 1]


def poured(to: Service, act: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``act`` finds while jobs are taken in, and how many of them in a second."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with child([HERE / "pour.py", to.address], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{filled.secret(0)}\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == "pouring"
        found = act()
        process.terminate()
        return found | {"meanwhile taken in (jobs/s)": float(process.stdout.readline())}


def peak_mb(pid: int) -> float:
    """The most memory a process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(kib) * 1024 / 1e6


def measure(url: str, jobs: int) -> dict[str, float]:
    """Everything, at one fill."""
    db = Database(url)
    db.upgrade()
    start = time.perf_counter()
    filled.put_back(db, SCHEDULER)
    group = filled.fill(db, jobs)
    print(f"{jobs:,} jobs wait after {time.perf_counter() - start:.0f} s", flush=True)
    filled.use_connector(db, group, SCHEDULER)
    passes = claims(db, Roomy(SCHEDULER), NEXT)
    in_vain = claims(db, Cramped(SCHEDULER), 0)
    filled.use_connector(db, group, "local")
    sample = filled.sample(db, group, 1000)
    db.close()
    figures = {
        "claim, median (ms)": statistics.median(passes),
        "claim, worst (ms)": max(passes),
        "nothing fits, median (ms)": statistics.median(in_vain),
    }
    # The claims stay: to the service the group runs all it may, so its feeder looks in vain.
    settings = {
        "NOMAD_BRIDGE_DATABASE_URL": url,
        "NOMAD_BRIDGE_LIMITS_RUNNING_PER_GROUP": str(UNDER_WAY),
    }
    with (
        tempfile.TemporaryDirectory() as home,
        service(Path(home) / "service", settings=settings) as running,
    ):
        figures["ready (s)"] = running.ready_s
        figures |= poured(running, lambda: reads(running, sample))
        figures["memory (MB)"] = peak_mb(running.pid)
    return figures


def tell(deep: dict[str, float], shallow: dict[str, float], jobs: int) -> bool:
    """Print a table; whether every bound is kept."""
    print(f"{'':<28}{jobs:>12,} jobs{SHALLOW:>12,} jobs   ratio  at most")
    kept = True
    for name, value in deep.items():
        bound = BOUNDS.get(name)
        over = bound is not None and value > bound
        kept = kept and not over
        plain = shallow.get(name)
        beside = f"{'':>25}" if plain is None else f"{plain:>17,.1f}{value / plain:>8.2f}"
        most = "" if bound is None else f"{bound:>9,.0f}"
        print(f"{name:<28}{value:>17,.1f}{beside}{most}{'  MISSED' if over else ''}")
    return kept


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000, help="that wait")
    parser.add_argument("--dir", type=Path, help="where the databases go (a real disk)")
    parser.add_argument("--keep", type=Path, help="the full database: used again if it is there")
    parser.add_argument(
        "--postgresql", help="URL of an empty database, or of one filled before, instead"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        if asked.postgresql:
            return int(not tell(measure(asked.postgresql, asked.jobs), {}, asked.jobs))
        shallow = measure(f"sqlite:///{Path(folder) / 'shallow.db'}", SHALLOW)
        file = (asked.keep or Path(folder) / "deep.db").absolute()
        return int(not tell(measure(f"sqlite:///{file}", asked.jobs), shallow, asked.jobs))


if __name__ == "__main__":
    sys.exit(main())
