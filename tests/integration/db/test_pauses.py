"""PostgreSQL: a process that is paused within a transaction holds nobody up for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from threading import Event, Thread

import pytest
from sqlalchemy import ColumnElement, Double, literal_column, select

from bridge.db import identity, intake, jobs, leases, postgresql
from bridge.db.engine import Connection, Database
from bridge.db.tables import leases as table
from bridge.errors import Unavailable
from bridge.models.job import JobState
from tests.integration.db.conftest import NOW, Lab, new_job

_CLOCK: ColumnElement[float] = literal_column("extract(epoch FROM clock_timestamp())", Double())

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """SQLite has one writer: nobody can hold a single row."""
    return postgres_url


@pytest.fixture(name="other")
def _other(database_url: str, db: Database) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def test_a_job_that_somebody_holds_is_not_waited_for(lab: Lab, other: Database) -> None:
    ids = [lab.add_job() for _ in range(3)]

    def hold(conn: Connection) -> list[object]:
        jobs.lock(conn, ids[1])
        return [job.id for job in other.write(lambda conn: jobs.take(conn, ids))]

    assert lab.db.write(hold) == [ids[0], ids[2]]
    assert [job.id for job in other.write(lambda conn: jobs.take(conn, ids))] == [ids[1]]


def test_a_locked_group_takes_jobs(lab: Lab, other: Database) -> None:
    def hold(conn: Connection) -> object:
        identity.lock_group(conn, lab.group.id)
        added = partial(
            intake.insert_many,
            group_id=lab.group.id,
            user_id=lab.ada.id,
            jobs=[new_job()],
            now=NOW,
        )
        return other.write(added)

    assert lab.db.write(hold)


def test_what_a_paused_write_locks_is_free_soon(
    lab: Lab, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = lab.add_job()
    locked, resume = Event(), Event()
    lost: list[Unavailable] = []

    def pause() -> None:
        def write(conn: Connection) -> None:
            jobs.touch(conn, job_id, state={JobState.RECEIVED}, hold=True)
            locked.set()
            assert resume.wait(60)
            jobs.touch(conn, job_id, state={JobState.RECEIVED}, priority=7)

        try:
            other.write(write)
        except Unavailable as error:
            lost.append(error)

    thread = Thread(target=pause)
    with monkeypatch.context() as patched:
        patched.setattr(postgresql, "WRITING_IDLE_TIMEOUT_MS", 1000)
        thread.start()
        assert locked.wait(30)
    lab.db.write(lambda conn: jobs.touch(conn, job_id, state={JobState.RECEIVED}, priority=3))
    resume.set()  # only now
    thread.join(30)
    assert len(lost) == 1
    job = lab.db.read(lambda conn: jobs.get(conn, job_id))
    assert job is not None and (job.hold, job.priority) == (False, 3)


def test_a_lease_is_renewed_for_its_whole_length_however_long_that_waited(
    lab: Lab, other: Database
) -> None:
    held = lab.db.write(lambda conn: leases.take(conn, "loops", holder="a", lasts_s=60.0))
    assert held is not None
    reading = Event()
    released: list[float] = []

    def read_the_row(conn: Connection) -> None:
        conn.execute(select(table.c.fence).with_for_update(read=True))
        reading.set()
        time.sleep(1.2)
        released.append(conn.execute(select(_CLOCK)).scalar_one())

    reader = Thread(target=lambda: other.write(read_the_row))
    reader.start()
    assert reading.wait(30)
    assert lab.db.write(partial(leases.renew, held=held))
    reader.join(30)
    end = lab.db.read(lambda conn: conn.execute(select(table.c.expires_at)).scalar_one())
    assert end >= released[0] + 60.0
