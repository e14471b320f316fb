"""A process that works the queue of a database, as one of several; a folder is its scheduler.

    python -m tests.support.queue_process URL FOLDER LEASE_S FORGET_AFTER_S

It pauses itself (SIGSTOP), once, at the point of ``bridge/points.py`` that stands in the
file ``pause-PID`` in the folder.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from bridge import log, points, process
from bridge.core.feeder import Feeder, Pace
from bridge.core.leader import Fenced, Leader
from bridge.core.reconcile import Reconciler
from bridge.core.verdict import Policy
from bridge.daemon import Loop
from bridge.db.engine import Database
from bridge.points import Point
from tests.support.folder_scheduler import FolderScheduler

THREADS = 2  # that hand over
GRACE_S = 0.5  # then what a scheduler does not know, or has lost touch of, is given up


def pausing(file: Path) -> points.Hook:
    """What makes this process pause itself where the file says."""

    def hook(point: Point) -> None:
        try:
            if file.read_text() != point:
                return
            file.unlink()
        except FileNotFoundError:  # not asked, or another thread was first
            return
        # To this thread: sent to the process, it may get further before another one has
        # taken the signal.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    return hook


def main(url: str, home: Path, lease_s: float, forget_after_s: float) -> None:
    log.setup("info")
    db = Database(url)
    leader = Leader(db, holder=process.name_of_this(), lease_s=lease_s, has_ended=process.has_ended)
    fenced = Fenced(db, leader)
    connectors = {"local": FolderScheduler(home)}
    pace = Pace(threads=THREADS, claim_ttl_s=lease_s)
    feeder = Feeder(fenced, connectors, prefix="bridge-t-", pace=pace)
    policy = Policy(node_lost_after_s=GRACE_S, gone_grace_s=GRACE_S)
    reconciler = Reconciler(fenced, connectors, policy=policy, forget_after_s=forget_after_s)
    for name, act in (
        ("feeder", feeder.step),
        ("reconciler", reconciler.step),
        ("sweeper", reconciler.sweep),
        ("forgetter", reconciler.forget),
    ):
        Loop(name, leader.while_leading(act), interval=0.05).start()
    if not leader.step():
        print("stand-by", file=sys.stderr, flush=True)
    Loop("leader", leader.step, interval=lease_s / 4, longest_back_off=lease_s / 2).start()
    with points.install(pausing(home / f"pause-{os.getpid()}")):
        threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:]))
