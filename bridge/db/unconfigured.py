"""What belongs to connectors that a service is not configured for. Nobody looks after it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec
from sqlalchemy import ColumnElement, Connection, func, select

from bridge.db.tables import attempts, groups, is_live, is_to_forget


class UnconfiguredConnector(msgspec.Struct, frozen=True, kw_only=True):
    """What is there: groups that use it, attempts that have not ended, and ended ones of which
    the scheduler may keep something.
    """

    name: str
    groups: int
    live: int
    ended: int


def connectors(conn: Connection, configured: Collection[str]) -> list[UnconfiguredConnector]:
    """Those with anything of ours that are none of these, by name."""
    named = set(conn.execute(select(groups.c.connector).distinct()).scalars())
    named.update(_of_attempts(conn, is_live), _of_attempts(conn, is_to_forget))
    return [_one(conn, name) for name in sorted(named.difference(configured))]


def _of_attempts(conn: Connection, which: ColumnElement[bool]) -> Iterator[str]:
    """From one to the next along an index: there may be very many attempts of each."""
    last: str | None = ""
    while last is not None:
        query = select(attempts.c.connector).where(which, attempts.c.connector > last)
        last = conn.execute(query.order_by(attempts.c.connector).limit(1)).scalar_one_or_none()
        if last is not None:
            yield last


def _one(conn: Connection, name: str) -> UnconfiguredConnector:
    def attempts_that(which: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(attempts)
        return conn.execute(query.where(which, attempts.c.connector == name)).scalar_one()

    of_groups = select(func.count()).select_from(groups).where(groups.c.connector == name)
    return UnconfiguredConnector(
        name=name,
        groups=conn.execute(of_groups).scalar_one(),
        live=attempts_that(is_live),
        ended=attempts_that(is_to_forget),
    )
