"""Several processes that work the queue of one database, paused and killed by a test."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from bridge import process
from bridge.db.engine import Connection
from bridge.db.tables import attempts, jobs
from bridge.models.attempt import Attempt
from bridge.models.job import FINAL, Job, JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import attempts_of
from tests.support.folder_scheduler import Call, FolderScheduler
from tests.support.poll import eventually

START_S = 60.0  # for a process to come up beside many others
NEVER_S = 600.0


@dataclass
class Worker:
    """A process of tests/support/queue_process.py."""

    url: str
    home: Path
    log: Path
    lease_s: float
    forget_after_s: float
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.support.queue_process"),
                    *(self.url, str(self.home), str(self.lease_s), str(self.forget_after_s)),
                ],
                cwd=Path(__file__).parents[3],
                env=process.clean_environment(),
                stdout=log,
                stderr=log,
            )

    def said(self, words: str) -> bool:
        text = self.log.read_text()
        assert "Traceback" not in text, text
        return words in text

    def has_lead(self, fence: int) -> bool:
        """Whether it has led under the lease of this number, the first of all being 1."""
        return self.said(f"action=lead fence={fence}\n")

    def follows(self) -> bool:
        return self.said("stand-by")

    def gave_up(self) -> bool:
        """Whether the fence has kept it from something."""
        return self.said("action=give-up")

    def pause_at(self, point: Point) -> None:
        """Have it pause itself where it gets to this point next."""
        draft = self.home / "pause.draft"
        draft.write_text(point)
        draft.rename(self.home / f"pause-{self.process.pid}")

    def await_pause(self) -> None:
        eventually(self._is_paused)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def _is_paused(self) -> bool:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"


class Workers:
    """A bridge whose queue several processes work."""

    def __init__(
        self, house: House, url: str, home: Path, *, lease_s: float, forget_after_s: float
    ) -> None:
        self.house = house
        self.lease_s = lease_s
        self._url = url
        self._home = home
        self._forget_after_s = forget_after_s
        self._started: list[Worker] = []
        self.scheduler = FolderScheduler(home)

    def start(self) -> Worker:
        log = self._home / f"log-{len(self._started)}"
        worker = Worker(self._url, self._home, log, self.lease_s, self._forget_after_s)
        self._started.append(worker)
        return worker

    def end(self) -> None:
        for worker in self._started:
            worker.end()

    def submit(self, count: int = 20) -> list[Job]:
        return [self.house.submit() for _ in range(count)]

    def attempt(self, job: Job) -> Attempt:
        """The only one of a job."""
        (found,) = attempts_of(self.house, job)
        return found

    def wait_for(self, jobs: Collection[Job]) -> None:
        """Until all are completed, each by one run of one attempt."""
        for job in jobs:
            eventually(lambda: self.house.job(job).state in FINAL)  # noqa: B023
            done = self.house.job(job)
            assert (done.state, done.attempt) == (JobState.COMPLETED, 1)
            assert self.runs(job) == [f"bridge-t-{job.id.hex}-1"]

    def runs(self, job: Job) -> list[str]:
        """What was made of a job at the scheduler, every time that it was."""
        calls = self.scheduler.calls()
        return [one.native_id for one in calls if one.made and job.id.hex in one.native_id]

    def calls_of(self, worker: Worker) -> list[Call]:
        """What a process has asked of the scheduler so far."""
        return [one for one in self.scheduler.calls() if one.pid == worker.process.pid]

    def rows(self, of: Collection[Job]) -> list[dict[str, object]]:
        """All that is stored of jobs and their attempts."""
        ids = [job.id.bytes for job in of]

        def read(conn: Connection) -> list[dict[str, object]]:
            queries = (
                select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id),
                select(attempts).where(attempts.c.job_id.in_(ids)).order_by(attempts.c.id),
            )
            return [dict(row) for query in queries for row in conn.execute(query).mappings()]

        return self.house.db.read(read)


@contextlib.contextmanager
def working(
    house: House, url: str, home: Path, *, lease_s: float, forget_after_s: float = NEVER_S
) -> Iterator[Workers]:
    """No process yet; all that were started end with it."""
    house.clock.now = time.time()
    home.mkdir()
    made = Workers(house, url, home, lease_s=lease_s, forget_after_s=forget_after_s)
    try:
        yield made
    finally:
        made.end()
