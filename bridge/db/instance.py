"""Who this bridge is: one row, made once."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, select, update

from bridge.db.statements import insert_new
from bridge.db.tables import instance, leases

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

    @property
    def restored_at(self) -> float | None:
        """When the database came from a backup; None if it never did."""
        return self.epoch_started_at if self.epoch > 1 else None


def get_or_create(conn: Connection, *, now: float | None = None) -> Instance:
    """This bridge's identity, the same for every process on the same database."""
    row = conn.execute(select(*_COLUMNS)).first()
    if row is None:
        now = time.time() if now is None else now
        insert_new(
            conn,
            instance,
            id=1,
            name=secrets.token_hex(4),
            epoch=1,
            epoch_started_at=now,
            swept_at=now,  # no scheduler has anything of a new name
        )
        row = conn.execute(select(*_COLUMNS)).one()
    return Instance(*row)


def is_same(conn: Connection, this: Instance) -> bool:
    """Whether the database is still the one that ``this`` was read from, in the same epoch."""
    row = conn.execute(select(instance.c.name, instance.c.epoch)).first()
    return row is not None and (row[0], row[1]) == (this.name, this.epoch)


def is_swept(conn: Connection) -> bool:
    """Whether, in this epoch, everything that lives at the schedulers was listed once."""
    row = conn.execute(select(instance.c.swept_at)).first()
    return row is None or row[0] is not None


def is_restored(conn: Connection) -> bool:
    """Whether the database ever came from a backup: then it may not know all that we made."""
    row = conn.execute(select(instance.c.epoch)).first()
    return row is not None and row[0] > 1


def record_sweep(conn: Connection, *, now: float) -> None:
    """Everything that lives at the schedulers was listed; the first time counts."""
    conn.execute(update(instance).where(instance.c.swept_at.is_(None)).values(swept_at=now))


def start_epoch(conn: Connection, *, above: int, now: float) -> None:
    """What is stored comes from a backup: its next epoch, later than ``above``, starts.

    Whoever held a lease when the backup was made holds it no more.
    """
    row = conn.execute(select(instance.c.epoch)).one()
    epoch = max(row[0], above) + 1
    conn.execute(update(instance).values(epoch=epoch, epoch_started_at=now, swept_at=None))
    conn.execute(delete(leases))
