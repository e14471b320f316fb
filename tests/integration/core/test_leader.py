"""Several processes on one database: one works the queue, and what an old one does is void."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bridge import process
from bridge.core.leader import Fenced, Leader
from bridge.db import instance
from bridge.db.engine import Database
from bridge.errors import DatabaseReplaced, LeaseLost
from bridge.models.job import FINAL, Job, JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.support.poll import eventually

LEASE_S = 3.0
START_S = 60.0  # for a process to come up beside many others


class TestInOneProcess:
    def leader(self, db: Database, holder: str, ended: str = "") -> Leader:
        return Leader(db, holder=holder, lease_s=60, has_ended=lambda one: one == ended)

    def test_the_first_leads_and_the_second_follows(self, db: Database) -> None:
        one, two = self.leader(db, "one"), self.leader(db, "two")
        assert (one.step(), two.step()) == (True, False)
        assert (one.step(), one.leads, two.leads) == (False, True, False)

    def test_one_that_stops_hands_over_at_once(self, db: Database) -> None:
        one, two = self.leader(db, "one"), self.leader(db, "two")
        one.step()
        one.release()
        assert (one.leads, two.step()) == (False, True)

    def test_one_that_is_known_to_have_ended_is_not_waited_for(self, db: Database) -> None:
        self.leader(db, "one").step()
        assert self.leader(db, "two", ended="one").step()

    def test_a_follower_writes_nothing(self, db: Database) -> None:
        written: list[str] = []
        leader = self.leader(db, "one")
        fenced = Fenced(db, leader)
        with pytest.raises(LeaseLost):
            fenced.write(lambda _: written.append("before"))
        leader.step()
        fenced.write(lambda _: written.append("leading"))
        assert self.leader(db, "two", ended="one").step()
        with pytest.raises(LeaseLost):
            fenced.write(lambda _: written.append("after"))
        assert (written, leader.leads) == (["leading"], False)

    def test_a_pass_under_an_old_lease_does_not_go_on_under_a_new_one(self, db: Database) -> None:
        one, two = self.leader(db, "one"), self.leader(db, "two", ended="one")
        fenced = Fenced(db, one)
        written: list[str] = []

        def act() -> None:
            assert two.step()
            two.release()
            assert one.step() is False  # finds that it lost the lease
            assert one.step() is False  # free again, but this pass is under way
            fenced.write(lambda _: written.append("act"))

        one.step()
        one.while_leading(act)()
        assert written == []
        assert one.step()

    @pytest.mark.parametrize("had_lead", [True, False])
    def test_another_epoch_is_not_worked_by_who_knew_the_old_one(
        self, db: Database, had_lead: bool
    ) -> None:
        this = db.write(instance.get_or_create)
        leader = Leader(
            db, holder="one", lease_s=60, is_same=lambda conn: instance.is_same(conn, this)
        )
        if had_lead:
            assert leader.step()
            assert not leader.step()
        db.write(lambda conn: instance.start_epoch(conn, above=1, now=2.0))
        written: list[int] = []
        for _ in range(2):
            with pytest.raises(DatabaseReplaced, match="backup"):
                leader.step()
            with pytest.raises(LeaseLost):
                Fenced(db, leader).write(lambda _: written.append(1))
        assert (leader.leads, written) == (False, [])
        assert self.leader(db, "two").step()

    def test_nor_is_one_that_comes_between_its_look_and_its_lease(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        this = db.write(instance.get_or_create)
        leader = Leader(
            db, holder="one", lease_s=60, is_same=lambda conn: instance.is_same(conn, this)
        )
        read = db.read

        def then_restored(fn: Any) -> Any:
            found = read(fn)
            db.write(lambda conn: instance.start_epoch(conn, above=1, now=2.0))
            return found

        monkeypatch.setattr(db, "read", then_restored)
        with pytest.raises(DatabaseReplaced):
            leader.step()
        assert not leader.leads

    def test_a_pass_is_for_the_leader_only(self, db: Database) -> None:
        acts: list[int] = []
        leader = self.leader(db, "one")
        act = leader.while_leading(lambda: acts.append(1))
        act()
        assert acts == []
        leader.step()
        act()
        assert acts == [1]


@dataclass
class Worker:
    """A process of tests/support/queue_process.py."""

    url: str
    home: Path
    log: Path
    pause_at: str = ""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.support.queue_process"),
                    *(self.url, str(self.home), str(LEASE_S), self.pause_at),
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

    def has_lead(self) -> bool:
        return self.said("action=lead ")

    def follows(self) -> bool:
        return self.said("stand-by")

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


class Workers:
    """A bridge whose queue one or two processes work."""

    def __init__(self, house: House, url: str, home: Path) -> None:
        self.house = house
        self._url = url
        self.home = home
        self._started: list[Worker] = []

    def start(self, pause_at: str = "") -> Worker:
        worker = Worker(self._url, self.home, self.home / f"log-{len(self._started)}", pause_at)
        self._started.append(worker)
        return worker

    def end(self) -> None:
        for worker in self._started:
            worker.end()

    def submit(self, count: int = 20) -> list[Job]:
        return [self.house.submit() for _ in range(count)]

    def wait_for(self, jobs: list[Job]) -> None:
        """Until all are completed, each by one run of one attempt."""
        for job in jobs:
            eventually(lambda: self.house.job(job).state in FINAL, timeout=20)  # noqa: B023
            done = self.house.job(job)
            assert (done.state, done.attempt) == (JobState.COMPLETED, 1)
            runs = [file.name for file in self.home.glob(f"bridge-t-{job.id.hex}-*")]
            assert runs == [f"bridge-t-{job.id.hex}-1"]


@pytest.fixture
def workers(house: House, database_url: str, tmp_path: Path) -> Iterator[Workers]:
    house.clock.now = time.time()
    home = tmp_path / "scheduler"
    home.mkdir()
    made = Workers(house, database_url, home)
    yield made
    made.end()


def test_the_leader_is_killed(workers: Workers) -> None:
    first = workers.start()
    eventually(first.has_lead, timeout=START_S)
    second = workers.start()
    eventually(second.follows, timeout=START_S)
    workers.wait_for(workers.submit())
    assert not second.has_lead()
    jobs = workers.submit()
    first.end()
    killed = time.monotonic()
    eventually(second.has_lead, timeout=START_S)
    assert time.monotonic() - killed <= 2 * LEASE_S
    workers.wait_for(jobs)


# A process that is paused while it writes holds the lock of a SQLite file.
@pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.needs("postgres"))], indirect=True
)
@pytest.mark.parametrize(
    "point",
    [
        Point.CLAIM_CHOSEN,
        Point.CLAIM_BEFORE_COMMIT,
        Point.HAND_OVER_BEFORE_CALL,
        Point.HAND_OVER_CALLED,
        Point.RECORD_BEFORE_COMMIT,
        Point.OBSERVE_POLLED,
        Point.OBSERVE_BEFORE_COMMIT,
    ],
)
def test_the_leader_is_paused(workers: Workers, point: Point) -> None:
    first = workers.start(pause_at=point.value)
    eventually(first.has_lead, timeout=START_S)
    second = workers.start()
    eventually(second.follows, timeout=START_S)
    workers.wait_for(workers.submit(4))
    (workers.home / "pause").touch()
    jobs = workers.submit()
    eventually((workers.home / "paused").exists)
    paused = time.monotonic()
    eventually(second.has_lead, timeout=START_S)
    assert time.monotonic() - paused <= 2 * LEASE_S
    workers.wait_for(jobs)
    first.process.send_signal(signal.SIGCONT)
    eventually(lambda: first.said("action=follow"))
    workers.wait_for(workers.submit())
    assert second.process.poll() is None and first.process.poll() is None
