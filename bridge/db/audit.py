"""Who did what. Entries are added and read, never changed."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, insert, select

from bridge.db.tables import audit
from bridge.models.ids import new_id

_COLUMNS: Final = (
    audit.c.id,
    audit.c.at,
    audit.c.group_id,
    audit.c.actor,
    audit.c.action,
    audit.c.target,
    audit.c.detail,
)


class Entry(msgspec.Struct, frozen=True):
    """One thing that was done. ``group_id`` is None for the operator's own doings."""

    id: UUID
    at: float  # Unix seconds
    group_id: UUID | None
    actor: str
    action: str
    target: str
    detail: str | None


def record(
    conn: Connection,
    *,
    group_id: UUID | None,
    actor: str,
    action: str,
    target: str,
    detail: str | None = None,
    now: float,
) -> None:
    """Add an entry in the transaction of what it tells about. No secret, no bucket id."""
    conn.execute(
        insert(audit).values(
            id=new_id().bytes,
            at=now,
            group_id=None if group_id is None else group_id.bytes,
            actor=actor,
            action=action,
            target=target,
            detail=detail,
        )
    )


def find(
    conn: Connection, group_id: UUID | None = None, *, limit: int = 100, before: UUID | None = None
) -> list[Entry]:
    """Newest first, of one group or of all."""
    query = select(*_COLUMNS).order_by(audit.c.id.desc()).limit(limit)
    if group_id is not None:
        query = query.where(audit.c.group_id == group_id.bytes)
    if before is not None:
        query = query.where(audit.c.id < before.bytes)
    return [
        Entry(UUID(bytes=row[0]), row[1], row[2] and UUID(bytes=row[2]), *row[3:])
        for row in conn.execute(query)
    ]
