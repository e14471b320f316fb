"""What a backup needs to know of each database: where it is, and what is in it.

A SQLite database is copied here, while others use it. PostgreSQL's own programs
copy theirs (``bridge.backup``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, func, inspect, make_url, null, select, text, update
from sqlalchemy.dialects import postgresql

from bridge.db import instance, migrate
from bridge.db.engine import Database
from bridge.db.tables import instance as instance_table
from bridge.db.tables import leases, metadata
from bridge.errors import BridgeError, ConfigError, Conflict

TABLES: Final = (*metadata.tables, "alembic_version")
NOT_KEPT: Final = leases.name  # who worked the queue then

IN_USE: Final = "The database is in use by this service."
RUNNING_HINT: Final = "Stop every process of the service, then restore."
_NOT_OURS: Final = "The file is no backup of this service."
_NEWER: Final = "The backup was made by a newer version of this program."
# What PostgreSQL is told to refuse, by the words in which it does.
_REFUSALS: Final[dict[str, tuple[type[BridgeError], str]]] = {
    IN_USE: (Conflict, RUNNING_HINT),
    _NOT_OURS: (ConfigError, "Give another file."),
    _NEWER: (ConfigError, "Restore it by that version, or give a backup from before the upgrade."),
}
_OTHERS: Final = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'nomad-bridge' AND pid <> pg_backend_pid()"
)
# Of what a URL may say, with names that are not made as the others are.
_VARIABLES: Final = {
    "dbname": "PGDATABASE",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}
# The server knows of a connection for a moment after its end.
_PATIENCE_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.05
# A transaction looks at who is connected once, unless it is told to look again.
_AWAIT_NOBODY: Final = (
    f"DO $$ BEGIN FOR look IN 1..{_PATIENCE_S / _LOOK_EVERY_S:.0f} LOOP"
    f" PERFORM pg_stat_clear_snapshot(); IF NOT EXISTS (SELECT 1 {_OTHERS}) THEN RETURN; END IF;"
    f" PERFORM pg_sleep({_LOOK_EVERY_S}); END LOOP; RAISE EXCEPTION '{IN_USE}'; END $$"
)


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite URL; None for PostgreSQL."""
    parsed = make_url(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def postgresql_environment(url: str) -> dict[str, str]:
    """How PostgreSQL's programs are told of a URL: nothing of it in their arguments.

    A few rare parameters, such as ``sslpassword``, have no variable and do not reach them.
    """
    parsed = make_url(url).set(drivername="postgresql+psycopg")
    # As the service's own driver is told, also of several hosts.
    _, parts = parsed.get_dialect()().create_connect_args(parsed)
    return {
        _VARIABLES.get(name, f"PG{name.replace('_', '').upper()}"): " ".join(value)
        if isinstance(value, tuple)
        else str(value)
        for name, value in parts.items()
        if value
    }


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
    until = time.monotonic() + _PATIENCE_S
    others = text(f"SELECT count(*) {_OTHERS}")
    while db.look_up(lambda conn: conn.execute(others).scalar_one()):
        if time.monotonic() > until:
            raise Conflict(IN_USE, RUNNING_HINT)
        time.sleep(_LOOK_EVERY_S)


def refusal(said: Iterable[str]) -> BridgeError | None:
    """The error for lines in which PostgreSQL refuses what ``around_restore`` told it to."""
    for line in said:
        for words, (error, hint) in _REFUSALS.items():
            if words in line:
                return error(words, hint)
    return None


def epoch_of(db: Database) -> int:
    """The epoch of what is stored; 0 where nothing is."""

    def read(conn: Connection) -> int:
        if not inspect(conn).has_table(instance_table.name):
            return 0
        return conn.execute(select(instance_table.c.epoch)).scalar_one_or_none() or 0

    return db.read(read)


def around_restore(*, above: int, now: float) -> tuple[str, str]:
    """What PostgreSQL is to do before and after the tables of a backup come back, as SQL.
    The second is ``instance.start_epoch`` for a backup that holds no leases. It fails, see
    ``refusal``, where the backup is not one of this program's or somebody has connected
    since the restore began.
    """
    epoch = func.greatest(instance_table.c.epoch, above) + 1
    start = update(instance_table).values(epoch=epoch, epoch_started_at=now, swept_at=null())
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    sql = str(start.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    # What brings the tables back leaves no schema to look for names in.
    after = ("RESET search_path", *_refuse_unknown(), sql, _AWAIT_NOBODY)
    return f"DROP TABLE IF EXISTS {', '.join(TABLES)} CASCADE", "; ".join(after)


def _refuse_unknown() -> tuple[str, ...]:
    missing = "to_regclass('instance') IS NULL OR to_regclass('alembic_version') IS NULL"
    empty = "NOT (EXISTS (SELECT 1 FROM instance) AND EXISTS (SELECT 1 FROM alembic_version))"
    known = " ".join(migrate.revisions())
    newer = (
        "EXISTS (SELECT 1 FROM alembic_version WHERE version_num"  # noqa: S608 - numbers of ours
        f" <> ALL (string_to_array('{known}', ' ')))"
    )
    return _refuse(missing, _NOT_OURS), _refuse(empty, _NOT_OURS), _refuse(newer, _NEWER)


def _refuse(condition: str, words: str) -> str:
    return f"DO $$ BEGIN IF {condition} THEN RAISE EXCEPTION '{words}'; END IF; END $$"


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
