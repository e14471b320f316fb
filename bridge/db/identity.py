"""Groups and users. Rules (who may, the last admin) are the core's; names are checked there."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection, Update, bindparam, func, select, update

from bridge.db.shapes import Shape
from bridge.db.statements import Prepared, insert_new
from bridge.db.tables import groups, users
from bridge.errors import Conflict
from bridge.models.identity import Group, User
from bridge.models.ids import new_id

_GROUP: Final = Shape(
    Group,
    {name: groups.c[name] for name in Group.__struct_fields__ if name in groups.c}
    | {"has_compute_secret": groups.c.compute_hash.is_not(None)},
)
_USER: Final = Shape(User, {name: users.c[name] for name in User.__struct_fields__})
# Owns the self-tests of a group's nodes. No member can have this name, and nobody its secret.
_NOBODY: Final = ".selftest"
is_member: Final = users.c.name != _NOBODY
_BY_ID: Final = Prepared(select(*_GROUP.columns).where(groups.c.id == bindparam("id")))
_BY_TOKEN: Final = Prepared(select(*_GROUP.columns).where(groups.c.token == bindparam("token")))
_BY_NAME: Final = Prepared(select(*_GROUP.columns).where(groups.c.name == bindparam("name")))
_BY_HASH: Final = Prepared(
    select(*_USER.columns, *_GROUP.columns)
    .join_from(users, groups, users.c.group_id == groups.c.id)
    .where(users.c.secret_hash == bindparam("digest"))
)


def add_group(
    conn: Connection,
    *,
    name: str,
    token: str,
    connector: str,
    namespace: str,
    node_pool: str,
    now: float,
) -> Group:
    """A new group, without a compute secret. Raises Conflict when the name is taken."""
    group = Group(
        id=new_id(),
        name=name,
        token=token,
        connector=connector,
        namespace=namespace,
        node_pool=node_pool,
        generation=None,
        has_compute_secret=False,
        created_at=now,
    )
    if not insert_new(
        conn,
        groups,
        id=group.id.bytes,
        name=name,
        token=token,
        connector=connector,
        namespace=namespace,
        node_pool=node_pool,
        created_at=now,
    ):
        raise Conflict(f"There is a group {name} already.", "Choose another name.")
    return group


def group_by_id(conn: Connection, group_id: UUID) -> Group | None:
    """The group with this id."""
    return _one_group(_BY_ID.first(conn, id=group_id.bytes))


def group_by_token(conn: Connection, token: str) -> Group | None:
    """The group with this token."""
    return _one_group(_BY_TOKEN.first(conn, token=token))


def group_by_name(conn: Connection, name: str) -> Group | None:
    """The group with this name."""
    return _one_group(_BY_NAME.first(conn, name=name))


def _one_group(row: Sequence[Any] | None) -> Group | None:
    return None if row is None else _GROUP.make(row)


def list_groups(conn: Connection) -> list[Group]:
    """All groups, by name."""
    return [
        _GROUP.make(row) for row in conn.execute(select(*_GROUP.columns).order_by(groups.c.name))
    ]


def lock_group(conn: Connection, group_id: UUID) -> None:
    """Until this transaction ends, other calls for the same group wait; what refers to the
    group, a new job for example, does not.

    SQLite needs no lock: it has a single writer.
    """
    query = select(groups.c.id).where(groups.c.id == group_id.bytes)
    conn.execute(query.with_for_update(key_share=True))


def set_compute_secret(
    conn: Connection,
    group_id: UUID,
    secret_hash: bytes | None,
    generation: str | None,
    *,
    previous: str | None = None,
    previous_until: float | None = None,
) -> None:
    """Replace a group's compute secret (None: nobody may add nodes) and its generation.
    Nodes of the ``previous`` one take jobs until a time (Unix seconds).
    """
    _change_group(
        conn,
        group_id,
        compute_hash=secret_hash,
        generation=generation,
        previous_generation=previous,
        previous_until=previous_until,
    )


def set_generation(conn: Connection, group_id: UUID, generation: str) -> None:
    """The first generation of a group: its first node enrols."""
    _change_group(conn, group_id, generation=generation)


def set_requires_limits(conn: Connection, group_id: UUID, required: bool) -> None:
    """Whether a group's jobs run only on nodes that enforce limits of memory and cores."""
    _change_group(conn, group_id, requires_limits=required)


