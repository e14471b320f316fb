"""Groups, their members and their secrets."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from bridge import points
from bridge.core.access import require_admin
from bridge.db import audit, identity
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, Forbidden, InvalidRequest, NotFound
from bridge.models.identity import Caller, Group, User
from bridge.models.secret import (
    SecretKind,
    digest,
    new_generation,
    new_group_token,
    new_secret,
    same,
)
from bridge.points import Point

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_OPERATOR: Final = "operator"


def default_place(group: str) -> str:
    """The namespace and the node pool of a group that was given no others.

    Raises InvalidRequest for what can be no group's name.
    """
    _check_name("group", group)
    return f"g-{group.lower().replace('.', '-').replace('_', '-')}"


class Groups:
    """The rules of membership. A new secret is returned once and kept as a hash."""

    def __init__(
        self, db: Database, clock: Callable[[], float] = time.time, *, overlap_s: float = 0
    ) -> None:
        self._db = db
        self._clock = clock
        self._overlap_s = overlap_s  # of a rotation that does not say otherwise

    def add_group(
        self,
        name: str,
        admin: str,
        *,
        connector: str,
        namespace: str | None = None,
        node_pool: str | None = None,
    ) -> tuple[Group, str]:
        """A new group with its first admin, whose secret is returned (operator, on the host).

        Namespace and node pool are ``g-<group>`` unless given.
        Raises InvalidRequest, Conflict.
        """
        _check_name("group", name)
        _check_name("user", admin)
        secret = new_secret(SecretKind.API)
        default = default_place(name)

        def write(conn: Connection) -> Group:
            if identity.group_by_name(conn, name) is not None:
                raise Conflict(f"A group {name!r} exists already.", "Choose another name.")
            now = self._clock()
            group = identity.add_group(
                conn,
                name=name,
                token=new_group_token(),
                connector=connector,
                namespace=namespace or default,
                node_pool=node_pool or default,
                now=now,
            )
            identity.add_user(
                conn, group_id=group.id, name=admin, admin=True, secret_hash=digest(secret), now=now
            )
            self._audit(conn, group, _OPERATOR, "group.add", name)
            return group

        return self._db.write(write), secret

    def list_groups(self) -> list[Group]:
        """All groups (operator, on the host)."""
        return self._db.read(identity.list_groups)

    def move_group(self, name: str, connector: str) -> Group:
        """Hand a group's waiting jobs over to another connector from now on (operator, on the
        host). What was claimed for the old one stays there, and as long as it waits there, it
        takes up the group's reserve. Repeating is fine. Raises NotFound.
        """

        def write(conn: Connection) -> Group:
            group = _named(conn, name)
            identity.lock_group(conn, group.id)
            if group.connector != connector:
                identity.set_connector(conn, group.id, connector)
                self._audit(conn, group, _OPERATOR, "group.move", name, connector)
            return _named(conn, name)

        return self._db.write(write)

    def add_user(self, caller: Caller, name: str, admin: bool) -> str:
        """Add a member; returns the API secret, the only time it is shown.

        Raises Forbidden, InvalidRequest, Conflict (also for the name of a revoked
        user: names identify jobs and audit entries for good).
        """
        me = require_admin(caller)
        _check_name("user", name)
        secret = new_secret(SecretKind.API)

        def write(conn: Connection) -> None:
            _lock(conn, caller)
            old = identity.user_by_name(conn, caller.group.id, name)
            if old is not None:
                which = "revoked user" if old.revoked_at is not None else "user"
                raise Conflict(
                    f"There is already a {which} {name!r} in the group.", "Choose another name."
                )
            identity.add_user(
                conn,
                group_id=caller.group.id,
                name=name,
                admin=admin,
                secret_hash=digest(secret),
                now=self._clock(),
            )
            self._audit(conn, caller.group, me.name, "user.add", name, "admin" if admin else None)

        self._db.write(write)
        return secret

    def list_users(self, caller: Caller) -> list[User]:
        """All members, revoked ones too. Raises Forbidden."""
        require_admin(caller)
        return self._db.read(lambda conn: identity.list_users(conn, caller.group.id))

    def revoke(self, caller: Caller, name: str) -> User:
        """End a member's access at once; jobs and data stay, queued jobs go on.

        Repeating is fine. Raises Forbidden, NotFound, Conflict (the last admin).
        """
        me = require_admin(caller)

        def write(conn: Connection) -> User:
            _lock(conn, caller)
            user = self._user(conn, caller.group, name)
            if user.revoked_at is None:
                self._keep_an_admin(conn, caller.group, user)
                identity.revoke(conn, user.id, self._clock())
                self._audit(conn, caller.group, me.name, "user.revoke", name)
            return self._user(conn, caller.group, name)

        return self._db.write(write)

    def set_admin(self, caller: Caller, name: str, admin: bool) -> User:
        """Make a member an admin, or no longer one.

        Raises Forbidden, NotFound, Conflict (the last admin, or revoked).
        """
        me = require_admin(caller)

        def write(conn: Connection) -> User:
            _lock(conn, caller)
            user = _not_revoked(self._user(conn, caller.group, name))
            if user.admin and not admin:
                self._keep_an_admin(conn, caller.group, user)
            identity.set_admin(conn, user.id, admin)
            self._audit(conn, caller.group, me.name, "user.admin", name, str(admin).lower())
            return self._user(conn, caller.group, name)

        return self._db.write(write)

    def rotate_compute_secret(self, caller: Caller, overlap_s: float | None = None) -> str:
        """Set or replace the group's compute secret; the old one lets nobody in any more.

        Nodes that are in go on for ``overlap_s`` seconds (None: as configured), within which
        they enrol with the new secret; then, with 0 at once, they are given no more jobs.
        Raises Forbidden.
        """
        me = require_admin(caller)
        secret = new_secret(SecretKind.COMPUTE)
        overlap = self._overlap_s if overlap_s is None else overlap_s

        def write(conn: Connection) -> None:
            _lock(conn, caller)
            # As it is now: a first node may have enrolled since the caller was looked up.
            group = identity.group_by_id(conn, caller.group.id)
            assert group is not None
            enrolled = group.generation is not None
            identity.set_compute_secret(
                conn,
                group.id,
                digest(secret),
                new_generation() if enrolled else None,
                previous=group.generation if overlap else None,
                previous_until=self._clock() + overlap if enrolled and overlap else None,
            )
            points.reach(Point.ROTATE_BEFORE_COMMIT)
            detail = f"overlap {overlap:.0f} s" if enrolled else None
            self._audit(conn, group, me.name, "compute-secret.rotate", group.name, detail)

        self._db.write(write)
        return secret

    def is_compute_secret(self, caller: Caller, secret: str) -> bool:
        """Whether this is the group's compute secret. Raises Forbidden."""
        require_admin(caller)
        stored = self._db.read(lambda conn: identity.compute_hash(conn, caller.group.id))
        return stored is not None and same(secret, stored)

    def require_limits(self, caller: Caller, required: bool) -> None:
        """Whether jobs of the group run only on nodes that enforce limits of memory and
        cores. Raises Forbidden.
        """
        me = require_admin(caller)

        def write(conn: Connection) -> None:
            _lock(conn, caller)
            identity.set_requires_limits(conn, caller.group.id, required)
            word = str(required).lower()
            self._audit(conn, caller.group, me.name, "group.require-limits", "limits", word)

        self._db.write(write)

    def reset_secret(self, group_name: str, user_name: str) -> str:
        """A new secret for a member who lost the old one (operator, on the host).

        Raises NotFound, Conflict (revoked).
        """
        secret = new_secret(SecretKind.API)

        def write(conn: Connection) -> None:
            group = _named(conn, group_name)
            identity.lock_group(conn, group.id)
            user = _not_revoked(self._user(conn, group, user_name))
            identity.set_secret(conn, user.id, digest(secret))
            self._audit(conn, group, _OPERATOR, "user.reset-secret", user_name)

        self._db.write(write)
        return secret

    def _user(self, conn: Connection, group: Group, name: str) -> User:
        user = identity.user_by_name(conn, group.id, name)
        if user is None:
            raise NotFound(f"There is no user {name!r} in the group.", "nomad-bridge users list")
        return user

    def _keep_an_admin(self, conn: Connection, group: Group, user: User) -> None:
        if user.admin and identity.count_admins(conn, group.id) <= 1:
            raise Conflict(
                f"{user.name!r} is the last admin of the group.", "Add another admin first."
            )

    def _audit(
        self,
        conn: Connection,
        group: Group,
        actor: str,
        action: str,
        target: str,
        detail: str | None = None,
    ) -> None:
        audit.record(
            conn,
            group_id=group.id,
            actor=actor,
            action=action,
            target=target,
            detail=detail,
            now=self._clock(),
        )


def _lock(conn: Connection, caller: Caller) -> None:
    """Let admins change the group one after the other. Raises Forbidden for one who was
    revoked or demoted while the call waited.
    """
    identity.lock_group(conn, caller.group.id)
    me = identity.user_by_name(conn, caller.group.id, require_admin(caller).name)
    if me is None or me.revoked_at is not None or not me.admin:
        raise Forbidden("You are no longer an admin of the group.", "Ask one of your admins.")


def _named(conn: Connection, name: str) -> Group:
    group = identity.group_by_name(conn, name)
    if group is None:
        raise NotFound(f"There is no group {name!r}.", "nomad-bridge groups list")
    return group


def _not_revoked(user: User) -> User:
    if user.revoked_at is not None:
        raise Conflict(f"{user.name!r} was revoked.", "Add a user of another name.")
    return user


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r} is no {what} name.",
            "Use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit.",
        )
