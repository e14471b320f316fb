"""What members do with a set of jobs as one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final
from uuid import UUID

from bridge import points
from bridge.core.access import require_user
from bridge.db import audit
from bridge.db import sets as sets_db
from bridge.db.engine import Connection, Database
from bridge.db.sets import JobSet
from bridge.errors import NotFound
from bridge.models.identity import Caller, Role
from bridge.models.job_set import SetSummary
from bridge.points import Point

# Jobs changed by one statement: some milliseconds in which nobody else writes.
_CHUNK: Final = 5000

_Change = Callable[..., int]


class Sets:
    """The rules of sets. A member steers the own jobs in a set, an admin all."""

    def __init__(
        self,
        db: Database,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._wake = wake
        self._clock = clock

    def find(self, caller: Caller) -> list[SetSummary]:
        """The caller's sets; for an admin, the group's. Raises Forbidden."""
        group, user = caller.group.id, self._only(caller)
        return self._db.read(lambda conn: sets_db.summaries(conn, group, user))

    def get(self, caller: Caller, name: str) -> SetSummary:
        """One set. Raises NotFound, Forbidden."""
        group, user = caller.group.id, self._only(caller)
        found = self._db.read(lambda conn: sets_db.summaries(conn, group, user, name))
        if not found:
            raise NotFound(
                f"There is no set {name!r} with jobs of yours.", "List yours: nomad-bridge sets."
            )
        return found[0]

    def cancel(self, caller: Caller, name: str) -> int:
        """Cancel what waits at once, ask the rest to stop; how many jobs that were.

        Raises NotFound, Forbidden.
        """
        now = self._clock()
        waiting = partial(sets_db.cancel_waiting, now=now)
        handed_over = partial(sets_db.cancel_handed_over, now=now)
        # What was asked to stop never waits again. So the second pass finds what went back
        # to the queue before it was asked, and the third what was claimed before the second.
        passes = (handed_over, waiting, handed_over)
        return sum(self._steer(caller, name, "cancel", change) for change in passes)

    def hold(self, caller: Caller, name: str) -> int:
        """Keep what waits from starting; how many jobs. Raises NotFound, Forbidden."""
        return self._steer(caller, name, "hold", partial(sets_db.set_hold, hold=True))

    def release(self, caller: Caller, name: str) -> int:
        """Let held jobs start; how many. Raises NotFound, Forbidden."""
        return self._steer(caller, name, "release", partial(sets_db.set_hold, hold=False))

    def retry(self, caller: Caller, name: str) -> int:
        """Try failed jobs again; how many. Raises NotFound, Forbidden."""
        return self._steer(caller, name, "retry", sets_db.retry_failed)

    def prune(self, caller: Caller, name: str) -> int:
        """Give the data of ended jobs up; how many. The caller deletes the buckets and
        confirms each. Raises NotFound, Forbidden.
        """
        return self._steer(caller, name, "prune", partial(sets_db.prune, now=self._clock()))

    def _steer(self, caller: Caller, name: str, verb: str, change: _Change) -> int:
        self.get(caller, name)
        user = require_user(caller)
        which = JobSet(caller.group.id, name, self._only(caller))
        total = 0
        while True:
            changed = self._db.write(lambda conn: change(conn, which, limit=_CHUNK))
            points.reach(Point.SET_CHUNK_COMMITTED)
            total += changed
            if changed < _CHUNK:
                break
        if total:
            self._db.write(lambda conn: self._audit(conn, caller, user.name, verb, name, total))
            self._wake()
        return total

    def _audit(
        self, conn: Connection, caller: Caller, actor: str, verb: str, name: str, total: int
    ) -> None:
        audit.record(
            conn,
            group_id=caller.group.id,
            actor=actor,
            action=f"set.{verb}",
            target=name,
            detail=f"{total} jobs",
            now=self._clock(),
        )

    def _only(self, caller: Caller) -> UUID | None:
        user = require_user(caller)
        return None if caller.role is Role.ADMIN else user.id
