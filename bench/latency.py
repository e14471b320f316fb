"""How long a trivial job takes, from the submission to ``completed`` as a client sees it.

On the process runtime with the embedded storage, one job after another. Beside it
stands what one start of rclone costs here, of which a job needs a few. Exit code 1
when the median is above a second.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from running import service

import bridge
from bridge import process

MOST_S = 1.0


def main() -> int:
    """Run and judge; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with service(folder / "home", storage=True):
            client = bridge.Client(credentials=folder / "home" / "credentials.env")
            jobs = [one_job(client, folder, number) for number in range(asked.jobs)]
    starts = [rclone_start() for _ in range(10)]
    job, start = statistics.median(jobs), statistics.median(starts)
    print(f"trivial job  median {job:.2f} s  slowest {max(jobs):.2f} s  ({len(jobs)} jobs)")
    print(f"rclone start median {start:.3f} s; a job takes as long as {job / start:.1f} of them")
    print(f"{'fine' if job <= MOST_S else 'TOO SLOW'} (at most {MOST_S} s)")
    return int(job > MOST_S)


def one_job(client: bridge.Client, parent: Path, number: int) -> float:
    """Seconds from the submission, the upload included, to the end."""
    folder = parent / f"job{number}"
    folder.mkdir()
    (folder / "in.txt").write_text("x")
    began = time.perf_counter()
    job = client.submit(folder, "any:1", "true")
    (ended,) = client.wait([job.id], timeout=60)
    took = time.perf_counter() - began
    if ended.state != "completed":
        raise SystemExit(f"a job {ended.state}: {ended.reason}")
    return took


def rclone_start() -> float:
    """Seconds that starting rclone takes when it does nothing."""
    program = process.which("rclone")
    assert program is not None
    began = time.perf_counter()
    subprocess.run([program, "version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
