"""Statements in the driver's own words, and the one that each database spells differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Executable, Table, exc
from sqlalchemy.dialects import postgresql, sqlite

_PARAMETERS: Final = {"sqlite": "named", "postgresql": "pyformat"}


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
        driver = conn.dialect.loaded_dbapi
        cursor = conn.connection.cursor()
        try:
            cursor.execute(sql, parameters)
            return cursor.fetchone()
        except driver.Error as error:
            raise exc.DBAPIError.instance(sql, None, error, driver.Error) from error
        finally:
            cursor.close()

    def _compile(self, dialect: str) -> str:
        family = sqlite if dialect == "sqlite" else postgresql
        style = family.dialect(paramstyle=_PARAMETERS[dialect])
        sql = self._sql[dialect] = str(self._statement.compile(dialect=style))
        return sql


def insert_new(conn: Connection, table: Table, **values: object) -> bool:
    """Insert one row unless it breaks a unique constraint; whether it was inserted.

    Unlike a caught integrity error this leaves the transaction usable.
    """
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    return conn.execute(statement.returning(*table.primary_key)).first() is not None
