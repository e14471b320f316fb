"""Transactions: whole or not at all, durable when acknowledged; faults in our own words."""

from __future__ import annotations

import gc
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, insert, text, update

from bridge.db import identity, jobs, sqlite
from bridge.db.engine import Connection, Database
from bridge.db.tables import groups, users
from bridge.errors import BridgeError, ConfigError, Conflict, InvalidRequest, Unavailable
from bridge.models.job import JobState
from tests.integration.db.conftest import Lab, new_job
from tests.support.poll import free_port


def names(db: Database) -> list[str]:
    return [group.name for group in db.read(identity.list_groups)]


class Interrupted(BaseException):
    """Not an Exception, as KeyboardInterrupt."""


class TestWrite:
    @pytest.mark.parametrize("error", [KeyError("mine"), Conflict("no"), Interrupted()])
    def test_a_failing_change_leaves_nothing(self, lab: Lab, error: BaseException) -> None:
        def write(conn: Connection) -> None:
            conn.execute(update(users).values(admin=True))
            raise error

        with pytest.raises(type(error)) as caught:
            lab.db.write(write)
        assert caught.value is error
        ada = lab.db.read(lambda conn: identity.user_by_name(conn, lab.group.id, "ada"))
        assert ada == lab.ada

    def test_what_was_written_is_read(self, lab: Lab) -> None:
        for number in range(20):
            lab.add_group(f"g{number}")
            assert f"g{number}" in names(lab.db)

    def test_many_threads(self, lab: Lab) -> None:
        def add(number: int) -> bool:
            if number % 3:
                lab.add_group(f"g{number}")
                return True
            with pytest.raises(Conflict):
                lab.add_group("lab")
            return False

        with ThreadPoolExecutor(16) as pool:
            done = list(pool.map(add, range(60)))
        assert len(names(lab.db)) == 1 + done.count(True) == 41

    def test_racing_increments_are_all_counted(self, lab: Lab) -> None:
        def add(_: int) -> None:
            def write(conn: Connection) -> None:
                identity.lock_group(conn, lab.group.id)
                group = identity.group_by_id(conn, lab.group.id)
                assert group is not None
                count = str(int(group.generation or 0) + 1)
                identity.set_compute_secret(conn, group.id, None, count)

            lab.db.write(write)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(40)))
        [group] = lab.db.read(identity.list_groups)
        assert group.generation == "40"

    def test_broken_references_are_a_conflict(self, lab: Lab) -> None:
        with pytest.raises(Conflict):
            lab.db.write(
                lambda conn: conn.execute(
                    insert(users).values(
                        id=b"u" * 16,
                        group_id=b"nobody's group!!",
                        name="x",
                        admin=False,
                        secret_hash=b"h" * 32,
                        created_at=1.0,
                    )
                )
            )

    def test_errors_name_no_values(self, lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(BridgeError) as caught:
            lab.db.write(lambda conn: conn.execute(text("SELECT :a FROM nowhere"), {"a": "hush"}))
        said = f"{caught.value!r}{caught.value.hint}{caught.value.__cause__!r}{caplog.text}"
        assert "hush" not in said
        assert isinstance(caught.value, Unavailable)

    def test_a_missing_schema_has_a_remedy(self, database_url: str) -> None:
        db = Database(database_url)
        for call in (db.ping, lambda: db.read(identity.list_groups)):
            with pytest.raises(Unavailable) as caught:
                call()
            assert "upgrade" in caught.value.hint
        db.close()

    def test_ping(self, lab: Lab) -> None:
        lab.db.ping()


class TestLookUp:
    def test_sees_what_is_stored(self, lab: Lab) -> None:
        job_id = lab.add_job()
        for find in (
            lambda conn: identity.group_by_name(conn, "lab") == lab.group,
            lambda conn: identity.group_by_name(conn, "nobody") is None,
            lambda conn: len(identity.list_groups(conn)) == 1,
            lambda conn: jobs.get(conn, job_id) is not None,
        ):
            assert lab.db.look_up(find)

    def test_without_a_schema(self, database_url: str) -> None:
        db = Database(database_url)
        with pytest.raises(Unavailable) as caught:
            db.look_up(lambda conn: identity.group_by_name(conn, "lab"))
        assert "upgrade" in caught.value.hint
        db.close()


class TestRead:
    def test_is_one_view_while_others_write(self, lab: Lab) -> None:
        def read(conn: Connection) -> tuple[int, int]:
            before = len(identity.list_groups(conn))
            thread = threading.Thread(target=lab.add_group, args=["meanwhile"])
            thread.start()
            thread.join(10)
            assert not thread.is_alive(), "a reader holds up the writer"
            return before, len(identity.list_groups(conn))

        assert lab.db.read(read) == (1, 1)
        assert names(lab.db) == ["lab", "meanwhile"]

    def test_is_not_held_up_by_a_write(self, lab: Lab) -> None:
        def write(conn: Connection) -> list[str]:
            conn.execute(update(groups).values(name="renamed"))
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(names, lab.db).result(10)

        assert lab.db.write(write) == ["lab"]
        assert names(lab.db) == ["renamed"]

    def test_cannot_write(self, lab: Lab) -> None:
        with pytest.raises(Unavailable, match=r"(?i)read-?only"):
            lab.db.read(lambda conn: conn.execute(update(groups).values(name="renamed")))
        assert names(lab.db) == ["lab"]

    def test_errors_of_the_caller_pass(self, lab: Lab) -> None:
        with pytest.raises(ZeroDivisionError):
            lab.db.read(lambda conn: 1 // 0)


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///:memory:", "nosuch+driver://x"],
    )
    def test_unusable(self, url: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Database(url)
        assert "sqlite:////" in caught.value.hint

    def test_an_unreadable_url_does_not_show_its_password(self) -> None:
        with pytest.raises(ConfigError) as caught:
            Database("postgresql://me:hush@host:port/x")
        assert "hush" not in f"{caught.value}{caught.value.hint}"

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nowhere"):
            Database(f"sqlite:///{tmp_path}/nowhere/bridge.db")


class TestSqlite:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "bridge.db"

    @pytest.fixture
    def lab(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
        monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
        db = Database(f"sqlite:///{path}")
        db.upgrade()
        yield Lab(db)
        db.close()

    @pytest.mark.parametrize("call", ["read", "write"])
    def test_settings_of_every_connection(self, lab: Lab, call: str) -> None:
        def pragmas(conn: Connection) -> dict[str, Any]:
            ask = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return {name: conn.execute(text(f"PRAGMA {name}")).scalar_one() for name in ask}

        assert getattr(lab.db, call)(pragmas) == {
            "journal_mode": "wal",
            "synchronous": 2,  # FULL
            "foreign_keys": 1,
            "busy_timeout": 50,
        }

    def test_files_are_the_owners_alone(self, lab: Lab, path: Path) -> None:
        files = list(path.parent.glob("bridge.db*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    def test_locked_by_another_process(self, lab: Lab, path: Path) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked") as caught:
            lab.add_group("x")
        assert "Another process" in caught.value.hint
        assert names(lab.db) == ["lab"]
        other.execute("ROLLBACK")
        other.close()
        lab.add_group("x")

    def test_a_file_that_another_process_makes_is_waited_for(self, path: Path) -> None:
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.3, other.close)
        done.start()
        db = Database(f"sqlite:///{path}")
        db.upgrade()
        db.close()
        done.join()

    def test_full_disk(self, lab: Lab) -> None:
        pages = lab.db.read(lambda conn: conn.execute(text("PRAGMA page_count")).scalar_one())
        self.set_limit(lab.db, pages + 5)
        with pytest.raises(Unavailable, match="full") as caught:
            lab.insert(*(new_job() for _ in range(1000)))
        assert "disk" in caught.value.hint
        with pytest.raises(Unavailable, match="full"):  # though it answers
            lab.db.ping()
        self.set_limit(lab.db, 1_000_000)
        lab.db.ping()
        assert len(lab.insert(*(new_job() for _ in range(1000)))) == 1000

    def test_a_refusal_is_forgotten_when_nothing_is_changed(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.set_limit(lab.db, 1)
        with pytest.raises(Unavailable, match="full"):
            lab.insert(*(new_job() for _ in range(1000)))
        with pytest.raises(Unavailable, match="full"):
            lab.db.ping()
        later = time.monotonic() + 31
        monkeypatch.setattr("bridge.db.engine.time.monotonic", lambda: later)
        lab.db.ping()

    def set_limit(self, db: Database, pages: int) -> None:
        db.write(lambda conn: conn.execute(text(f"PRAGMA max_page_count = {pages}")).all())

    def test_not_a_database(self, path: Path) -> None:
        path.write_bytes(b"something else entirely" * 100)
        db = Database(f"sqlite:///{path}")
        with pytest.raises(Unavailable, match="not a database"):
            db.upgrade()
        db.close()

    def test_a_read_inside_a_read_sees_the_same(self, lab: Lab) -> None:
        def read(_: Connection) -> list[list[str]]:
            before = names(lab.db)
            lab.add_group("meanwhile")
            looked_up = lab.db.look_up(lambda c: [one.name for one in identity.list_groups(c)])
            return [before, names(lab.db), looked_up]

        assert lab.db.read(read) == [["lab"]] * 3
        assert names(lab.db) == ["lab", "meanwhile"]

    def test_readers_leave_nothing_open(self, lab: Lab, path: Path) -> None:
        """A view that stays open would keep the write-ahead log growing for ever."""

        def use_all(_: int) -> None:
            for call in (lab.db.read, lab.db.look_up):
                call(identity.list_groups)
                call(lambda conn: identity.group_by_name(conn, "lab"))
                with pytest.raises(ZeroDivisionError):
                    call(lambda conn: len(identity.list_groups(conn)) / 0)

        with ThreadPoolExecutor(20) as pool:
            list(pool.map(use_all, range(40)))
            lab.add_group("x")
            other = sqlite3.connect(path)
            [(busy, _, _)] = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            other.close()
        assert busy == 0

    def test_readers_end_with_their_threads(self, lab: Lab) -> None:
        assert isinstance(lab.db._store, sqlite.Sqlite)
        closed: list[object] = []
        event.listen(lab.db._store._reading, "close", lambda driver, _: closed.append(driver))
        gate = threading.Barrier(5)
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: (gate.wait(10), names(lab.db)), range(5)))
            assert closed == []
        gc.collect()
        assert len(closed) == 5

    def test_closed(self, lab: Lab) -> None:
        lab.db.close()
        lab.db.close()
        with pytest.raises(Unavailable, match="stopping"):
            lab.add_group("x")


@pytest.mark.needs("postgres")
class TestPostgres:
    @pytest.fixture
    def lab(self, postgres_url: str) -> Iterator[Lab]:
        db = Database(postgres_url)
        db.upgrade()
        yield Lab(db)
        db.close()

    def test_what_need_not_last_does_not_wait_for_the_disk(self, lab: Lab) -> None:
        def waits(conn: Connection) -> str:
            return str(conn.exec_driver_sql("SHOW synchronous_commit").scalar_one())

        found = [lab.db.write(waits, lasting=lasting) for lasting in (True, False, True)]
        assert found == ["on", "off", "on"]

    def test_what_its_url_says_counts(self, postgres_url: str) -> None:
        said = "options=-csearch_path%3Dmine&options=-cstatement_timeout%3D7000"
        db = Database(f"{postgres_url}&{said}&connect_timeout=3&application_name=other")

        def shown(conn: Connection) -> dict[str, str]:
            names = (
                *("search_path", "statement_timeout", "idle_in_transaction_session_timeout"),
                *("application_name", "client_encoding"),
            )
            found = {name: conn.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}
            driver = conn.connection.dbapi_connection
            assert driver is not None
            asked = driver.info.get_parameters()
            return found | {"connect_timeout": asked["connect_timeout"]}

        assert db.read(shown) == {
            "search_path": "mine",
            "statement_timeout": "7s",
            "idle_in_transaction_session_timeout": "1min",
            "application_name": "nomad-bridge",
            "client_encoding": "UTF8",
            "connect_timeout": "3",
        }
        db.close()

    def test_unreachable(self) -> None:
        db = Database(f"postgresql://me:hush@127.0.0.1:{free_port()}/x")
        for call in (db.ping, lambda: db.write(identity.list_groups)):
            with pytest.raises(Unavailable, match=r"(?i)connection") as caught:
                call()
            assert "PostgreSQL" in caught.value.hint
            assert "hush" not in str(caught.value)
        db.close()

    def test_a_cut_connection(self, lab: Lab) -> None:
        def cut(conn: Connection) -> None:
            conn.execute(update(groups).values(name="renamed"))
            mine = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
            lab.db.write(lambda c: c.execute(text(f"SELECT pg_terminate_backend({mine}, 5000)")))
            conn.execute(text("SELECT 1"))

        with pytest.raises(Unavailable):
            lab.db.write(cut)
        assert names(lab.db) == ["lab"]

    def test_a_connection_cut_before_the_commit_is_said_to_be_unsure(self, lab: Lab) -> None:
        def cut(conn: Connection) -> None:
            mine = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
            lab.db.write(lambda c: c.execute(text(f"SELECT pg_terminate_backend({mine}, 5000)")))

        with pytest.raises(Unavailable, match="may or may not"):
            lab.db.write(cut)

    def test_deadlocks_are_tried_again(self, lab: Lab) -> None:
        ids = [lab.add_job(), lab.add_job()]
        both_hold_one = threading.Barrier(2)
        tries: list[int] = []

        def hold_both(order: int) -> None:
            def write(conn: Connection) -> None:
                tries.append(order)
                for number, job_id in enumerate(ids[::order]):
                    jobs.touch(conn, job_id, state=set(JobState), reason=str(order))
                    if number == 0 and tries.count(order) == 1:
                        both_hold_one.wait(10)

            lab.db.write(write)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(hold_both, (1, -1)))
        assert len(tries) >= 3  # they may meet again

    def test_a_slow_statement_is_stopped(self, lab: Lab) -> None:
        def slow(conn: Connection) -> None:
            conn.execute(text("SET LOCAL statement_timeout = 50"))
            conn.execute(text("SELECT pg_sleep(30)"))

        with pytest.raises(Unavailable, match="statement timeout"):
            lab.db.write(slow)
        limit = lab.db.read(lambda c: c.execute(text("SHOW statement_timeout")).scalar_one())
        assert limit == "30s"

    def test_values_that_do_not_fit(self, lab: Lab) -> None:
        with pytest.raises(InvalidRequest):
            lab.insert(new_job(name="n\x00ul", bucket_id=uuid4()))
