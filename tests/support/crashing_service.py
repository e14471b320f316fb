"""A whole service that kills itself, with SIGKILL, at a point the test names.

    python -m tests.support.crashing_service CONFIG

serves as ``nomad-bridge serve`` does. When a file ``crash`` lies next to CONFIG
with "POINT N" in it, the service dies when it gets to that point for the N-th
time since; the file is gone by then, so that the next start survives. A file ``chunk``
there says how many jobs of a set are changed at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from bridge import daemon, points
from bridge.cli.host import loaded
from bridge.core import sets
from bridge.points import Point
from tests.support.service import RunningService


class CrashingService(RunningService):
    """A service that can be told where to die."""

    serve = (sys.executable, "-m", "tests.support.crashing_service")

    def crash_at(self, point: Point, time: int = 1) -> None:
        """Die at ``point`` when it is reached for the ``time``-th time from now on."""
        draft = self.home / "crash.draft"
        draft.write_text(f"{point} {time}")
        draft.rename(self.home / "crash")

    def restart_with_chunks(self, jobs: int | None) -> None:
        """Change so many jobs of a set at once; None: as many as usual."""
        file = self.home / "chunk"
        file.unlink(missing_ok=True)
        if jobs is not None:
            file.write_text(str(jobs))
        if self.process is not None:
            self.stop()
        self.start()

    def await_crash(self, timeout: float = 90) -> None:
        """Wait until it has killed itself. Fails when it does not, or ended otherwise."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive; waited for {self._planned()}") from None
        assert code == -signal.SIGKILL, (self.home / "serve.log").read_text()
        self.process = None

    def start_to_crash(self) -> None:
        """Start it, to die before or after it is ready."""
        self.spawn()
        self.await_crash()

    def _planned(self) -> str:
        file = self.home / "crash"
        return file.read_text() if file.exists() else "nothing"


class _Killer:
    """The hook: counts, and dies when it is time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reached: Counter[Point] = Counter()
        self._lock = threading.Lock()

    def __call__(self, point: Point) -> None:
        try:
            wanted, time = self._file.read_text().split()
        except FileNotFoundError:
            return
        if point != wanted:
            return
        with self._lock:
            self._reached[point] += 1
            if self._reached[point] == int(time):
                self._file.unlink()
                os.kill(os.getpid(), signal.SIGKILL)


def main(config: Path) -> None:
    if (chunk := config.parent / "chunk").exists():
        setattr(sets, "_CHUNK", int(chunk.read_text()))  # noqa: B010 (it is final elsewhere)
    with points.install(_Killer(config.parent / "crash")):
        daemon.run(loaded(config))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
