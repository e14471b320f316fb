"""How many live jobs somebody has at most, kept so that a submission need not count them.

The bound is exact when it was last counted, and grows with what is let in since; ends
are not subtracted. So it is never too small while everything that makes a job live is
counted in, and is counted anew when it comes to the limit.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy import Connection, Table, func, select, update

from bridge.db import selftests
from bridge.db.tables import groups, jobs, users
from bridge.models.job import LIVE


class Whose(msgspec.Struct, frozen=True):
    """The jobs of a group, or of one user in it."""

    group_id: UUID
    user_id: UUID | None = None


def lock(conn: Connection, whose: Whose) -> int | None:
    """The bound, None if it was never counted. Until this transaction ends, other calls
    for the same wait; inserts of jobs do not. Lock a group before a user.
    """
    table, owner = _row(whose)
    query = select(table.c.live_at_most).where(table.c.id == owner)
    bound: int | None = conn.execute(query.with_for_update(key_share=True)).scalar_one()
    return bound


def store(conn: Connection, whose: Whose, live_at_most: int) -> None:
    """Keep a bound."""
    table, owner = _row(whose)
    conn.execute(update(table).where(table.c.id == owner).values(live_at_most=live_at_most))


def count(conn: Connection, whose: Whose, at_most: int) -> int:
    """Jobs that have not ended, self-tests left out; counted up to ``at_most``."""
    hidden = 0 if whose.user_id else selftests.count_live(conn, whose.group_id)
    live = select(jobs.c.id).where(
        jobs.c.group_id == whose.group_id.bytes,
        jobs.c.state.in_(sorted(state.value for state in LIVE)),
    )
    if whose.user_id:
        live = live.where(jobs.c.user_id == whose.user_id.bytes)
    some = live.limit(at_most + hidden).subquery()
    return int(conn.execute(select(func.count()).select_from(some)).scalar_one()) - hidden


def _row(whose: Whose) -> tuple[Table, bytes]:
    if whose.user_id is None:
        return groups, whose.group_id.bytes
    return users, whose.user_id.bytes
