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
    previous_generation: str | None = None  # of nodes that still take jobs …
    previous_until: float | None = None  # … until then
    requires_limits: bool = False  # jobs run only where memory and cores are limited for real

    @property
    def code_bucket(self) -> str:
        """The bucket that holds the group's images."""
        return f"code-{self.token}"

    def generations(self, now: float) -> tuple[str, ...]:
        """Of the nodes that may run the group's jobs, the current one first; empty: any node."""
        if self.generation is None:
            return ()
        if self.previous_generation is None or now >= (self.previous_until or 0.0):
            return (self.generation,)
        return (self.generation, self.previous_generation)


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
