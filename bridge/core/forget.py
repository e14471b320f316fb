"""Has schedulers forget what ended long enough ago."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

from bridge import points
from bridge.connectors.base import Connector
from bridge.core.patience import Act, Patience
from bridge.db import attempts
from bridge.db.engine import Transactions
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle
from bridge.points import Point

_BATCH: Final = 200
_LONGEST_S: Final = 25.0  # of one pass: less than until the next


class Forgetter:
    """One pass is ``forget``. What cannot be forgotten holds up nothing behind it."""

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        patience: Patience,
        after_s: float,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._patience = patience
        self._after_s = after_s
        self._clock = clock
        self._ticks = ticks

    def forget(self) -> int:
        """Whatever is due, as far as half a minute reaches; returns how many."""
        return sum(self._forget(connector) for connector in self._connectors.values())

    def _forget(self, connector: Connector) -> int:
        before, until = self._clock() - self._after_s, self._ticks() + _LONGEST_S
        count = left = 0
        while not self._patience.waits(connector.name, Act.FORGET) and self._ticks() < until:
            due = self._due(connector, before, skip=left)
            done = self._forget_some(connector, due)
            count += done
            left += len(due) - done
            if len(due) < _BATCH:
                break
        return count

    def _due(self, connector: Connector, before: float, skip: int) -> list[tuple[UUID, Handle]]:
        return self._db.read(
            lambda conn: attempts.to_forget(
                conn, connector.name, before=before, limit=_BATCH, skip=skip
            )
        )

    def _forget_some(self, connector: Connector, due: Sequence[tuple[UUID, Handle]]) -> int:
        done: list[UUID] = []
        try:
            for attempt_id, handle in due:
                if self._forget_one(connector, handle):
                    done.append(attempt_id)
        finally:
            if done:
                now = self._clock()
                self._db.write(lambda conn: attempts.record_forgotten(conn, done, now=now))
                points.reach(Point.FORGET_COMMITTED)
        return len(done)

    def _forget_one(self, connector: Connector, handle: Handle) -> bool:
        name, place, native_id = connector.name, handle.namespace, handle.native_id
        if self._patience.waits(name, Act.FORGET, place, native_id):
            return False
        points.reach(Point.FORGET_BEFORE_CALL)
        try:
            connector.forget(handle)
        except ConnectorUnavailable as away:
            self._patience.failed(name, Act.FORGET, away, place, native_id)
            return False
        self._patience.worked(name, Act.FORGET, place)
        points.reach(Point.FORGET_CALLED)
        return True
