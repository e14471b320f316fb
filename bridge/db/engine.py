"""The database: connections, transactions, and nothing about what is stored.

``Database.read(fn)`` and ``Database.write(fn)`` hand ``fn`` a connection inside a
transaction; ``look_up(fn)`` one without, for a single statement. ``fn`` neither
commits nor rolls back, and must be repeatable: it is run again when its
transaction was undone because of another one.

SQLite: readers have connections of their own, which cannot write and are not
held up by the writer; one thread writes and puts what waits into one commit
(``writer``). PostgreSQL: a pool, one transaction for each write.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, pool, text
from sqlalchemy.engine import URL

from bridge.db import migrate
from bridge.db.faults import can_retry, translate, unsure
from bridge.db.writer import Writer
from bridge.errors import ConfigError

__all__ = ["Connection", "Database"]  # what read() and write() hand out, and who does

T = TypeVar("T")

CONNECTIONS: Final = 16
PATIENCE_S: Final = 30.0  # how long a caller waits for a connection, a lock or the writer
BUSY_TIMEOUT_MS: Final = 10_000  # SQLite: another process holds the file
# SQLite, for the writer. Bucket ids are random, so a bulk insert changes pages all over their
# index: keep them in memory, and let many changes of a page cost one write to the main file.
CACHE_KIB: Final = 64 * 1024
CHECKPOINT_PAGES: Final = 16 * 1024  # 64 MiB
STATEMENT_TIMEOUT_MS: Final = 30_000
CONNECT_TIMEOUT_S: Final = 5
TRIES: Final = 5  # PostgreSQL: transactions undone because of another one


class Database:
    """A SQLite file (``sqlite:////path``) or PostgreSQL (``postgresql://…``).

    Raises ConfigError for any other URL, or when the file cannot be made.
    """

    def __init__(self, url: str) -> None:
        self._url = _parse(url)
        self.dialect: Final = self._url.get_backend_name()
        self._writer: Writer | None = None
        if self.dialect == "sqlite":
            _make_file(self._url)
            self._engine = self._look_up_engine = _sqlite(self._url, writable=False)
            self._write_engine = _sqlite(self._url, writable=True)
            self._writer = Writer(self._write_engine, PATIENCE_S)
        else:
            self._write_engine = _postgresql(self._url)
            self._engine = self._write_engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            self._look_up_engine = self._write_engine.execution_options(
                isolation_level="AUTOCOMMIT"
            )

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` on one consistent view of the data.

        Raises what ``fn`` raises; Unavailable when the database cannot be used.
        """
        try:
            with self._engine.connect() as conn, conn.begin():
                return fn(conn)
        except exc.SQLAlchemyError as error:
            raise translate(error) from None

    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """Like ``read``, for a ``fn`` with one statement: spares the transaction around it."""
        try:
            with self._look_up_engine.connect() as conn:
                return fn(conn)
        except exc.SQLAlchemyError as error:
            raise translate(error) from None

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in a transaction; returns its result when it is stored durably.

        If ``fn`` raises, nothing it did is stored and the error is raised here.
        Raises Conflict when a stored row forbids it, InvalidRequest when a value
        does not fit, Unavailable when the database cannot be used.
        """
        if self._writer is not None:
            return self._writer.write(fn)
        tries = 0
        while True:
            tries += 1
            try:
                return self._transact(fn)
            except exc.SQLAlchemyError as error:
                if tries == TRIES or not can_retry(error):
                    raise translate(error) from None
            # Chance keeps two that met from meeting again.
            time.sleep(random.uniform(0, 0.02) * 2**tries)  # noqa: S311 - no secret

    def _transact(self, fn: Callable[[Connection], T]) -> T:
        with self._write_engine.connect() as conn:
            result = fn(conn)
            try:
                conn.commit()
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise unsure(error) from None
                raise
            return result

    def upgrade(self) -> None:
        """Bring the schema to this program's version; safe in several processes at once.

        Raises ConfigError when a newer program made the schema, Unavailable when
        the database cannot be used.
        """
        try:
            engine = _engine(self._url, poolclass=pool.NullPool)
            migrate.upgrade(engine)
        except exc.SQLAlchemyError as error:
            raise translate(error) from None

    def ping(self) -> None:
        """Raises Unavailable unless the database answers and has a schema."""
        self.read(lambda conn: conn.execute(text("SELECT version_num FROM alembic_version")).all())

    def close(self) -> None:
        """Finish waiting writes and close every connection. May be called again."""
        if self._writer is not None:
            self._writer.close()
        self._engine.dispose()
        self._write_engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.SQLAlchemyError, ValueError):  # ValueError: a port that is no number
        raise ConfigError("The database URL cannot be read.", _URL_HINT) from None
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite+pysqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"This database is not supported: {backend}.", _URL_HINT)


_URL_HINT: Final = "Use sqlite:////path/to/file or postgresql://user:password@host/name."


def _make_file(url: URL) -> None:
    """Make the file for its owner only; SQLite gives its WAL the same mode."""
    path = Path(str(url.database))
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(
            f"The database file {path} cannot be opened: {error.strerror}.",
            "Make its folder and let the service write there.",
        ) from None


def _sqlite(url: URL, *, writable: bool) -> Engine:
    engine = _engine(
        url,
        pool_size=1 if writable else CONNECTIONS,
        max_overflow=0,
        pool_timeout=PATIENCE_S,
    )

    @event.listens_for(engine, "connect")
    def _prepare(dbapi: Any, _record: object) -> None:
        if writable:
            dbapi.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            dbapi.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        else:
            dbapi.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(conn: Connection) -> None:
        if writable:
            conn.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # Takes no lock, so there is no error that SQLAlchemy would have to translate.
            conn.connection.cursor().execute("BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    return _engine(
        url,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=PATIENCE_S,
        pool_pre_ping=True,
    )


def _engine(url: URL, **options: Any) -> Engine:
    """An engine whose errors name no parameters, with the settings of each database."""
    sqlite = url.get_backend_name() == "sqlite"
    connect_args: dict[str, Any] = {"timeout": BUSY_TIMEOUT_MS / 1000}
    if not sqlite:
        connect_args = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
            "application_name": "nomad-bridge",
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={2 * STATEMENT_TIMEOUT_MS}",
        }
    try:
        engine = create_engine(url, hide_parameters=True, connect_args=connect_args, **options)
    except ImportError:
        raise ConfigError(
            "The PostgreSQL driver is not installed.",
            "Install nomad-bridge[postgres].",
        ) from None
    if sqlite:
        event.listen(engine, "connect", _pragmas)
    return engine


def _pragmas(dbapi: Any, _record: object) -> None:
    """Settings of every SQLite connection, in the one place that opens them."""
    dbapi.isolation_level = None  # we say BEGIN ourselves, so that schema changes are atomic too
    dbapi.execute("PRAGMA journal_mode = WAL")
    dbapi.execute("PRAGMA synchronous = FULL")  # an acknowledged write survives a power cut
    dbapi.execute("PRAGMA foreign_keys = ON")
