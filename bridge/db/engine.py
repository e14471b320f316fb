"""The database: connections, transactions, and nothing about what is stored.

``Database.read(fn)`` and ``Database.write(fn)`` hand ``fn`` a connection inside a
transaction; ``look_up(fn)`` one without, for a short look. ``fn`` neither
commits nor rolls back, and must be repeatable: it is run again when its
transaction was undone because of another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from sqlalchemy import URL, Connection, exc, make_url, text

from bridge.db import migrate
from bridge.db.faults import translate
from bridge.db.postgresql import Postgresql
from bridge.db.sqlite import Sqlite
from bridge.errors import ConfigError, Unavailable

__all__ = [
    "Connection",
    "Database",
    "Transactions",
]  # what read() and write() hand out, and who does

T = TypeVar("T")

# How long a database that refused a change counts as away, if nothing is changed meanwhile: a
# process that is asked nothing for it would not find out that it is well again.
_REFUSED_S: Final = 30.0
_URL_HINT: Final = "Use sqlite:////path/to/file or postgresql://user:password@host/name."


class Transactions(Protocol):
    """What most users of a database need of it; ``Database`` says what each does."""

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` on one consistent view of the data."""

    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn``, a short look: one statement, or several that need not see one moment."""

    def write(self, fn: Callable[[Connection], T], *, lasting: bool = True) -> T:
        """Run ``fn`` in a transaction, durably."""


class Database:
    """A SQLite file (``sqlite:////path``) or PostgreSQL (``postgresql://…``).

    Raises ConfigError for any other URL, when the file cannot be made or a driver
    is missing. Nothing is asked of a PostgreSQL server yet.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.dialect: Final = parsed.get_backend_name()
        self._store = Sqlite(parsed) if self.dialect == "sqlite" else Postgresql(parsed)
        self._refused: tuple[float, Unavailable] | None = None  # until when, and why

    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` on one consistent view of the data.

        Raises what ``fn`` raises; Unavailable when the database cannot be used.
        """
        return _own_errors(self._store.read, fn)

    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """Like ``read``, for a short look: one statement, or several that need not see one
        moment. Spares the transaction around it; on SQLite it is computed in turn.
        """
        return _own_errors(self._store.look_up, fn)

    def write(self, fn: Callable[[Connection], T], *, lasting: bool = True) -> T:
        """Run ``fn`` in a transaction; returns its result when it is stored durably.

        Not ``lasting``: before it is on disk. Nothing is lost when this process dies, but
        when the machine does, the last of these may be, with nothing that was stored after
        it; a lasting one makes them last, too. For what is found out again by itself.

        If ``fn`` raises, nothing it did is stored and the error is raised here.
        Raises Conflict when a stored row forbids it, InvalidRequest when a value
        does not fit, Unavailable when the database cannot be used.
        """
        try:
            result = _own_errors(lambda change: self._store.write(change, lasting), fn)
        except Unavailable as away:
            self._refused = (time.monotonic() + _REFUSED_S, away)
            raise
        self._refused = None
        return result

    def upgrade(self) -> None:
        """Bring the schema to this program's version; safe in several processes at once.

        Raises ConfigError when a newer program made the schema or the database's encoding
        cannot hold every text, Unavailable when the database cannot be used.
        """
        _own_errors(migrate.upgrade, self._store.migrating)

    def ping(self) -> None:
        """Raises Unavailable unless the database answers, has a schema, and took the last
        change: on a full disk it answers, too.
        """
        refused = self._refused
        if refused and time.monotonic() < refused[0]:
            raise Unavailable(refused[1].message, refused[1].hint)
        self.look_up(
            lambda conn: conn.execute(text("SELECT version_num FROM alembic_version")).all()
        )

    def close(self) -> None:
        """Finish waiting writes and close every connection. May be called again."""
        self._store.close()


A = TypeVar("A")


def _own_errors(act: Callable[[A], T], argument: A) -> T:
    try:
        return act(argument)
    except exc.SQLAlchemyError as error:
        raise translate(error) from None


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
