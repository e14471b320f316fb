"""Who is asking, and what may they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from bridge.db import identity
from bridge.db.engine import Connection, Database
from bridge.errors import Forbidden, Unauthenticated
from bridge.models.identity import Caller, Group, Role, User
from bridge.models.secret import SecretKind, digest, kind_of, same

# Writing "last used" on every request would make every read a write.
_LAST_USED_EVERY_S = 60.0


class Access:
    """Turns what a caller shows into a Caller. Revocation works at once: nothing is cached."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._uses: dict[UUID, float] = {}  # not stored yet

    def by_secret(self, secret: str) -> Caller:
        """The member behind an API secret.

        The look-up is by SHA-256, so its duration tells nothing of the secret.
        Raises Unauthenticated, with the same words for unknown and revoked.
        """
        if kind_of(secret) is SecretKind.COMPUTE:
            raise Unauthenticated(
                "This is a compute secret, which only adds nodes.", "Use your API secret."
            )
        found = self._db.look_up(lambda conn: identity.user_by_hash(conn, digest(secret)))
        if found is None or found[0].revoked_at is not None:
            raise Unauthenticated(
                "This API secret is not known, or was revoked.",
                "Ask an admin of your group for a new one.",
            )
        user, group = found
        self._note_use(user)
        role = Role.ADMIN if user.admin else Role.MEMBER
        return Caller(group=group, role=role, user=user)

    def by_group_token(self, token: str) -> Caller:
        """A reader of a group's activity. Raises Unauthenticated."""
        group = self._db.read(lambda conn: identity.group_by_token(conn, token))
        if group is None:
            raise Unauthenticated("This group token is not known.", "Ask an admin of your group.")
        return Caller(group=group, role=Role.READER, user=None)

    def by_compute_secret(self, token: str, secret: str) -> Group:
        """The group that a node belongs to, by group token and compute secret.

        Raises Unauthenticated, with the same words whichever of the two is wrong.
        """
        if kind_of(secret) is SecretKind.API:
            raise Unauthenticated(
                "This is an API secret; a node shows the compute secret of its group.",
                "Use the node.conf of the group's bundle as it is.",
            )

        def read(conn: Connection) -> tuple[Group | None, bytes | None]:
            group = identity.group_by_token(conn, token)
            return group, None if group is None else identity.compute_hash(conn, group.id)

        group, stored = self._db.read(read)
        if group is None or stored is None or not same(secret, stored):
            raise not_the_compute_secret()
        return group

    def store_uses(self) -> None:
        """Store when members last used their secrets. Raises Unavailable; call it again then."""
        uses = self._uses.copy()

        def write(conn: Connection) -> None:
            for user_id, at in uses.items():
                identity.touch_last_used(conn, user_id, at)

        if uses:
            self._db.write(write)
        for user_id in uses:
            del self._uses[user_id]

    def _note_use(self, user: User) -> None:
        """Only noted: whoever reads shall not wait for those who write."""
        now = self._clock()
        before = self._uses.get(user.id, user.last_used_at)
        if before is None or now - before >= _LAST_USED_EVERY_S:
            self._uses[user.id] = now


def not_the_compute_secret() -> Unauthenticated:
    """A node has no, or no longer, the secret of its group."""
    return Unauthenticated(
        "The compute secret is not, or no longer, that of the group.",
        "Ask an admin of your group for a new bundle (nomad-bridge nodes bundle).",
    )


def require_user(caller: Caller) -> User:
    """The user behind a caller. Raises Forbidden for a group token, which only reads."""
    if caller.user is None:
        raise Forbidden("A group token only reads.", "Use your API secret.")
    return caller.user


def require_admin(caller: Caller) -> User:
    """The admin behind a caller. Raises Forbidden."""
    user = require_user(caller)
    if caller.role is not Role.ADMIN:
        raise Forbidden("Only an admin of the group may do this.", "Ask one of your admins.")
    return user
