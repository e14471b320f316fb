"""A process that works the queue of a database, as one of several; a folder is its scheduler.

Arguments: database URL, folder, lease in seconds, and optionally a point at which it
pauses itself (SIGSTOP), once, as soon as the file ``pause`` is in the folder.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from bridge import log, points, process
from bridge.connectors.base import Health
from bridge.core.feeder import Feeder, Pace
from bridge.core.leader import Fenced, Leader
from bridge.core.reconcile import Reconciler
from bridge.core.verdict import Policy
from bridge.daemon import Loop
from bridge.db.engine import Database
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from bridge.points import Point


class FolderScheduler:
    """An attempt is a file, made once; it ends at once."""

    name = "local"

    def __init__(self, home: Path) -> None:
        self._home = home

    def submit(self, spec: AttemptSpec) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._file(spec.handle), os.O_CREAT | os.O_EXCL))

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        ended = Observation(state=Observed.ENDED, exit_code=0)
        gone = Observation(state=Observed.GONE)
        return {one: ended if self._file(one).exists() else gone for one in handles}

    def cancel(self, handle: Handle) -> None:
        """Nothing here runs."""

    def forget(self, handle: Handle) -> None:
        """The file stays, for the test to count."""

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        return {}

    def check(self) -> Health:
        return Health()

    def _file(self, handle: Handle) -> Path:
        return self._home / handle.native_id


def pausing_at(wanted: str, home: Path) -> points.Hook:
    """What makes this process pause itself at a point, if it is asked to."""

    def hook(point: Point) -> None:
        if point.value != wanted:
            return
        try:
            (home / "pause").rename(home / "paused")
        except FileNotFoundError:  # not asked, or another thread was first
            return
        os.kill(os.getpid(), signal.SIGSTOP)

    return hook


def main(url: str, home: Path, lease_s: float, point: str = "") -> None:
    log.setup("info")
    db = Database(url)
    leader = Leader(db, holder=process.name_of_this(), lease_s=lease_s, has_ended=process.has_ended)
    fenced = Fenced(db, leader)
    connectors = {"local": FolderScheduler(home)}
    pace = Pace(threads=2, claim_ttl_s=lease_s)
    feeder = Feeder(fenced, connectors, prefix="bridge-t-", pace=pace)
    reconciler = Reconciler(fenced, connectors, policy=Policy())
    for name, act in (("feeder", feeder.step), ("reconciler", reconciler.step)):
        Loop(name, leader.while_leading(act), interval=0.05).start()
    if not leader.step():
        print("stand-by", file=sys.stderr, flush=True)
    Loop("leader", leader.step, interval=lease_s / 4, longest_back_off=lease_s / 2).start()
    with points.install(pausing_at(point, home)):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])
