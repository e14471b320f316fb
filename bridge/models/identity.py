"""Groups, users, and who is asking."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group and where its jobs go. ``token`` reads only and names the code bucket."""

    id: UUID
    name: str
    token: str
    connector: str
    namespace: str
    node_pool: str
    generation: str | None
    has_compute_secret: bool
    created_at: float

    @property
    def code_bucket(self) -> str:
        """The bucket that holds the group's images."""
        return f"code-{self.token}"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A member of a group. The secret itself is never kept."""

    id: UUID
    group_id: UUID
    name: str
    admin: bool
    created_at: float
    revoked_at: float | None
    last_used_at: float | None


class Role(StrEnum):
    """What a caller may do."""

    READER = "reader"  # group token: the group's activity
    MEMBER = "member"  # API secret of a regular user
    ADMIN = "admin"  # API secret of an admin


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking: a group and, unless only a reader, a user."""

    group: Group
    role: Role
    user: User | None
