"""The one writer of SQLite: many changes in a commit, each on its own."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from bridge.db import sqlite
from bridge.db.engine import Connection, Database
from bridge.db.writer import MAX_BATCH
from bridge.errors import Unavailable
from tests.support.poll import eventually


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/bridge.db")
    database.write(lambda conn: conn.execute(text("CREATE TABLE t (n INTEGER UNIQUE)")))
    yield database
    database.close()


def add(number: int) -> Callable[[Connection], int]:
    def write(conn: Connection) -> int:
        conn.execute(text("INSERT INTO t VALUES (:n)"), {"n": number})
        return number

    return write


def stored(db: Database) -> set[int]:
    return db.read(lambda conn: set(conn.execute(text("SELECT n FROM t")).scalars()))


def store(db: Database) -> sqlite.Sqlite:
    assert isinstance(db._store, sqlite.Sqlite)
    return db._store


class Held:
    """Holds the writer inside a change until enough others wait behind it."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.pool = ThreadPoolExecutor(2 * MAX_BATCH)
        self.go = threading.Event()
        begun = threading.Event()

        def hold(_: Connection) -> None:
            begun.set()
            assert self.go.wait(60)

        self.first = self.pool.submit(db.write, hold)
        assert begun.wait(10)

    def write(
        self, *changes: Callable[[Connection], Any], lasting: bool = True
    ) -> list[Future[Any]]:
        waiting = store(self.db)._writer._waiting
        futures = []
        for change in changes:  # one by one, so that their order is known
            size = len(waiting)
            futures.append(self.pool.submit(self.db.write, change, lasting=lasting))
            eventually(lambda size=size: len(waiting) > size, every=0.001)  # type: ignore[misc]
        return futures

    def release(self) -> None:
        self.go.set()
        self.first.result(10)
        self.pool.shutdown(wait=True)


@pytest.fixture
def held(db: Database) -> Iterator[Held]:
    held = Held(db)
    yield held
    held.release()


def commits(db: Database) -> list[int]:
    """One entry for each commit from now on."""
    seen: list[int] = []
    event.listen(store(db)._writing, "commit", lambda _: seen.append(1))
    return seen


def test_what_waits_shares_a_commit(db: Database, held: Held) -> None:
    seen = commits(db)
    futures = held.write(*(add(number) for number in range(10)))
    held.release()
    assert [future.result(10) for future in futures] == list(range(10))
    assert len(seen) == 2  # the one that was held, and all the others


def test_a_commit_is_not_endless(db: Database, held: Held) -> None:
    seen = commits(db)
    futures = held.write(*(add(number) for number in range(MAX_BATCH + 1)))
    held.release()
    assert {future.result(10) for future in futures} == stored(db)
    assert len(seen) == 3


@pytest.mark.parametrize("error", [KeyError, SystemExit, KeyboardInterrupt])
def test_a_failing_change_harms_no_other(
    db: Database, held: Held, error: type[BaseException]
) -> None:
    def fail(conn: Connection) -> None:
        add(100)(conn)
        raise error("mine")

    futures = held.write(add(1), fail, add(2), fail)
    held.release()
    assert [futures[0].result(10), futures[2].result(10)] == [1, 2]
    for future in (futures[1], futures[3]):
        assert isinstance(future.exception(10), error)
    assert stored(db) == {1, 2}
    assert db.write(add(3)) == 3


def test_a_failing_statement_harms_no_other(db: Database, held: Held) -> None:
    futures = held.write(add(1), add(1), add(2))
    held.release()
    assert type(futures[1].exception(10)).__name__ == "Conflict"
    assert stored(db) == {1, 2}


def test_a_change_too_large_for_the_disk_harms_no_other(db: Database, held: Held) -> None:
    def fill(conn: Connection) -> None:
        pages = conn.execute(text("PRAGMA page_count")).scalar_one()
        conn.execute(text(f"PRAGMA max_page_count = {pages}")).all()
        conn.execute(text("CREATE TABLE big AS SELECT zeroblob(1000000)"))

    futures = held.write(add(1), fill, add(2))
    held.release()
    assert [futures[0].result(10), futures[2].result(10)] == [1, 2]
    assert isinstance(futures[1].exception(10), Unavailable)
    assert stored(db) == {1, 2}


def test_a_commit_the_disk_refuses_is_told_to_all_in_it(
    db: Database, held: Held, tmp_path: Path
) -> None:
    futures = held.write(add(1), add(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "bridge.db-wal").stat().st_size, hard))
    try:
        held.release()
        errors = [future.exception(10) for future in futures]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [type(error) for error in errors] == [Unavailable] * 2
    assert errors[0] is not errors[1]  # each caller has its own to add a traceback to
    assert stored(db) == set()
    assert db.write(add(3)) == 3
    assert stored(db) == {3}


def test_close_finishes_what_waits(db: Database, held: Held) -> None:
    futures = held.write(*(add(number) for number in range(5)))
    closing = threading.Thread(target=db.close)
    closing.start()
    held.release()
    closing.join(10)
    assert [future.result(10) for future in futures] == list(range(5))
    with pytest.raises(Unavailable):
        db.write(add(9))
    assert stored(db) == set(range(5))  # a closed database opens again to read


def test_a_change_that_cannot_begin_in_time_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.2)
    db = Database(f"sqlite:///{tmp_path}/bridge.db")
    db.write(lambda conn: conn.execute(text("CREATE TABLE t (n INTEGER UNIQUE)")))
    held = Held(db)
    late = held.pool.submit(db.write, add(1))  # it may queue too shortly for us to see it
    assert isinstance(late.exception(10), Unavailable)
    assert not held.first.done()  # what has begun is waited for
    held.release()
    assert db.write(add(2)) == 2
    assert stored(db) == {2}
    db.close()


def test_a_write_inside_a_write_is_a_mistake(db: Database) -> None:
    with pytest.raises(RuntimeError, match="inside"):
        db.write(lambda conn: db.write(add(1)))


def test_a_caller_that_is_interrupted_holds_nobody_up(
    db: Database, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, waits = store(db)._writer._wait, []

    def interrupted(change: Any) -> None:
        waits.append(change)
        if len(waits) > 1:
            return wait(change)
        change.pause.wait()  # its turn to commit, and just then a signal
        raise KeyboardInterrupt

    monkeypatch.setattr(store(db)._writer, "_wait", interrupted)
    futures = held.write(add(1), add(2))
    held.release()
    assert isinstance(futures[0].exception(10), KeyboardInterrupt)
    assert futures[1].result(10) == 2
    assert stored(db) == {2}


class TestLasting:
    """NORMAL is 1, FULL is 2: https://sqlite.org/pragma.html#pragma_synchronous."""

    def waits(self, conn: Connection) -> bool:
        found = conn.exec_driver_sql("PRAGMA synchronous").scalar_one()
        assert found in (1, 2)
        return bool(found == 2)

    def test_what_need_not_last_does_not_wait_for_the_disk(self, db: Database) -> None:
        found = [db.write(self.waits, lasting=lasting) for lasting in (True, False, False, True)]
        assert found == [True, False, False, True]
        assert db.write(self.waits)

    def test_together_with_what_must_it_does(self, db: Database, held: Held) -> None:
        both = [*held.write(self.waits, lasting=False), *held.write(self.waits)]
        held.release()
        assert [one.result(10) for one in both] == [True, True]

    def test_it_is_there_for_others_at_once(self, db: Database) -> None:
        db.write(add(1), lasting=False)
        assert stored(db) == {1}
