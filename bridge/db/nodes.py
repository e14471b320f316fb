"""Nodes: the machines that groups let in, found by group and name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Connection, literal, select, update

from bridge.db.statements import insert_new
from bridge.db.tables import groups, nodes
from bridge.models.ids import new_id
from bridge.models.node import Facts, Node

_COLUMNS: Final = tuple(nodes.c[field] for field in Node.__struct_fields__)
_decode_facts: Final = msgspec.json.Decoder(Facts).decode


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a node that was let in. Times are Unix seconds."""

    group_id: UUID
    name: str
    generation: str
    facts: Facts
    enrolled_at: float
    expires_at: float


def enrol(conn: Connection, new: Enrolment) -> bool:
    """Store a node, or renew the one with its name; True when it is new or was removed.

    A quarantine stays: only an admin ends it.
    """
    values = {
        "generation": new.generation,
        "facts": msgspec.json.encode(new.facts).decode(),
        "enrolled_at": new.enrolled_at,
        "expires_at": new.expires_at,
    }
    key = {"id": new_id().bytes, "group_id": new.group_id.bytes, "name": new.name}
    if insert_new(conn, nodes, **key, **values):
        return True
    mine = (nodes.c.group_id == new.group_id.bytes, nodes.c.name == new.name)
    # Removed, it may come back as another machine.
    came_back = conn.execute(
        update(nodes)
        .where(*mine, nodes.c.removed_at.is_not(None))
        .values(**values, removed_at=None, native_id=None, barred=None, drained_at=None)
    )
    if came_back.rowcount:
        return True
    conn.execute(update(nodes).where(*mine).values(values))
    return False


def get(conn: Connection, group_id: UUID, name: str) -> Node | None:
    """The node of a group with this name, also a removed one."""
    mine = (nodes.c.group_id == group_id.bytes, nodes.c.name == name)
    row = conn.execute(select(*_COLUMNS).where(*mine)).first()
    return None if row is None else _node(row)


def find(conn: Connection, connector: str, node_pool: str | None = None) -> list[Node]:
    """The nodes of every group whose jobs go to this connector, or to this pool of it;
    removed ones too.
    """
    query = (
        select(*_COLUMNS)
        .join_from(nodes, groups, nodes.c.group_id == groups.c.id)
        .where(groups.c.connector == connector)
        .order_by(nodes.c.id)
    )
    if node_pool is not None:
        query = query.where(groups.c.node_pool == node_pool)
    return [_node(row) for row in conn.execute(query)]


def change(conn: Connection, node_id: UUID, **values: object) -> None:
    """Change columns of a node."""
    conn.execute(update(nodes).where(nodes.c.id == node_id.bytes).values(values))


def count(
    conn: Connection,
    group_id: UUID,
    name: str,
    *,
    failures: int,
    from_zero: bool,
    last: str | None,
) -> None:
    """Add failed attempts to those in a row of a node, or start to count anew with them."""
    before = literal(0) if from_zero else nodes.c.failures
    values: dict[str, Any] = {"failures": before + failures}
    if last is not None:
        values["last_failure"] = last
    conn.execute(
        update(nodes).where(nodes.c.group_id == group_id.bytes, nodes.c.name == name).values(values)
    )


def failing(conn: Connection, failures: int) -> list[Node]:
    """Nodes with so many failures in a row that are not in quarantine yet."""
    query = select(*_COLUMNS).where(
        nodes.c.failures >= failures,
        nodes.c.quarantined_at.is_(None),
        nodes.c.removed_at.is_(None),
    )
    return [_node(row) for row in conn.execute(query)]


def quarantined(conn: Connection, before: float) -> list[Node]:
    """Nodes that came into quarantine before a time, and are in it."""
    query = select(*_COLUMNS).where(nodes.c.quarantined_at < before, nodes.c.removed_at.is_(None))
    return [_node(row) for row in conn.execute(query)]


def _node(row: Sequence[Any]) -> Node:
    values = dict(zip(Node.__struct_fields__, row, strict=True))
    values["id"] = UUID(bytes=values["id"])
    values["group_id"] = UUID(bytes=values["group_id"])
    values["facts"] = _decode_facts(values["facts"])
    if values["selftest_ok"] is not None:
        values["selftest_ok"] = bool(values["selftest_ok"])
    return Node(**values)
