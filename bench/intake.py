"""How fast jobs are taken in over HTTP, against the least that storing or answering costs.

- bulk: arrays of 1,000 to ``POST /v1/jobs``, against ``sqlite3.executemany`` of equal rows
  in commits of 1,000, into the same tables with the same indexes. They take turns, so both
  meet the same fill and the same weather on the machine.
- single: one job in each request, 8 connections of wrk, against a route that does nothing.

Exit code 1 when a ratio is below 0.4. More in README.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid4

from running import HERE, Service, child, service

from bridge.models.ids import new_id

ARRAY = 1000
LEAST = 0.4
# Held, so that nothing runs: this measures the door, not the queue.
JOB = {"image": "psi4:1.5", "name": "default", "cores": 1, "memory_mb": 4000, "hold": True}


class Raw:
    """The same rows by ``executemany``, into a copy of the service's tables."""

    def __init__(self, path: Path, model: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("ATTACH ? AS model", [str(model)])
        made = self.db.execute("SELECT sql FROM model.sqlite_master WHERE sql IS NOT NULL")
        for (sql,) in made.fetchall():
            self.db.execute(sql)
        for table in ("groups", "users"):
            self.db.execute(f"INSERT INTO {table} SELECT * FROM model.{table}")
        self.db.execute("DETACH model")
        self.db.execute("PRAGMA foreign_keys = ON")
        query = "SELECT group_id, id FROM users WHERE name = 'ada'"
        self.group, self.user = self.db.execute(query).fetchone()

    def rows(self, buckets: Sequence[UUID]) -> list[tuple[object, ...]]:
        """What the service stores for JOB."""
        ids = (self.group, self.user)
        told = (JOB["image"], JOB["name"], JOB["cores"], JOB["memory_mb"], 86400, 50, 1)
        rest = ("received", 0, time.time())
        return [(new_id().bytes, *ids, bucket.bytes, *told, *rest) for bucket in buckets]

    def insert(self, rows: list[tuple[object, ...]]) -> None:
        """One commit."""
        self.db.execute("BEGIN")
        self.db.executemany(
            "INSERT INTO jobs (id, group_id, user_id, bucket_id, image, name, cores, memory_mb,"
            " time_limit_s, priority, hold, state, attempt, created_at)"
            f" VALUES ({', '.join('?' * 14)})",
            rows,
        )
        self.db.execute("COMMIT")


def timed(act: Callable[[], object]) -> float:
    """How many seconds ``act`` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def bulk(to: Service, jobs: int, raw: Raw) -> float:
    """Both in turns up to ``jobs`` rows each; the ratio over all."""
    host, port = to.address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    headers = {"Authorization": f"Bearer {to.secret}", "Content-Type": "application/json"}

    def post() -> None:
        connection.request("POST", "/v1/jobs", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        answers.extend(item["status"] for item in json.loads(text))

    ours = plain = 0.0
    for number in range(1, jobs // ARRAY + 1):
        buckets = [uuid4() for _ in range(ARRAY)]
        body = json.dumps([JOB | {"bucket_id": str(bucket)} for bucket in buckets])
        answers: list[int] = []
        ours += timed(post)
        assert answers == [201] * ARRAY
        rows = raw.rows(buckets)
        plain += timed(lambda rows=rows: raw.insert(rows))  # type: ignore[misc]
        if number % 100 == 0 or number == jobs // ARRAY:
            done = number * ARRAY
            print(
                f"bulk    {done:>9,} jobs  service {done / ours:>7,.0f}/s"
                f"  raw {done / plain:>7,.0f}/s  ratio {plain / ours:.2f}",
                flush=True,
            )
    return plain / ours


def wrk(url: str, seconds: int, secret: str) -> tuple[float, float]:
    """Requests per second and the 99th percentile in ms, on 8 connections."""
    load = ["-t2", "-c8", f"-d{seconds}s", "-s", str(HERE / "submit.lua"), url]
    done = subprocess.run(["wrk", *load, "--", secret], check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    requests, duration_us, refused, p99_us = (float(word) for word in line.split()[1:])
    assert refused == 0, done.stdout
    return requests / duration_us * 1e6, p99_us / 1e3


def single(to: Service, seconds: int) -> float:
    """The ratio of single submits to a route that does nothing."""
    with child([HERE / "empty_route.py"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        empty = process.stdout.readline().strip()
        ours = plain = 0.0
        for _ in range(2):  # in turns
            rate, p99 = wrk(f"http://{to.address}/v1/jobs", seconds, to.secret)
            nothing, _ = wrk(f"http://{empty}/", seconds, to.secret)
            ours, plain = ours + rate, plain + nothing
            print(
                f"single  8 connections  service {rate:>7,.0f}/s (p99 {p99:.1f} ms)"
                f"  empty route {nothing:>7,.0f}/s  ratio {rate / nothing:.2f}",
                flush=True,
            )
        process.stdout.close()
    return ours / plain


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000, help="rows in the end of the bulk")
    parser.add_argument("--seconds", type=int, default=5, help="of each run of wrk")
    parser.add_argument("--dir", type=Path, help="where the databases go (a real disk)")
    asked = parser.parse_args()
    ratios = {}
    with (
        tempfile.TemporaryDirectory(dir=asked.dir) as folder,
        service(Path(folder) / "service") as running,
    ):
        if asked.jobs >= ARRAY:
            raw = Raw(Path(folder) / "raw.db", running.database)
            ratios["bulk"] = bulk(running, asked.jobs, raw)
            raw.db.close()
        if shutil.which("wrk"):
            ratios["single"] = single(running, asked.seconds)
        else:
            print("single  left out: wrk is not on the PATH")
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f} (at least {LEAST}) {'ok' if ratio >= LEAST else 'TOO SLOW'}")
    return int(any(ratio < LEAST for ratio in ratios.values()))


if __name__ == "__main__":
    sys.exit(main())
