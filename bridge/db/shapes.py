"""Rows that become values, with most of a row packed into one JSON text.

SQLite's driver lets the other threads of the process go on at every column that it fetches, and
beside a busy one each may be a wait: a page of a hundred jobs had three thousand of them. To
unpack a text also takes less than to make a value of each column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import JSON, Boolean, ColumnElement, Double, LargeBinary, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

T = TypeVar("T", bound=msgspec.Struct)


class Shape(Generic[T]):
    """Which columns to select for a struct, and how to make one of a row of them."""

    def __init__(self, into: type[T], columns: Mapping[str, ColumnElement[Any]]) -> None:
        """``columns`` by the fields of ``into``, all of them. A JSON column must not be NULL."""
        types = {field.name: field.type for field in msgspec.structs.fields(into)}
        # Not packed: in a text a time might lose its last digits.
        times = [name for name in types if isinstance(columns[name].type, Double)]
        packed = [name for name in types if name not in times]
        self.columns: Final[tuple[ColumnElement[Any], ...]] = (
            _Packed(*(columns[name] for name in packed)),
            *(columns[name] for name in times),
        )
        self._into = into
        self._names = (*packed, *times)
        unpacked: Any = tuple.__class_getitem__(tuple(types[name] for name in packed))
        self._unpack = msgspec.json.Decoder(unpacked).decode

    def make(self, row: Sequence[Any]) -> T:
        """The value of a row of ``columns``; other columns may follow."""
        return self._into(**dict(zip(self._names, (*self._unpack(row[0]), *row[1:]), strict=False)))


class _Packed(FunctionElement[str]):
    """A JSON array of its arguments: binary as hexadecimal digits, JSON as it is."""

    name = "packed"
    inherit_cache = True
    type = Text()


@compiles(_Packed, "sqlite")
def _on_sqlite(element: _Packed, compiler: Any, **options: Any) -> str:
    def one(column: ColumnElement[Any]) -> str:
        sql = compiler.process(column, **options)
        if isinstance(column.type, LargeBinary):
            # hex() of NULL is an empty text.
            return f"CASE WHEN {sql} IS NOT NULL THEN hex({sql}) END"
        if isinstance(column.type, Boolean):
            return f"json(CASE WHEN {sql} THEN 'true' ELSE 'false' END)"
        return f"json({sql})" if isinstance(column.type, JSON) else str(sql)

    return f"json_array({', '.join(map(one, element.clauses))})"


@compiles(_Packed, "postgresql")
def _on_postgresql(element: _Packed, compiler: Any, **options: Any) -> str:
    def one(column: ColumnElement[Any]) -> str:
        sql = compiler.process(column, **options)
        if isinstance(column.type, LargeBinary):
            return f"encode({sql}, 'hex')"
        return f"CAST({sql} AS JSON)" if isinstance(column.type, JSON) else str(sql)

    return f"CAST(json_build_array({', '.join(map(one, element.clauses))}) AS TEXT)"
