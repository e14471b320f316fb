"""Who this bridge is: one row, made once."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec
from sqlalchemy import Connection, select

from bridge.db.statements import insert_new
from bridge.db.tables import instance

_COLUMNS: Final = (
    instance.c.name,
    instance.c.epoch,
    instance.c.epoch_started_at,
    instance.c.swept_at,
)


class Instance(msgspec.Struct, frozen=True):
    """``name`` is part of every native id; ``epoch`` counts restores from a backup.

    Times are Unix seconds; ``swept_at`` is the first full sweep of this epoch.
    """

    name: str
    epoch: int
    epoch_started_at: float
    swept_at: float | None


def get_or_create(conn: Connection, *, now: float | None = None) -> Instance:
    """This bridge's identity, the same for every process on the same database."""
    row = conn.execute(select(*_COLUMNS)).first()
    if row is None:
        insert_new(
            conn,
            instance,
            id=1,
            name=secrets.token_hex(4),
            epoch=1,
            epoch_started_at=time.time() if now is None else now,
        )
        row = conn.execute(select(*_COLUMNS)).one()
    return Instance(*row)
