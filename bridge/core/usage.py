"""What members may see of what was used."""

from __future__ import annotations

from bridge.core.access import require_admin, require_user
from bridge.db import usage
from bridge.db.engine import Database
from bridge.models.identity import Caller, Role
from bridge.models.usage import GroupMonth, Month


class Usage:
    """Core-seconds by user and month."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def by_month(self, caller: Caller) -> list[Month]:
        """The caller's own; for an admin, of the whole group. Raises Forbidden."""
        me = require_user(caller)
        found = self._db.read(lambda conn: usage.by_month(conn, caller.group.id))
        if caller.role is Role.ADMIN:
            return found
        return [month for month in found if month.user == me.name]

    def of_group(self, caller: Caller) -> list[GroupMonth]:
        """What the whole group used (admins). Raises Forbidden."""
        require_admin(caller)
        return self._db.read(lambda conn: usage.of_group(conn, caller.group.id))
