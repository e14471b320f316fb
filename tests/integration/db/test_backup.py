"""Backup files: whole, made beside the running service, put back in one step."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bridge import backup, process
from bridge.db import backup as stored
from bridge.db import instance, jobs, leases
from bridge.db.engine import Database
from bridge.errors import ConfigError, Conflict
from tests.integration.db.conftest import Lab, new_job
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


def test_of_something_else_is_refused(lab: Lab, database_url: str, file: Path) -> None:
    this(lab.db)
    lab.db.close()
    file.write_text("no backup")
    with pytest.raises(ConfigError, match="no backup of a"):
        backup.restore(database_url, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        backup.restore(database_url, file.with_name("nothing"))


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

    def test_a_backup_of_a_newer_program_is_refused(self, sqlite_url: str, tmp_path: Path) -> None:
        db = Database(sqlite_url)
        db.upgrade()
        this(db)
        backup.make(sqlite_url, tmp_path / "backup")
        db.close()
        file = sqlite3.connect(tmp_path / "backup")
        file.execute("UPDATE alembic_version SET version_num = '9999'")
        file.commit()
        file.close()
        with pytest.raises(ConfigError, match="newer"):
            backup.restore(sqlite_url, tmp_path / "backup")


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_somebody_who_connects_meanwhile_is_not_overrun(
    lab: Lab, database_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this(lab.db)
    backup.make(database_url, file)
    job = lab.add_job()
    lab.db.close()
    late = Database(database_url)
    run = process.run

    def run_late(argv: list[str], **more: Any) -> Any:
        if argv[0] == "psql":
            late.ping()
        return run(argv, **more)

    monkeypatch.setattr(process, "run", run_late)
    with pytest.raises(Conflict, match="in use"):
        backup.restore(database_url, file)
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

    def test_without_them_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "which", lambda _: None)
        with pytest.raises(ConfigError, match="pg_dump is not on the PATH"):
            backup.make(self.URL, tmp_path / "backup")
        assert list(tmp_path.iterdir()) == []
