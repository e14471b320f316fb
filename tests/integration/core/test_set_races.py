"""Sets on PostgreSQL, while somebody else changes one of their jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from sqlalchemy import text, update

from bridge.core import sets as core_sets
from bridge.db.engine import Connection, Database
from bridge.db.tables import jobs
from bridge.models.job import Job, JobState
from tests.integration.core.conftest import House
from tests.support.poll import eventually

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """SQLite has one writer: there nobody changes anything between."""
    return postgres_url


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_sets, "_CHUNK", 3)


@pytest.fixture
def scan(house: House) -> list[Job]:
    return [house.submit(set="scan") for _ in range(10)]


@contextmanager
def claimed_meanwhile(house: House, url: str, job: Job) -> Iterator[None]:
    """What is done within waits for somebody who claims ``job``."""
    other = Database(url)
    held: list[BaseException] = []

    def claim(conn: Connection) -> None:
        conn.execute(
            update(jobs).where(jobs.c.id == job.id.bytes).values(state=JobState.SUBMITTED.value)
        )
        ready.append(True)
        eventually(lambda: waits_for_a_lock(house))

    def run() -> None:
        try:
            other.write(claim)
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            held.append(error)

    ready: list[bool] = []
    thread = Thread(target=run)
    thread.start()
    eventually(lambda: bool(ready))
    try:
        yield
    finally:
        thread.join(20)
        other.close()
    assert not thread.is_alive() and not held, held


def waits_for_a_lock(house: House) -> bool:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    return bool(house.db.look_up(lambda conn: conn.execute(query).scalar_one()))


@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_job_that_is_claimed_meanwhile_ends_no_verb(
    house: House, scan: list[Job], database_url: str, place: int
) -> None:
    with claimed_meanwhile(house, database_url, scan[place]):
        assert house.sets.hold(house.ada, "scan") == 9
    others = [house.job(job) for job in scan if job is not scan[place]]
    assert all(job.hold for job in others)


def test_a_cancel_reaches_it_all_the_same(house: House, scan: list[Job], database_url: str) -> None:
    with claimed_meanwhile(house, database_url, scan[4]):
        assert house.sets.cancel(house.ada, "scan") == 10
    assert house.sets.get(house.ada, "scan").jobs == {
        JobState.CANCELED: 9,
        JobState.SUBMITTED: 1,
    }
    assert house.job(scan[4]).cancel_requested_at is not None
