"""Several processes on one database: one works the queue, and what an old one does is void."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.core.leader import Fenced, Leader
from bridge.db import instance
from bridge.db.engine import Database
from bridge.errors import DatabaseReplaced, LeaseLost
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.workers import START_S, Workers, working
from tests.support.poll import eventually
from tests.support.queue_process import THREADS

LEASE_S = 3.0
STALL_S = 20.0  # of the machine; the next longer time in the bridge is half a minute


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


@pytest.fixture
def workers(house: House, database_url: str, tmp_path: Path) -> Iterator[Workers]:
    with working(house, database_url, tmp_path / "scheduler", lease_s=LEASE_S) as made:
        yield made


def test_the_leader_is_killed(workers: Workers) -> None:
    first = workers.start()
    eventually(lambda: first.has_lead(1), timeout=START_S)
    second = workers.start()
    eventually(second.follows, timeout=START_S)
    workers.wait_for(workers.submit())
    assert not second.has_lead(2)
    jobs = workers.submit()
    first.end()
    killed = time.monotonic()
    eventually(lambda: second.has_lead(2), timeout=START_S)
    assert time.monotonic() - killed <= 2 * LEASE_S + STALL_S
    workers.wait_for(jobs)


# Where the next thing that the loop does is a write; within a transaction, the server has
# ended that.
FENCED = (Point.CLAIM_CHOSEN, Point.OBSERVE_POLLED)


# A process that is paused while it writes holds the lock of a SQLite file.
@pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.needs("postgres"))], indirect=True
)
@pytest.mark.parametrize(
    "point",
    [
        *FENCED,
        Point.CLAIM_BEFORE_COMMIT,
        Point.HAND_OVER_BEFORE_CALL,
        Point.HAND_OVER_CALLED,
        Point.RECORD_BEFORE_COMMIT,
        Point.RECORD_COMMITTED,
        Point.OBSERVE_BEFORE_COMMIT,
        Point.OBSERVE_COMMITTED,
    ],
)
def test_the_leader_is_paused(workers: Workers, point: Point) -> None:
    first = workers.start()
    eventually(lambda: first.has_lead(1), timeout=START_S)
    second = workers.start()
    eventually(second.follows, timeout=START_S)
    workers.wait_for(workers.submit(4))
    first.pause_at(point)
    jobs = workers.submit()
    first.await_pause()
    paused = time.monotonic()
    eventually(lambda: second.has_lead(2), timeout=START_S)
    assert time.monotonic() - paused <= 2 * LEASE_S + STALL_S
    workers.wait_for(jobs)
    stored, asked = workers.rows(jobs), len(workers.calls_of(first))
    first.resume()
    eventually(lambda: first.said("action=follow"), timeout=START_S)
    if point in FENCED:
        eventually(first.gave_up, timeout=START_S)
    workers.wait_for([*jobs, *workers.submit()])
    assert workers.rows(jobs) == stored
    # At most what each thread was asking already when it was paused.
    late = workers.calls_of(first)[asked:]
    assert len(late) <= THREADS and {one.verb for one in late} <= {"submit"}
    assert second.process.poll() is None and first.process.poll() is None
