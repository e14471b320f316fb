"""Puts jobs that ended long ago out of the way of the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bridge import log
from bridge.db import archive
from bridge.db.engine import Transactions

_log = log.get(__name__)

_CHUNK: Final = 500  # jobs in one transaction, so that nobody waits long for it


class Archiver:
    """One pass is ``step``. ``retention_s``: seconds a job stays after its end; 0: for ever."""

    def __init__(
        self,
        db: Transactions,
        *,
        retention_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._retention_s = retention_s
        self._clock = clock

    def step(self) -> int:
        """Archive everything that is due; returns how many jobs."""
        if not self._retention_s:
            return 0
        before = self._clock() - self._retention_s
        total, count = 0, _CHUNK
        while count == _CHUNK:
            count = self._db.write(lambda conn: archive.put_away(conn, before=before, limit=_CHUNK))
            total += count
        if total:
            _log.info("action=archive jobs=%d", total)
        return total
