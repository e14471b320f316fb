"""A database with its schema, and people in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from bridge.db import identity, intake, queue
from bridge.db.engine import Connection, Database
from bridge.db.queue import Waiting
from bridge.models.identity import Group, User
from bridge.models.job import NewJob

NOW = 1_767_225_600.25


@dataclass
class Lab:
    """A group ``lab`` with admin ``root`` and user ``ada``, and shorthands to use it."""

    db: Database

    def __post_init__(self) -> None:
        self.group = self.add_group("lab")
        self.root = self.add_user("root", admin=True)
        self.ada = self.add_user("ada")

    def add_group(self, name: str) -> Group:
        return self.db.write(
            lambda conn: identity.add_group(
                conn,
                name=name,
                token=f"token-of-{name}",
                connector="local",
                namespace=f"g-{name}",
                node_pool=f"g-{name}",
                now=NOW,
            )
        )

    def add_user(self, name: str, *, admin: bool = False, group: Group | None = None) -> User:
        return self.db.write(
            lambda conn: identity.add_user(
                conn,
                group_id=(group or self.group).id,
                name=name,
                admin=admin,
                secret_hash=uuid4().bytes * 2,
                now=NOW,
            )
        )

    def insert(self, *new: NewJob, user: User | None = None) -> list[UUID | intake.Clash]:
        owner = user or self.ada
        return self.db.write(
            lambda conn: intake.insert_many(
                conn, group_id=owner.group_id, user_id=owner.id, jobs=new, now=NOW
            )
        )

    def add_job(self, user: User | None = None, **fields: object) -> UUID:
        [job_id] = self.insert(new_job(**fields), user=user)
        assert isinstance(job_id, UUID)
        return job_id


def new_job(**fields: object) -> NewJob:
    return NewJob(**({"bucket_id": uuid4(), "image": "psi4:1.5"} | fields))  # type: ignore[arg-type]


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def lab(db: Database) -> Lab:
    return Lab(db)


def waiting(conn: Connection, group_id: UUID) -> list[Waiting]:
    """All that may start, line by line."""
    return [
        job
        for level in queue.levels(conn, group_id, NOW)
        for line in level.lines
        for job in line.jobs
    ]
