"""A process that is killed while it writes: what it acknowledged is there, whole."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from bridge import process
from bridge.db import jobs
from bridge.db.engine import Database
from tests.integration.db.conftest import Lab, waiting

# Four threads write; each prints the ids of a call when it has returned.
PROGRAM = """
import sys, threading, time, uuid
from bridge.db import intake
from bridge.db.engine import Database
from bridge.models.job import NewJob

db = Database(sys.argv[1])
group, user = (uuid.UUID(word) for word in sys.argv[2:4])

def work():
    while True:
        new = [NewJob(bucket_id=uuid.uuid4(), image="a:1") for _ in range(20)]
        ids = db.write(lambda conn: intake.insert_many(
            conn, group_id=group, user_id=user, jobs=new, now=time.time()))
        sys.stdout.write(" ".join(map(str, ids)) + "\\n")
        sys.stdout.flush()

for _ in range(4):
    threading.Thread(target=work).start()
"""


def test_kill_9(lab: Lab, database_url: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, database_url, str(lab.group.id), str(lab.ada.id)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=process.clean_environment(),
    )
    assert writer.stdout is not None
    acknowledged = [line.split() for _, line in zip(range(40), writer.stdout, strict=False)]
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().splitlines(keepends=True)
    writer.wait(10)
    writer.stdout.close()
    acknowledged += [line.split() for line in rest if line.endswith("\n")]
    assert len(acknowledged) >= 40

    wanted = {UUID(one) for line in acknowledged for one in line}
    lab.db.close()
    db = Database(database_url)
    db.upgrade()
    found = db.read(lambda conn: jobs.get_many(conn, wanted))
    assert {job.id for job in found} == wanted
    total = len(db.read(lambda conn: waiting(conn, lab.group.id)))
    assert total % 20 == 0  # an array is stored whole or not at all
    db.close()
