"""Leases: which of several processes may do something, for how long.

Time is the database's own, so that processes on machines whose clocks differ
agree. ``fence`` grows with every change of hands: whoever still holds an old
one has lost the lease, however long it slept.

That clock may be put back. So a lease that ends later than any taken or renewed just now
would has run out, too: nobody waits for a time that is far ahead again.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from bridge.db.tables import leases

_NOW: Final[dict[str, ColumnElement[float]]] = {
    "sqlite": literal_column("((julianday('now') - 2440587.5) * 86400.0)", Double()),
    "postgresql": literal_column("extract(epoch FROM clock_timestamp())", Double()),
}


# In lengths: the processes may differ in theirs for a while, when the setting is changed.
_LATEST_END: Final = 2.0


class Held(msgspec.Struct, frozen=True):
    """A lease as one process holds it. ``lasts_s`` is its length in seconds."""

    name: str
    holder: str
    fence: int
    lasts_s: float


def holder_of(conn: Connection, name: str, *, lasts_s: float) -> tuple[str, bool] | None:
    """Who holds or last held a lease, and whether it has run out; None if nobody ever did."""
    query = select(leases.c.holder, _has_run_out(conn, lasts_s)).where(leases.c.name == name)
    row = conn.execute(query).first()
    return None if row is None else (row[0], bool(row[1]))


def take(
    conn: Connection, name: str, *, holder: str, lasts_s: float, dead: str | None = None
) -> Held | None:
    """Take a lease that nobody holds, that has run out, or that ``dead`` holds; else None."""
    _let_go_when_paused(conn, lasts_s)
    until = _now(conn) + lasts_s
    family = sqlite if conn.dialect.name == "sqlite" else postgresql
    statement = family.insert(leases).values(name=name, holder=holder, fence=1, expires_at=until)
    free = or_(_has_run_out(conn, lasts_s), leases.c.holder == dead)
    fence = conn.execute(
        statement.on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={
                "holder": holder,
                "fence": leases.c.fence + 1,
                "expires_at": until,
                "told": None,
            },
            where=free,
        ).returning(leases.c.fence)
    ).scalar_one_or_none()
    return None if fence is None else Held(name, holder, fence, lasts_s)


def renew(conn: Connection, held: Held) -> bool:
    """Hold a lease for its whole length again, also one that has run out but that
    nobody took; False when it was lost.
    """
    _let_go_when_paused(conn, held.lasts_s)
    # The end is reckoned when nobody keeps us from storing it any more: holds() may for long.
    conn.execute(select(leases.c.fence).where(*_ours(held)).with_for_update())
    return _set_end(conn, held, _now(conn) + held.lasts_s)


def release(conn: Connection, held: Held) -> None:
    """Let another process take the lease at once."""
    _set_end(conn, held, literal_column("0"))


def holds(conn: Connection, held: Held) -> bool:
    """Whether the lease is still ours; nobody takes it before this transaction ends."""
    _let_go_when_paused(conn, held.lasts_s)
    query = select(leases.c.fence).where(*_ours(held)).with_for_update(read=True)
    return conn.execute(query).first() is not None


def tell(conn: Connection, held: Held, words: str) -> bool:
    """Let all processes know; False when the lease was lost. Who takes it tells nothing yet."""
    _let_go_when_paused(conn, held.lasts_s)
    return conn.execute(update(leases).where(*_ours(held)).values(told=words)).rowcount == 1


def told(conn: Connection, name: str, *, lasts_s: float) -> str | None:
    """What the holder of a lease told last, or nothing; None while nobody holds it."""
    query = select(func.coalesce(leases.c.told, "")).where(
        leases.c.name == name, not_(_has_run_out(conn, lasts_s))
    )
    return conn.execute(query).scalar_one_or_none()


def _set_end(conn: Connection, held: Held, end: ColumnElement[float]) -> bool:
    return conn.execute(update(leases).where(*_ours(held)).values(expires_at=end)).rowcount == 1


def _ours(held: Held) -> tuple[ColumnElement[bool], ...]:
    return (
        leases.c.name == held.name,
        leases.c.holder == held.holder,
        leases.c.fence == held.fence,
    )


def _has_run_out(conn: Connection, lasts_s: float) -> ColumnElement[bool]:
    now = _now(conn)
    return or_(leases.c.expires_at <= now, leases.c.expires_at > now + _LATEST_END * lasts_s)


def _now(conn: Connection) -> ColumnElement[float]:
    return _NOW[conn.dialect.name]


def _let_go_when_paused(conn: Connection, lasts_s: float) -> None:
    """A process that is paused inside this transaction locks the lease's row: have the
    server end it, so that another can take over when the lease runs out.

    SQLite knows no such limit. Its processes share a machine; one that is paused
    while it writes holds up every other.
    """
    if conn.dialect.name == "postgresql":
        limit = text("SELECT set_config('idle_in_transaction_session_timeout', :ms, true)")
        conn.execute(limit, {"ms": str(max(int(lasts_s * 500), 1))})
