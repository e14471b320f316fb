"""SQLite: the one place that opens connections, readers of each thread, one writer."""

from __future__ import annotations

import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event

from bridge import turns
from bridge.db import statements
from bridge.db.writer import Writer
from bridge.errors import ConfigError

T = TypeVar("T")

PATIENCE_S: Final = 30.0  # how long a change waits for the writer
BUSY_TIMEOUT_S: Final = 10.0  # how long for another process that holds the file
# Bucket ids are random, so a bulk insert changes pages all over their index: keep them in
# memory, and let many changes of a page cost one write to the main file.
CACHE_KIB: Final = 64 * 1024
CHECKPOINT_PAGES: Final = 16 * 1024  # 64 MiB


class Sqlite:
    """Readers are not held up by the writer and see one moment; one thread writes.

    Each thread has a connection of its own to read: a pool's lock, taken twice for
    every small read, makes threads wait far longer than the read takes.
    """

    def __init__(self, url: URL) -> None:
        """Raises ConfigError when the file cannot be made."""
        _make_file(url)
        self.migrating: Final = _engine(url)
        self._reading = _engine(url)
        event.listen(self._reading, "connect", _never_write)
        event.listen(self._reading, "begin", _begin)
        self._writing = _engine(url)
        event.listen(self._writing, "connect", _write_much)
        event.listen(self._writing, "begin", _begin_to_write)
        self._mine = threading.local()
        self._readers: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._writer = Writer(self._writing, PATIENCE_S)

    @turns.given()
    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in a transaction that only reads; it may take long, so it has no turn."""
        conn = self._reader()
        if conn.in_transaction():  # inside another read of this thread
            return fn(conn)
        with conn.begin():
            return fn(conn)

    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn``, a short look, without a transaction if it can do without."""
        conn = self._reader()
        if conn.in_transaction():
            return fn(conn)
        try:
            return fn(conn)
        finally:
            conn.rollback()

    def write(self, fn: Callable[[Connection], T], lasting: bool = True) -> T:
        """Run ``fn`` in the next commit."""
        return self._writer.write(fn, lasting)

    def close(self) -> None:
        """Finish waiting writes and close every connection."""
        self._writer.close()
        self._writing.dispose()
        for conn in list(self._readers):
            conn.close()

    def _reader(self) -> Connection:
        conn: Connection | None = getattr(self._mine, "conn", None)
        if conn is None or conn.closed:
            conn = self._mine.conn = self._reading.connect()
            self._readers.add(conn)
        return conn


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


def _engine(url: URL) -> Engine:
    made = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
    )
    event.listen(made, "connect", _settings)
    return made


def _settings(driver: Any, _record: object) -> None:
    """What every connection is set to."""
    driver.isolation_level = None  # we say BEGIN ourselves, so that schema changes are atomic too
    _use_wal(driver)
    driver.execute("PRAGMA synchronous = FULL")  # an acknowledged write survives a power cut
    driver.execute("PRAGMA foreign_keys = ON")
    driver.create_function("exp", 1, math.exp, deterministic=True)  # not in every SQLite


def _use_wal(driver: Any) -> None:
    """SQLite refuses at once, timeout or not, while another process makes the same file."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            driver.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > until:
                raise
        time.sleep(0.01)


def _never_write(driver: Any, _record: object) -> None:
    driver.execute("PRAGMA query_only = ON")


def _write_much(driver: Any, _record: object) -> None:
    driver.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    driver.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


def _begin(conn: Connection) -> None:
    # Takes no lock, so there is no error that SQLAlchemy would have to translate.
    conn.connection.cursor().execute("BEGIN")


def _begin_to_write(conn: Connection) -> None:
    statements.run(conn, "BEGIN IMMEDIATE")
