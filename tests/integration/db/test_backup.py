"""Backup files: whole, made beside the running service, put back in one step."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import inspect, text

from bridge import backup, process
from bridge.db import backup as stored
from bridge.db import instance, jobs, leases, migrate
from bridge.db.engine import Database
from bridge.errors import ConfigError, Conflict
from tests.integration.db.conftest import Lab, new_job
from tests.support import postgres
from tests.support.needs import need


@pytest.fixture
def file(tmp_path: Path, database_url: str) -> Path:
    if database_url.startswith("postgres"):
        need("pg_dump")
    return tmp_path / "backup"


def this(db: Database) -> instance.Instance:
    return db.write(instance.get_or_create)


def test_there_and_back(lab: Lab, database_url: str, file: Path) -> None:
    before = this(lab.db)
    kept = lab.add_job()
    held = lab.db.write(lambda conn: leases.take(conn, "loops", holder="a", lasts_s=60))
    backup.make(database_url, file)
    assert file.stat().st_mode & 0o777 == 0o600
    lost = lab.add_job()
    lab.db.close()
    assert backup.restore(database_url, file) == 2

    db = Database(database_url)
    found = db.read(lambda conn: {job.id for job in jobs.get_many(conn, [kept, lost])})
    assert found == {kept}
    after = this(db)
    assert (after.name, after.epoch, after.swept_at) == (before.name, 2, None)
    assert after.restored_at is not None and after.restored_at > before.epoch_started_at
    assert held is not None and not db.write(lambda conn: leases.holds(conn, held))
    db.close()


def test_every_restore_is_a_later_epoch(lab: Lab, database_url: str, file: Path) -> None:
    this(lab.db)
    backup.make(database_url, file)
    lab.db.close()
    assert [backup.restore(database_url, file) for _ in range(3)] == [2, 3, 4]


def test_is_made_while_others_write(lab: Lab, database_url: str, file: Path) -> None:
    this(lab.db)
    enough, done = threading.Event(), threading.Event()

    def work() -> None:
        for number in range(10_000):
            lab.insert(*(new_job() for _ in range(10)))
            if number == 5:
                enough.set()
            if done.is_set():
                return

    writer = threading.Thread(target=work)
    writer.start()
    assert enough.wait(30)
    backup.make(database_url, file)
    done.set()
    writer.join(30)
    lab.db.close()
    backup.restore(database_url, file)
    db = Database(database_url)
    count = db.read(lambda conn: conn.execute(text("SELECT count(*) FROM jobs")).scalar_one())
    assert count >= 50 and count % 10 == 0
    db.close()


def test_is_not_restored_while_somebody_is_connected(
    lab: Lab, database_url: str, file: Path
) -> None:
    this(lab.db)
    backup.make(database_url, file)
    job = lab.add_job()
    with pytest.raises(Conflict, match="in use"):
        backup.restore(database_url, file)
    assert lab.db.read(lambda conn: jobs.get(conn, job)) is not None
    assert this(lab.db).epoch == 1


def test_never_overwrites_a_file(lab: Lab, database_url: str, file: Path) -> None:
    this(lab.db)
    file.write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        backup.make(database_url, file)
    assert file.read_text() == "precious"
    assert [one.name for one in file.parent.glob("*backup*")] == ["backup"]


def test_without_hard_links(
    lab: Lab, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on exFAT, and in many folders of other machines."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    name = this(lab.db).name
    backup.make(database_url, file)
    assert [one.name for one in file.parent.glob("*backup*")] == ["backup"]
    with pytest.raises(ConfigError, match="exists"):
        backup._publish(Path(__file__), file)
    lab.db.close()
    backup.restore(database_url, file)
    db = Database(database_url)
    assert this(db).name == name
    db.close()


def test_of_something_else_is_refused(lab: Lab, database_url: str, file: Path) -> None:
    this(lab.db)
    lab.db.close()
    file.write_text("no backup")
    with pytest.raises(ConfigError, match="no backup of a"):
        backup.restore(database_url, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        backup.restore(database_url, file.with_name("nothing"))


NEWER = "UPDATE alembic_version SET version_num = '9999'"
NOBODY = "DELETE FROM instance"


@pytest.mark.parametrize(("change", "why"), [(NEWER, "newer version"), (NOBODY, "no backup of")])
def test_what_cannot_be_used_changes_nothing(
    lab: Lab, database_url: str, file: Path, change: str, why: str
) -> None:
    this(lab.db)
    lab.db.write(lambda conn: conn.execute(text(change)))
    backup.make(database_url, file)
    lab.db.write(lambda conn: conn.execute(text(change.replace("9999", migrate.revisions()[0]))))
    before, job = this(lab.db), lab.add_job()
    lab.db.close()
    with pytest.raises(ConfigError, match=why) as caught:
        backup.restore(database_url, file)
    assert caught.value.hint
    db = Database(database_url)
    db.upgrade()
    assert this(db) == before
    assert db.read(lambda conn: jobs.get(conn, job)) is not None
    db.close()


class TestSqlite:
    def test_a_foreign_database_is_refused(self, sqlite_url: str, tmp_path: Path) -> None:
        file = tmp_path / "other"
        other = sqlite3.connect(file)
        other.execute("CREATE TABLE t (a)")
        other.close()
        with pytest.raises(ConfigError, match="no backup of this service"):
            backup.restore(sqlite_url, file)

    def test_a_damaged_file_changes_nothing(self, sqlite_url: str, tmp_path: Path) -> None:
        db = Database(sqlite_url)
        db.upgrade()
        name = this(db).name
        backup.make(sqlite_url, tmp_path / "backup")
        db.close()
        whole = (tmp_path / "backup").read_bytes()
        (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConfigError):
            backup.restore(sqlite_url, tmp_path / "half")
        db = Database(sqlite_url)
        assert (this(db).name, this(db).epoch) == (name, 1)
        db.close()

    def test_goes_where_nothing_was(self, sqlite_url: str, tmp_path: Path) -> None:
        db = Database(sqlite_url)
        db.upgrade()
        name = this(db).name
        backup.make(sqlite_url, tmp_path / "backup")
        db.close()
        (tmp_path / "new").mkdir()
        url = f"sqlite:///{tmp_path}/new/bridge.db"
        backup.restore(url, tmp_path / "backup")
        assert [one.name for one in (tmp_path / "new").iterdir()] == ["bridge.db"]
        assert (tmp_path / "new" / "bridge.db").stat().st_mode & 0o777 == 0o600
        db = Database(url)
        assert this(db).name == name
        db.close()


def before_psql(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> threading.Event:
    """Act when a restore has looked who is connected; set as soon as it was done."""
    run, done = process.run, threading.Event()

    def run_late(argv: list[str], **more: Any) -> Any:
        if argv[0] == "psql":
            act()
            done.set()
        return run(argv, **more)

    monkeypatch.setattr(process, "run", run_late)
    return done


on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.needs("postgres"))], indirect=True
)


@on_postgresql
@pytest.mark.parametrize("comes", ["early", "late"])
def test_who_leaves_is_waited_for(
    lab: Lab, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """As the server does not know at once of a connection that has ended."""
    this(lab.db)
    backup.make(database_url, file)
    lab.db.close()
    other = Database(database_url)
    leaving = threading.Timer(0.3, other.close)

    def come() -> None:
        other.ping()
        leaving.start()

    if comes == "early":
        come()
    else:
        before_psql(monkeypatch, come)
    assert backup.restore(database_url, file) == 2
    leaving.join()


@on_postgresql
def test_somebody_who_connects_meanwhile_is_not_overrun(
    lab: Lab, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this(lab.db)
    backup.make(database_url, file)
    job = lab.add_job()
    lab.db.close()
    late = Database(database_url)
    connected = before_psql(monkeypatch, late.ping)
    with pytest.raises(Conflict, match="in use"):
        backup.restore(database_url, file)
    assert connected.is_set()
    assert late.read(lambda conn: jobs.get(conn, job)) is not None
    assert this(late).epoch == 1
    late.close()


class TestPostgresql:
    URL = "postgresql://ada:s3cr%20et@db.example:5433/queue?sslmode=verify-full&sslrootcert=/ca"

    def test_programs_are_told_by_their_environment(self) -> None:
        assert stored.postgresql_environment(self.URL) == {
            "PGHOST": "db.example",
            "PGPORT": "5433",
            "PGUSER": "ada",
            "PGPASSWORD": "s3cr et",
            "PGDATABASE": "queue",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/ca",
        }

    @pytest.mark.parametrize(
        ("more", "told"),
        [
            ("a@/d?host=h1:1&host=h2:2", {"PGHOST": "h1,h2", "PGPORT": "1,2"}),
            ("a@/d?host=h1,h2&port=1,2", {"PGHOST": "h1,h2", "PGPORT": "1,2"}),
            (
                "a@h/d?target_session_attrs=read-write&ssl_min_protocol_version=TLSv1.3",
                {
                    "PGHOST": "h",
                    "PGTARGETSESSIONATTRS": "read-write",
                    "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
                },
            ),
            (
                "a@h/d?connect_timeout=3&application_name=x&options=-cb%3D1&options=-cc%3D2",
                {
                    "PGHOST": "h",
                    "PGCONNECT_TIMEOUT": "3",
                    "PGAPPNAME": "x",
                    "PGOPTIONS": "-cb=1 -cc=2",
                },
            ),
        ],
    )
    def test_they_are_told_all_that_the_service_is(self, more: str, told: dict[str, str]) -> None:
        common = {"PGUSER": "a", "PGDATABASE": "d"}
        assert stored.postgresql_environment(f"postgresql://{more}") == common | told

    @pytest.mark.needs("postgres", "pg_dump")
    def test_of_the_schema_that_the_url_names(self, postgres_url: str, tmp_path: Path) -> None:
        plain = Database(postgres_url)
        plain.write(lambda conn: conn.execute(text("CREATE SCHEMA mine")))
        plain.close()
        url = f"{postgres_url}&options=-csearch_path%3Dmine"
        db = Database(url)
        db.upgrade()
        name = this(db).name
        db.close()
        backup.make(url, tmp_path / "backup")
        assert backup.restore(url, tmp_path / "backup") == 2
        look = "SELECT name, epoch FROM mine.instance"
        assert plain.read(lambda conn: conn.execute(text(look)).all()) == [(name, 2)]
        assert not plain.read(lambda conn: inspect(conn).has_table("instance", schema="public"))
        plain.close()

    @pytest.mark.needs("postgres", "pg_dump")
    def test_a_foreign_database_is_refused(self, postgres_url: str, tmp_path: Path) -> None:
        db = Database(postgres_url)
        db.upgrade()
        before = this(db)
        db.write(lambda conn: conn.execute(text("CREATE TABLE other (a int)")))
        db.close()
        dump = ["pg_dump", "--format=custom", "--table=other", f"--file={tmp_path / 'file'}"]
        env = process.clean_environment(stored.postgresql_environment(postgres_url))
        assert process.run(dump, timeout=60, env=env).returncode == 0
        db = Database(postgres_url)
        db.write(lambda conn: conn.execute(text("DROP TABLE other")))
        db.close()
        with pytest.raises(ConfigError, match="no backup of this service"):
            backup.restore(postgres_url, tmp_path / "file")
        db = Database(postgres_url)
        assert this(db) == before
        db.close()

    @pytest.mark.needs("postgres", "pg_dump")
    def test_nothing_goes_where_it_may_not_fit(
        self, postgres_home: Path, postgres_url: str, tmp_path: Path
    ) -> None:
        db = Database(postgres_url)
        db.upgrade()
        this(db)
        db.close()
        backup.make(postgres_url, tmp_path / "backup")
        with (
            postgres.database(postgres_home, f"test_{uuid4().hex}", "LATIN1") as url,
            pytest.raises(ConfigError, match="LATIN1") as caught,
        ):
            backup.restore(url, tmp_path / "backup")
        assert "createdb --encoding=UTF8" in caught.value.hint

    def test_without_them_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "which", lambda _: None)
        with pytest.raises(ConfigError, match="pg_dump is not on the PATH"):
            backup.make(self.URL, tmp_path / "backup")
        assert list(tmp_path.iterdir()) == []
