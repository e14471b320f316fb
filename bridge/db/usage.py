"""What users used: decayed for fair share, exact by month for the books."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, func, select, update

from bridge.db.statements import Prepared, insert_new
from bridge.db.tables import shares, usage, users
from bridge.models.usage import GroupMonth, Month, Share, months_of

_SHARES: Final = Prepared(
    select(shares.c.user_id, shares.c.core_seconds, shares.c.at)
    .join(users, users.c.id == shares.c.user_id)
    .where(users.c.group_id == bindparam("group_id"))
)


def charge(
    conn: Connection, user_id: UUID, *, cores: int, seconds: float, at: float, half_life_s: float
) -> None:
    """Add an attempt that ran for ``seconds`` to its user's use. ``at`` is its end, a Unix time.

    Call it in the transaction that ends the attempt: then each counts once.
    """
    attempts = 1  # in the month of the end; core-seconds where they were used
    for month, here in months_of(seconds, at):
        _book(conn, user_id, month, attempts, cores * here)
        attempts = 0
    insert_new(conn, shares, user_id=user_id.bytes, core_seconds=0.0, at=at)
    mine = shares.c.user_id == user_id.bytes
    row = conn.execute(
        select(shares.c.core_seconds, shares.c.at).where(mine).with_for_update()
    ).one()
    share = Share(*row).plus(cores, seconds, at, half_life_s)
    conn.execute(update(shares).where(mine).values(core_seconds=share.core_seconds, at=share.at))


def _book(conn: Connection, user_id: UUID, month: str, attempts: int, core_seconds: float) -> None:
    key = {"user_id": user_id.bytes, "month": month}
    insert_new(conn, usage, **key, attempts=0, core_seconds=0.0, gpu_seconds=0.0)
    conn.execute(
        update(usage)
        .where(usage.c.user_id == user_id.bytes, usage.c.month == month)
        .values(
            attempts=usage.c.attempts + attempts,
            core_seconds=usage.c.core_seconds + core_seconds,
        )
    )


def lately(conn: Connection, group_id: UUID) -> dict[UUID, Share]:
    """The decaying use of each user of a group that has some."""
    rows = _SHARES.all(conn, group_id=group_id.bytes)
    return {UUID(bytes=row[0]): Share(row[1], row[2]) for row in rows}


def by_month(conn: Connection, group_id: UUID) -> list[Month]:
    """A group's use, the newest month first, then by user."""
    query = (
        select(
            users.c.name,
            usage.c.month,
            usage.c.attempts,
            usage.c.core_seconds,
            usage.c.gpu_seconds,
        )
        .join(users, users.c.id == usage.c.user_id)
        .where(users.c.group_id == group_id.bytes)
        .order_by(usage.c.month.desc(), users.c.name)
    )
    return [Month(*row) for row in conn.execute(query)]


def of_group(conn: Connection, group_id: UUID) -> list[GroupMonth]:
    """A group's use, all members together, the newest month first."""
    totals = (usage.c.attempts, usage.c.core_seconds, usage.c.gpu_seconds)
    query = (
        select(usage.c.month, *map(func.sum, totals))
        .join(users, users.c.id == usage.c.user_id)
        .where(users.c.group_id == group_id.bytes)
        .group_by(usage.c.month)
        .order_by(usage.c.month.desc())
    )
    return [GroupMonth(*row) for row in conn.execute(query)]
