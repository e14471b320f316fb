"""What a backup needs to know of each database: where it is, and what is in it.

A SQLite database is copied here, while others use it. PostgreSQL's own programs
copy theirs (``bridge.backup``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, func, inspect, make_url, null, select, text, update
from sqlalchemy.dialects import postgresql

from bridge.db import instance
from bridge.db.engine import Database
from bridge.db.tables import instance as instance_table
from bridge.db.tables import leases, metadata
from bridge.errors import ConfigError, Conflict

TABLES: Final = (*metadata.tables, "alembic_version")
NOT_KEPT: Final = leases.name  # who worked the queue then

IN_USE: Final = "The database is in use by this service."
RUNNING_HINT: Final = "Stop every process of the service, then restore."
_OTHERS: Final = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'nomad-bridge' AND pid <> pg_backend_pid()"
)
# A transaction looks at who is connected once, unless it is told to look again.
_REFUSE_OTHERS: Final = f"""
SELECT pg_stat_clear_snapshot();
DO $$ BEGIN IF EXISTS (SELECT 1 {_OTHERS}) THEN RAISE EXCEPTION '{IN_USE}'; END IF; END $$
"""


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for PostgreSQL."""
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def postgresql_environment(url: str) -> dict[str, str]:
    """How PostgreSQL's programs are told of a URL: nothing of it in their arguments."""
    parsed = make_url(url)
    parts = {
        "PGHOST": parsed.host,
        "PGPORT": parsed.port,
        "PGUSER": parsed.username,
        "PGPASSWORD": parsed.password,
        "PGDATABASE": parsed.database,
    }
    known = {name: str(value) for name, value in parts.items() if value}
    return known | {f"PG{name.upper()}": str(value) for name, value in parsed.query.items()}


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database, as it is at one moment, into the empty file ``target``.

    Raises ConfigError when ``source`` is no database of this program.
    """
    with _opened(source, "ro") as conn, _damage(source):
        conn.execute("VACUUM INTO ?", (str(target),))


def restore_sqlite(backup: Path, target: Path, now: float) -> int:
    """Put a backup in the place of a database, in a new epoch; the number of the epoch.

    At every moment ``target`` is the old or the new one, whole. Raises ConfigError
    when the backup cannot be used, Conflict while a service uses ``target``.
    """
    with _draft(backup, target) as draft:
        with _opened(target, "rw") as old, _damage(target):
            _refuse_if_used(old)
            above = _epoch_of(old)
        db = Database(f"sqlite:///{draft}")
        try:
            db.upgrade()
            db.write(lambda conn: instance.start_epoch(conn, above=above, now=now))
            epoch = db.read(instance.get_or_create).epoch
        finally:
            db.close()
        with _opened(draft, "ro") as new, _opened(target, "rw") as old, _damage(target):
            _refuse_if_used(old)
            new.backup(old)
    return epoch


def refuse_if_connected(db: Database) -> None:
    """Raises Conflict while another process of this program uses a PostgreSQL database."""
    if db.look_up(lambda conn: conn.execute(text(f"SELECT count(*) {_OTHERS}")).scalar_one()):
        raise Conflict(IN_USE, RUNNING_HINT)


def epoch_of(db: Database) -> int:
    """The epoch of what is stored; 0 where nothing is."""

    def read(conn: Connection) -> int:
        if not inspect(conn).has_table(instance_table.name):
            return 0
        return conn.execute(select(instance_table.c.epoch)).scalar_one_or_none() or 0

    return db.read(read)


def around_restore(*, above: int, now: float) -> tuple[str, str]:
    """What PostgreSQL is to do before and after the tables of a backup come back, as SQL.
    The second is ``instance.start_epoch`` for a backup that holds no leases, and fails with
    ``IN_USE`` where somebody has connected since the restore began.
    """
    epoch = func.greatest(instance_table.c.epoch, above) + 1
    start = update(instance_table).values(epoch=epoch, epoch_started_at=now, swept_at=null())
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    sql = start.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    # What brings the tables back leaves no schema to look for names in.
    after = f"RESET search_path; {sql}; {_REFUSE_OTHERS}"
    return f"DROP TABLE IF EXISTS {', '.join(TABLES)} CASCADE", after


@contextlib.contextmanager
def _draft(backup: Path, target: Path) -> Iterator[Path]:
    """A copy of the backup that may be changed, beside the target."""
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=target.parent) as folder:
        draft = Path(folder, "bridge.db")
        for file in (draft, target):  # a new one is for its owner only
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
        copy_sqlite(backup, draft)
        with _opened(draft, "ro") as conn, _damage(backup):
            if not _epoch_of(conn):
                raise ConfigError(f"{backup} is no backup of this service.", "Give another file.")
        yield draft


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    patience_s = 0.0 if mode == "rw" else 30.0
    try:
        conn = sqlite3.connect(uri, uri=True, timeout=patience_s, isolation_level=None)
    except sqlite3.Error as error:
        raise ConfigError(f"{path} cannot be opened: {error}.", "Check the path.") from None
    with contextlib.closing(conn):
        yield conn


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What SQLite finds wrong with a file, in our words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Conflict(f"{path} is in use by this service.", RUNNING_HINT) from None
        raise ConfigError(f"{path} cannot be used: {error}.", "Look at the disk.") from None
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{path} is damaged or no database: {error}.",
            "If it is the database, move it and its -wal and -shm away, then restore.",
        ) from None


def _refuse_if_used(conn: sqlite3.Connection) -> None:
    """Only the last user of a database can end its write-ahead log; "locked" for others."""
    conn.execute("PRAGMA journal_mode = DELETE")


def _epoch_of(conn: sqlite3.Connection) -> int:
    table = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'instance'"
    if not conn.execute(table).fetchone()[0]:
        return 0
    row: Mapping[int, int] | None = conn.execute("SELECT epoch FROM instance").fetchone()
    return 0 if row is None else row[0]
