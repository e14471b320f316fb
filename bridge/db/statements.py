"""Statements in the driver's own words, and the one that each database spells differently."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, Executable, Table, exc
from sqlalchemy.dialects import postgresql, sqlite

_PARAMETERS: Final = {"sqlite": "named", "postgresql": "pyformat"}
_POSITIONS: Final = {"sqlite": "qmark", "postgresql": "format"}


def run(conn: Connection, sql: str) -> None:
    """Run a statement without parameters by the driver itself."""
    with _cursor(conn, sql) as cursor:
        cursor.execute(sql)


class Prepared:
    """A statement with bound parameters, compiled once and run by the driver itself.

    Takes a tenth of the time that SQLAlchemy adds to a small statement, for the few
    that every request runs. A row comes as the driver gives it: on SQLite a Boolean
    is a number.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement
        self._sql: dict[str, str] = {}

    def first(self, conn: Connection, **parameters: object) -> Sequence[Any] | None:
        """Run it, in the transaction of ``conn`` if there is one; the first row, or None."""
        sql = self._sql.get(conn.dialect.name) or self._compile(conn.dialect.name)
        with _cursor(conn, sql) as cursor:
            cursor.execute(sql, parameters)
            row: Sequence[Any] | None = cursor.fetchone()
            return row

    def _compile(self, dialect: str) -> str:
        family = sqlite if dialect == "sqlite" else postgresql
        style = family.dialect(paramstyle=_PARAMETERS[dialect])
        sql = self._sql[dialect] = str(self._statement.compile(dialect=style))
        return sql


class Insertion:
    """Inserts rows given as tuples, and leaves out those that a unique constraint refuses."""

    def __init__(self, table: Table, columns: Sequence[Column[Any]], unique: Sequence[Any]) -> None:
        """``columns``: what a row holds, in its order. ``unique``: those of the constraint."""
        self._table = table
        self._names = [column.name for column in columns]
        self._unique = unique
        self._sql: dict[str, str] = {}

    def run(self, conn: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert; returns how many of the rows were new."""
        sql = self._sql.get(conn.dialect.name) or self._compile(conn.dialect.name)
        with _cursor(conn, sql) as cursor:
            cursor.executemany(sql, rows)
            return int(cursor.rowcount)

    def _compile(self, dialect: str) -> str:
        family = sqlite if dialect == "sqlite" else postgresql
        statement = family.insert(self._table).on_conflict_do_nothing(index_elements=self._unique)
        style = family.dialect(paramstyle=_POSITIONS[dialect])
        sql = self._sql[dialect] = str(statement.compile(dialect=style, column_keys=self._names))
        return sql


@contextlib.contextmanager
def _cursor(conn: Connection, sql: str) -> Iterator[Any]:
    """A cursor of the driver; its errors are told as SQLAlchemy tells them."""
    driver = conn.dialect.loaded_dbapi
    cursor = conn.connection.cursor()
    try:
        yield cursor
    except driver.Error as error:
        raise exc.DBAPIError.instance(sql, None, error, driver.Error) from error
    finally:
        cursor.close()


def insert_new(conn: Connection, table: Table, **values: object) -> bool:
    """Insert one row unless it breaks a unique constraint; whether it was inserted.

    Unlike a caught integrity error this leaves the transaction usable.
    """
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    return conn.execute(statement.returning(*table.primary_key)).first() is not None
