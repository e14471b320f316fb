"""Statements in the driver's own words, and the one that each database spells differently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Executable, Table, Update, bindparam, exc
from sqlalchemy.dialects import postgresql, sqlite

from bridge import turns

_PARAMETERS: Final = {"sqlite": "named", "postgresql": "pyformat"}
# Rows in one statement, as many as there are left. After each statement SQLite's driver waits
# for its turn among the threads of the process: beside a busy one, a thousand rows by
# themselves took ten times as long.
_ROWS: Final = (100, 10, 1)
_MANY: Final = 10  # rows for which it pays to look for columns that are empty in all
_POSITIONS: Final = {"sqlite": "qmark", "postgresql": "format"}


def run(conn: Connection, sql: str) -> None:
    """Run a statement without parameters by the driver itself."""
    with _cursor(conn, sql) as cursor:
        cursor.execute(sql)


class Prepared:
    """A statement with bound parameters, compiled once and run by the driver itself.

    Takes a tenth of the time that SQLAlchemy adds to a small statement, for the few
    that every request or every pass of the queue runs. A row comes as the driver gives
    it: on SQLite a Boolean is a number.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement
        self._compiled: dict[str, tuple[str, dict[str, object]]] = {}

    def first(self, conn: Connection, **parameters: object) -> Sequence[Any] | None:
        """Run it, in the transaction of ``conn`` if there is one; the first row, or None."""
        sql, values = self._on(conn)
        with _cursor(conn, sql) as cursor:
            cursor.execute(sql, values | parameters)
            row: Sequence[Any] | None = cursor.fetchone()
            return row

    def all(self, conn: Connection, **parameters: object) -> list[Sequence[Any]]:
        """As ``first``; every row."""
        sql, values = self._on(conn)
        with _cursor(conn, sql) as cursor:
            cursor.execute(sql, values | parameters)
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def run(self, conn: Connection, **parameters: object) -> None:
        """As ``first``, of a statement that gives no rows."""
        sql, values = self._on(conn)
        with _cursor(conn, sql) as cursor:
            cursor.execute(sql, values | parameters)

    def _on(self, conn: Connection) -> tuple[str, dict[str, object]]:
        """The text for the database of ``conn``, and the values it has in itself."""
        dialect = conn.dialect.name
        if dialect not in self._compiled:
            family = sqlite if dialect == "sqlite" else postgresql
            compiled = self._statement.compile(
                dialect=family.dialect(paramstyle=_PARAMETERS[dialect])
            )
            binds = compiled.bind_names.items()
            values = {name: one.effective_value for one, name in binds if not one.required}
            self._compiled[dialect] = (str(compiled), values)
        return self._compiled[dialect]


def among(column: Column[Any], most: int) -> ColumnElement[bool]:
    """In a ``Prepared``: ``column`` has one of the values that ``listed`` gives as parameters."""
    return column.in_([bindparam(f"listed_{at}") for at in range(most)])


def listed(values: Sequence[object], most: int) -> dict[str, object]:
    """The parameters of ``among`` for 1 to ``most`` values; those left over repeat the last."""
    return {f"listed_{at}": values[min(at, len(values) - 1)] for at in range(most)}


class OnEach:
    """An update of the rows with given ids.

    SQLite takes half as long when it has them one by one; with PostgreSQL each statement is a
    way there and back. (Its driver makes a pipeline of executemany, after which the server does
    not end the transaction of a process that is paused.)
    """

    def __init__(self, statement: Update, column: Column[Any], most: int) -> None:
        """``column`` has the ids. ``most``: rows that one statement changes."""
        self._most: Final = {"sqlite": 1, "postgresql": most}
        self._of: Final = {
            many: Prepared(statement.where(among(column, many))) for many in self._most.values()
        }

    def run(self, conn: Connection, ids: Sequence[bytes]) -> None:
        """Change all of them."""
        most = self._most[conn.dialect.name]
        for start in range(0, len(ids), most):
            self._of[most].run(conn, **listed(ids[start : start + most], most))


class Insertion:
    """Inserts rows given as tuples."""

    def __init__(
        self, table: Table, columns: Sequence[Column[Any]], unique: Sequence[Column[Any]] = ()
    ) -> None:
        """``columns``: what a row holds, in its order. ``unique``: the columns of a constraint;
        rows that it refuses are left out.
        """
        self._table = table
        self._names = [column.name for column in columns]
        self._all = tuple(range(len(columns)))
        self._unique = unique
        self._sql: dict[tuple[str, int, tuple[int, ...]], str] = {}

    def run(self, conn: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert; returns how many of the rows were new."""
        given = self._all if len(rows) < _MANY else _given(rows)
        done = start = 0
        for many in _ROWS:
            if len(rows) - start < many:
                continue
            sql = self._for(conn.dialect.name, many, given)
            with _cursor(conn, sql) as cursor:
                while len(rows) - start >= many:
                    turns.step_aside()
                    some = rows[start : start + many]
                    cursor.execute(sql, [row[at] for row in some for at in given])
                    done += cursor.rowcount
                    start += many
        return done

    def _for(self, dialect: str, rows: int, given: tuple[int, ...]) -> str:
        """The text that inserts so many rows of these columns."""
        key = (dialect, rows, given)
        if key not in self._sql:
            family = sqlite if dialect == "sqlite" else postgresql
            empty: dict[str, object] = dict.fromkeys(self._names[at] for at in given)
            statement = family.insert(self._table).values([empty] * rows)
            if self._unique:
                statement = statement.on_conflict_do_nothing(index_elements=self._unique)
            style = family.dialect(paramstyle=_POSITIONS[dialect])
            self._sql[key] = str(statement.compile(dialect=style))
        return self._sql[key]


def _given(rows: Sequence[tuple[Any, ...]]) -> tuple[int, ...]:
    """The columns in which some row has a value: to bind a NULL takes SQLite's driver as long
    as to bind ten numbers.
    """
    columns = enumerate(zip(*rows, strict=True))
    return tuple(at for at, column in columns if any(value is not None for value in column))


class _cursor:  # noqa: N801 - used like a function; a generator would cost as much as a look-up
    """A cursor of the driver; its errors are told as SQLAlchemy tells them."""

    __slots__ = ("_conn", "_cursor", "_sql")

    def __init__(self, conn: Connection, sql: str) -> None:
        self._conn = conn
        self._sql = sql

    def __enter__(self) -> Any:
        self._cursor = self._conn.connection.cursor()
        return self._cursor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._cursor.close()
        driver = self._conn.dialect.loaded_dbapi
        if isinstance(error, driver.Error):
            raise exc.DBAPIError.instance(self._sql, None, error, driver.Error) from error


def insert_new(conn: Connection, table: Table, **values: object) -> bool:
    """Insert one row unless it breaks a unique constraint; whether it was inserted.

    Unlike a caught integrity error this leaves the transaction usable.
    """
    dialect = sqlite if conn.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table).values(values).on_conflict_do_nothing()
    return conn.execute(statement.returning(*table.primary_key)).first() is not None
