"""The migrations: one chain, the same tables as ``tables``, safe to run at once."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from bridge.db import migrate
from bridge.db.engine import Connection, Database
from bridge.db.tables import metadata
from bridge.errors import ConfigError
from tests.integration.db.conftest import Lab
from tests.support import postgres

VERSIONS = Path(migrate.__file__).parent / "migrations" / "versions"


def test_give_the_tables_of_the_program(db: Database) -> None:
    def compare(conn: Connection) -> list[object]:
        options = {"compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(conn, opts=options), metadata))

    assert db.read(compare) == []


def test_give_the_constraints_and_indexes_of_the_program(
    db: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What compare_metadata does not see: conditions and directions of indexes, checks."""

    def describe(conn: Connection) -> list[str]:
        if conn.dialect.name == "sqlite":
            query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        else:
            query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema()"
        rows = [f"{name}: {sql}" for name, sql in conn.execute(text(query))]
        for table in metadata.tables:
            checks = inspect(conn).get_check_constraints(table)
            rows += [f"{table}: {check['name']} {check['sqltext']}" for check in checks]
        return sorted(re.sub(r"\s+", " ", row) for row in rows if "alembic" not in row)

    def recreate(conn: Connection) -> None:
        metadata.drop_all(conn)
        metadata.create_all(conn)

    migrated = db.read(describe)
    db.write(recreate)
    assert migrated == db.read(describe)
    assert any("ix_jobs_waiting" in row and "DESC" in row for row in migrated)


def test_run_again_and_change_nothing(lab: Lab) -> None:
    lab.db.upgrade()
    lab.db.upgrade()
    lab.add_job()


def test_nothing_is_locked_when_nothing_is_to_do(db: Database, database_url: str) -> None:
    """Checking every reference of a large SQLite database takes seconds."""
    other = Database(database_url)
    began = time.monotonic()
    db.write(lambda _: other.upgrade())
    assert time.monotonic() - began < 10
    other.close()


@pytest.mark.needs("postgres")
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_refuse_a_database_that_cannot_hold_every_text(postgres_home: Path, encoding: str) -> None:
    with postgres.database(postgres_home, f"test_{uuid4().hex}", encoding) as url:
        db = Database(url)
        with pytest.raises(ConfigError, match=encoding) as caught:
            db.upgrade()
        assert "createdb --encoding=UTF8" in caught.value.hint
        db.close()


def test_run_at_once_by_several_processes(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Database.upgrade, databases))
    for database in databases:
        database.ping()
        database.close()


def test_refuse_the_database_of_a_newer_program(db: Database) -> None:
    db.write(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(ConfigError, match="newer"):
        db.upgrade()


def test_are_one_chain() -> None:
    scripts = ScriptDirectory.from_config(migrate.config())
    revisions = [script.revision for script in scripts.walk_revisions()][::-1]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert scripts.get_heads() == revisions[-1:]


def test_file_names_say_number_and_subject() -> None:
    files = sorted(VERSIONS.glob("*.py"))
    assert files
    for file in files:
        assert re.fullmatch(r"\d{4}_[a-z0-9_]+\.py", file.name), file.name
        assert f'revision = "{file.name[:4]}"' in file.read_text()
