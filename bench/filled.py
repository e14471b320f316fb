"""A database as full as promised: one group, its users, and their jobs, which all wait."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import Connection, delete, func, select, text, update

from bridge.db import identity, intake
from bridge.db import tables as t
from bridge.db.engine import Database
from bridge.models.identity import Group
from bridge.models.job import JobState, NewJob
from bridge.models.secret import SecretKind, digest, new_group_token

USERS = 100
ADMIN = USERS  # the number of the one who is an admin, and has no jobs
_GROUP = "deep"
_ARRAY = 1000  # jobs that one user hands in at once
_ARRAYS = 10  # in one commit
_PRIORITIES = (50, 50, 50, 80, 20)


class Stored(NamedTuple):
    """A job, and the number of its user."""

    id: UUID
    user: int


def secret(user: int) -> str:
    """The API secret of a user, known from the number: a kept database stays of use."""
    return f"{SecretKind.API}_{user:032d}"


def user_name(user: int) -> str:
    """The name of a user."""
    return f"user-{user}"


def set_name(user: int) -> str:
    """The set that all jobs of a user are in."""
    return f"set-{user}"


def fill(db: Database, count: int) -> Group:
    """Make the group and its users if need be, and let ``count`` jobs wait at least."""
    group = db.read(lambda conn: identity.group_by_name(conn, _GROUP)) or db.write(_people)
    lacking = count - db.read(lambda conn: _waiting(conn, group))
    known = db.read(lambda conn: identity.list_users(conn, group.id))
    users = {user.name: user.id for user in known}
    arrays = itertools.islice(_arrays(), max(0, -(-lacking // _ARRAY)))
    while some := list(itertools.islice(arrays, _ARRAYS)):
        db.write(lambda conn, some=some: _store(conn, group, users, some))  # type: ignore[misc]
    if db.dialect == "postgresql":  # what autovacuum does sooner or later
        db.look_up(lambda conn: conn.execute(text("VACUUM ANALYZE")))
    return group


def use_connector(db: Database, group: Group, name: str) -> None:
    """From now on the group's jobs go to this connector."""
    statement = update(t.groups).where(t.groups.c.id == group.id.bytes).values(connector=name)
    db.write(lambda conn: conn.execute(statement))


def put_back(db: Database, connector: str) -> None:
    """Jobs that were handed to ``connector`` wait again, as if they never had been."""
    handed_over = select(t.attempts.c.job_id).where(t.attempts.c.connector == connector)

    def write(conn: Connection) -> None:
        conn.execute(
            update(t.jobs)
            .where(t.jobs.c.id.in_(handed_over))
            .values(state=JobState.RECEIVED.value, attempt=0)
        )
        conn.execute(delete(t.attempts).where(t.attempts.c.connector == connector))

    db.write(write)


def sample(db: Database, group: Group, count: int) -> list[Stored]:
    """Jobs from everywhere in the queue, in no order."""
    mine = t.jobs.c.group_id == group.id.bytes
    state = t.jobs.c.state == JobState.RECEIVED.value  # the index, and all but a few
    rows = select(t.jobs.c.id, t.users.c.name).join_from(t.jobs, t.users).where(mine, state)

    def read(conn: Connection) -> list[Stored]:
        edges = [
            int.from_bytes(conn.execute(rows.order_by(order).limit(1)).one()[0])
            for order in (t.jobs.c.id, t.jobs.c.id.desc())
        ]
        found = []
        for _ in range(count):
            at = random.randint(*edges).to_bytes(16)
            row = conn.execute(rows.where(t.jobs.c.id >= at).order_by(t.jobs.c.id).limit(1)).one()
            found.append(Stored(UUID(bytes=row[0]), int(row[1].removeprefix("user-"))))
        return found

    return db.read(read)


def _people(conn: Connection) -> Group:
    now = time.time()
    group = identity.add_group(
        conn,
        name=_GROUP,
        token=new_group_token(),
        connector="local",
        namespace="deep",
        node_pool="deep",
        now=now,
    )
    for user in range(USERS + 1):
        identity.add_user(
            conn,
            group_id=group.id,
            name=user_name(user),
            admin=user == ADMIN,
            secret_hash=digest(secret(user)),
            now=now,
        )
    ready = update(t.groups).where(t.groups.c.id == group.id.bytes)
    conn.execute(ready.values(compute_hash=digest("no node ever shows it")))
    return group


def _waiting(conn: Connection, group: Group) -> int:
    count = select(func.count()).where(t.jobs.c.group_id == group.id.bytes, t.is_waiting)
    return int(conn.execute(count).scalar_one())


def _arrays() -> Iterator[tuple[int, list[NewJob]]]:
    """The users in turns, each with an array of jobs of some priority."""
    for number in itertools.count():
        user = number % USERS
        fields: dict[str, Any] = {"name": f"array-{number}", "set": set_name(user)}
        fields["priority"] = _PRIORITIES[number // USERS % len(_PRIORITIES)]
        yield (
            user,
            [NewJob(bucket_id=uuid4(), image="psi4:1.5", **fields) for _ in range(_ARRAY)],
        )


def _store(
    conn: Connection, group: Group, users: dict[str, UUID], arrays: list[tuple[int, list[NewJob]]]
) -> None:
    for user, new in arrays:
        user_id = users[user_name(user)]
        intake.insert_many(conn, group_id=group.id, user_id=user_id, jobs=new, now=time.time())
