"""Jobs whose runs are counted, on a service that is killed under them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tarfile
import urllib.error
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.client.storage import Storage
from bridge.errors import Unavailable, Unreachable
from bridge.points import Point
from tests.support.crashing_service import CrashingService
from tests.support.poll import eventually

FINAL = ("completed", "failed", "canceled")
CORES = 4  # of the machine
# Recovery shall be fast; what has ended goes from the scheduler at the next start.
QUEUE: Mapping[str, object] = {
    "claim_ttl_s": 1,
    "retry_delay_s": 0,
    "forget_after_s": 0,
}


class Work(NamedTuple):
    """A job to hand in, and the file its runs are counted in."""

    bucket: str
    counter: Path

    @property
    def runs(self) -> int:
        """How often its program was started."""
        return self.counter.read_text().count("\n") if self.counter.exists() else 0


class Lab:
    """One service with its storage; ``folder`` takes the counters.

    Jobs know it as ``runs``, if it has another name where they run.
    """

    def __init__(self, service: CrashingService, folder: Path, runs: str = "") -> None:
        self.service = service
        self._folder = folder
        self._runs = runs or str(folder)
        known = service.credentials
        self._storage = Storage(*(known[f"BRIDGE_S3_{n}"] for n in ("SERVER", "ACCESS", "SECRET")))

    def work(self, script: str = "true") -> Work:
        """A bucket with a job that counts its runs, as ``$RUNS``, and then does ``script``."""
        bucket = str(uuid.uuid4())
        counter = self._folder / bucket
        lines = f"RUNS='{self._runs}/{bucket}'\necho run >>\"$RUNS\"\n{script}\n".encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo("run.sh")
            member.size = len(lines)
            tar.addfile(member, io.BytesIO(lines))
        archive.seek(0)
        self._storage.make_bucket(bucket)
        self._storage.put(bucket, "run.tgz", archive)
        return Work(bucket, counter)

    def works(self, count: int) -> list[Work]:
        """Some jobs that do nothing but count."""
        return [self.work() for _ in range(count)]

    def storage_answers(self) -> bool:
        """Whether the storage can be used now."""
        try:
            self._storage.make_bucket("probe")
        except (Unreachable, Unavailable):
            return False
        return True

    def kill_storage(self) -> None:
        """The embedded S3 server; the service will start another."""
        record = (self.service.home / "s3" / "server.pid").read_text()
        os.kill(json.loads(record)["pid"], signal.SIGKILL)

    def result(self, work: Work) -> bool:
        """Whether the job's output is in its bucket."""
        return self._storage.head(work.bucket, "joblog.txt") is not None

    def submit(self, *works: Work, **fields: object) -> list[str]:
        """Hand jobs in by one request; their ids, in order."""
        answer = self.service.post("/v1/jobs", [_submission(work) | fields for work in works])
        ids = [one.get("id") for one in answer.body]
        assert all(ids), answer
        return ids

    def submit_if_alive(self, *works: Work, **fields: object) -> list[str] | None:
        """As ``submit``; None when the service died before it had answered."""
        try:
            return self.submit(*works, **fields)
        except (urllib.error.URLError, ConnectionError):
            return None

    def ask(self, job: str, verb: str, body: Mapping[str, object] | None = None) -> int | None:
        """Do something to a job; the status, or None when the service died over it."""
        try:
            return self.service.post(f"/v1/jobs/{job}/{verb}", body or {}).status
        except (urllib.error.URLError, ConnectionError):
            return None

    def job(self, job: str) -> dict[str, Any]:
        """What the service says of a job."""
        found: dict[str, Any] = self.service.get(f"/v1/jobs/{job}").body
        return found

    def end(self, job: str, timeout: float = 90) -> dict[str, Any]:
        """The job, once it has ended."""
        return self.service.wait_for(job, FINAL, timeout=timeout)

    def await_run(self, work: Work) -> None:
        """Wait until the job's program has started."""
        eventually(lambda: work.runs, timeout=90)

    def crash_at(self, point: Point, time: int = 1) -> None:
        """See ``CrashingService``."""
        self.service.crash_at(point, time)

    def restart(self) -> None:
        """Wait for the crash that was asked for, then start the service again."""
        self.service.await_crash()
        self.service.start()

    @contextlib.contextmanager
    def refusing(self, point: Point) -> Iterator[Work]:
        """A job that the scheduler does not take; the service has died at ``point`` over it."""
        work = self.work()
        self.crash_at(Point.CLAIM_COMMITTED)
        self.submit_if_alive(work, cores=CORES)
        self.service.await_crash()
        # The machine was larger when the job was chosen.
        self.service.configure(local={"cores": 1})
        self.crash_at(point)
        self.service.start_to_crash()
        yield work
        self.service.stop()
        self.service.configure(local={"cores": CORES})
        self.service.start()

    def kept(self, job: str) -> Sequence[str]:
        """The attempts of a job of which the scheduler still knows, by their native ids."""
        folder = self.service.home / "local" / "attempts"
        return sorted(path.name for path in folder.glob(f"*-{uuid.UUID(job).hex}-*"))

    def lose(self, job: str) -> None:
        """The node of the job's only attempt loses what it runs."""
        (attempt,) = self.kept(job)
        steps = self.service.home / "local" / "attempts" / attempt / "steps.jsonl"
        first = steps.read_text().splitlines()[0]
        os.kill(json.loads(first)["pid"], signal.SIGKILL)


def _submission(work: Work) -> dict[str, object]:
    return {"bucket_id": work.bucket, "image": "busybox:1", "memory_mb": 16}


def new_lab(home: Path, queue: Mapping[str, object] = QUEUE) -> Lab:
    """A service below ``home``, running; ``close`` it."""
    service = CrashingService(home / "home")
    service.init("--runtime", "process")
    text = service.config.read_text()
    assert "\nlocal:\n" in text
    settings = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in queue.items())
    service.config.write_text(
        text.replace("\nlocal:\n", f"\nlocal:\n  cores: {CORES}\n") + f"queue:\n{settings}"
    )
    counters = home / "runs"
    counters.mkdir()
    try:
        service.start()
    except BaseException:
        service.close()
        raise
    return Lab(service, counters)