def set_connector(conn: Connection, group_id: UUID, connector: str) -> None:
    """Which connector a group's jobs are handed over to from now on."""
    _change_group(conn, group_id, connector=connector)


def _change_group(conn: Connection, group_id: UUID, **values: object) -> None:
    conn.execute(update(groups).where(groups.c.id == group_id.bytes).values(values))


def compute_hash(conn: Connection, group_id: UUID) -> bytes | None:
    """SHA-256 of a group's compute secret, None before the first one."""
    return conn.execute(
        select(groups.c.compute_hash).where(groups.c.id == group_id.bytes)
    ).scalar_one_or_none()


def add_user(
    conn: Connection, *, group_id: UUID, name: str, admin: bool, secret_hash: bytes, now: float
) -> User:
    """A new member. Raises Conflict when the name is taken, also by a revoked member."""
    user = User(
        id=new_id(),
        group_id=group_id,
        name=name,
        admin=admin,
        created_at=now,
        revoked_at=None,
        last_used_at=None,
    )
    if not insert_new(
        conn,
        users,
        id=user.id.bytes,
        group_id=group_id.bytes,
        name=name,
        admin=admin,
        secret_hash=secret_hash,
        created_at=now,
    ):
        raise Conflict(
            f"There is a user {name} in this group already.",
            "Choose another name; names of revoked users are not used again.",
        )
    return user


def user_by_hash(conn: Connection, digest: bytes) -> tuple[User, Group] | None:
    """The member (live or revoked) behind the SHA-256 of an API secret, and the group."""
    row = _BY_HASH.first(conn, digest=digest)
    return None if row is None else (_USER.make(row), _GROUP.make(row[len(_USER.columns) :]))


def user_by_name(conn: Connection, group_id: UUID, name: str) -> User | None:
    """The member (live or revoked) with this name."""
    row = conn.execute(
        select(*_USER.columns).where(users.c.group_id == group_id.bytes, users.c.name == name)
    ).first()
    return None if row is None else _USER.make(row)


def list_users(conn: Connection, group_id: UUID) -> list[User]:
    """All members, live and revoked, by name."""
    members = select(*_USER.columns).where(users.c.group_id == group_id.bytes, is_member)
    query = members.order_by(users.c.name)
    return [_USER.make(row) for row in conn.execute(query)]


def owner_of_selftests(conn: Connection, group_id: UUID, now: float) -> UUID:
    """The id of the user whom a group's self-tests belong to: nobody, revoked from the start."""
    insert_new(
        conn,
        users,
        id=new_id().bytes,
        group_id=group_id.bytes,
        name=_NOBODY,
        admin=False,
        secret_hash=secrets.token_bytes(32),  # of no secret that anybody ever had
        created_at=now,
        revoked_at=now,
    )
    found = user_by_name(conn, group_id, _NOBODY)
    assert found is not None
    return found.id


def set_secret(conn: Connection, user_id: UUID, secret_hash: bytes) -> bool:
    """Replace a live member's API secret; False when revoked or unknown."""
    return _changed(conn, _live(user_id).values(secret_hash=secret_hash))


def revoke(conn: Connection, user_id: UUID, now: float) -> bool:
    """Make a member's secret worthless from now on; False when it already was."""
    return _changed(conn, _live(user_id).values(revoked_at=now))


def set_admin(conn: Connection, user_id: UUID, admin: bool) -> bool:
    """Promote or demote a live member; False when revoked or unknown."""
    return _changed(conn, _live(user_id).values(admin=admin))


def count_admins(conn: Connection, group_id: UUID) -> int:
    """How many live admins a group has; lock the group first to act on it."""
    return conn.execute(
        select(func.count())
        .select_from(users)
        .where(users.c.group_id == group_id.bytes, users.c.admin, users.c.revoked_at.is_(None))
    ).scalar_one()


def touch_last_used(conn: Connection, user_id: UUID, now: float) -> None:
    """Note that a member's secret was used."""
    conn.execute(update(users).where(users.c.id == user_id.bytes).values(last_used_at=now))


def _live(user_id: UUID) -> Update:
    return update(users).where(users.c.id == user_id.bytes, users.c.revoked_at.is_(None))


def _changed(conn: Connection, statement: Update) -> bool:
    return conn.execute(statement).rowcount == 1
