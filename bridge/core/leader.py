"""Of several processes on one database one works the queue: the leader, by a lease.

Every write of its loops checks the lease in the same transaction. A process that
was paused for longer than its lease finds at its next write that another leads,
and has written nothing since. Before a scheduler is called it is looked that the call
still is to be made, which leaves the moment between the two; what is created then is
created once, under a name of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from bridge import log
from bridge.db import leases
from bridge.db.engine import Connection, Transactions
from bridge.errors import DatabaseReplaced, LeaseLost, Unavailable

_log = log.get(__name__)

T = TypeVar("T")

LEASE: Final = "loops"


class Leader:
    """Takes, renews and gives back the lease; ``step`` is to be called several times
    within ``lease_s`` seconds.

    ``holder`` names this process and no other. ``has_ended`` says whether the
    process of a name is known to have ended: then its lease is not waited for.
    ``is_same`` says whether the database is the one this process started with, and not a
    backup that was put in its place: what we know of another one is worth nothing.
    """

    def __init__(
        self,
        db: Transactions,
        *,
        holder: str,
        lease_s: float,
        has_ended: Callable[[str], bool] = lambda _: False,
        is_same: Callable[[Connection], bool] = lambda _: True,
    ) -> None:
        self._db = db
        self._holder = holder
        self._lease_s = lease_s
        self._has_ended = has_ended
        self._is_same = is_same
        self._lock = threading.Lock()
        self._held: leases.Held | None = None
        self._passes = 0
        self._told: tuple[leases.Held, str] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process held the lease when it last looked."""
        return self._held is not None

    def step(self) -> bool:
        """Renew the lease, or take it if it is free; True when it was taken just now.

        Raises Unavailable; DatabaseReplaced, and then the lease is not ours any more.
        """
        held = self._held
        if held is not None:
            if not self._db.write(lambda conn: self._renew(conn, held)):
                self._lose(held)
            return False
        # A pass begun under an older lease must not go on under a new one.
        return self._passes == 0 and self._take()

    def _renew(self, conn: Connection, held: leases.Held) -> bool:
        self._refuse_another(conn)
        return leases.renew(conn, held)

    def _refuse_another(self, conn: Connection) -> None:
        if not self._is_same(conn):
            self._held = None
            raise DatabaseReplaced(
                "The database was put back to a backup, or replaced, while this process ran.",
                "Start it again: what it remembers is of the database before.",
            )

    def _take(self) -> bool:
        def read(conn: Connection) -> tuple[str, bool] | None:
            self._refuse_another(conn)
            return leases.holder_of(conn, LEASE, lasts_s=self._lease_s)

        found = self._db.read(read)
        dead = found[0] if found and not found[1] and self._has_ended(found[0]) else None
        if found and not found[1] and dead is None:
            return False

        def write(conn: Connection) -> leases.Held | None:
            self._refuse_another(conn)
            return leases.take(conn, LEASE, holder=self._holder, lasts_s=self._lease_s, dead=dead)

        self._held = self._db.write(write)
        if self._held is None:
            return False
        _log.info("action=lead fence=%d", self._held.fence)
        return True

    def release(self) -> None:
        """Let another process lead at once. Raises nothing."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            self._db.write(lambda conn: leases.release(conn, held))
        except Unavailable as exc:
            # Then it runs out.
            _log.warning("action=release-lease fault=%s", exc.message)

    def tell(self, words: str) -> None:
        """Let all processes know, if this one leads; stored only when it is news.

        Raises Unavailable.
        """
        held = self._held
        if held is None:
            return
        before = self._told[1] if self._told and self._told[0] == held else ""
        if words == before:
            return
        if self._db.write(lambda conn: leases.tell(conn, held, words), lasting=False):
            self._told = (held, words)
        else:
            self._lose(held)

    def told(self) -> str | None:
        """What the leader told last, whichever process it is, or nothing; None while none
        leads. Raises Unavailable.
        """
        return self._db.look_up(lambda conn: leases.told(conn, LEASE, lasts_s=self._lease_s))

    def while_leading(self, act: Callable[[], object]) -> Callable[[], None]:
        """``act``, done only by the leader, and given up when another took over."""

        def guarded() -> None:
            with self._lock:
                if self._held is None:
                    return
                self._passes += 1
            try:
                act()
            except LeaseLost as exc:
                _log.warning("action=give-up reason=%s", exc.message)
            finally:
                with self._lock:
                    self._passes -= 1

        return guarded

    def check(self, conn: Connection) -> None:
        """To be the first in every transaction of a loop. Raises LeaseLost."""
        held = self._held
        if held is None:
            raise LeaseLost
        if not leases.holds(conn, held):
            self._lose(held)
            raise LeaseLost

    def _lose(self, held: leases.Held) -> None:
        if self._held is held:
            self._held = None
            _log.warning("action=follow lost_fence=%d", held.fence)


class Fenced:
    """The database as the leader's loops see it: without the lease nothing is written."""

    def __init__(self, db: Transactions, leader: Leader) -> None:
        self._db = db
        self._leader = leader

    def read(self, fn: Callable[[Connection], T]) -> T:
        """As ``Database.read``."""
        return self._db.read(fn)

    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """As ``Database.look_up``."""
        return self._db.look_up(fn)

    def write(self, fn: Callable[[Connection], T], *, lasting: bool = True) -> T:
        """As ``Database.write``. Raises LeaseLost."""

        def fenced(conn: Connection) -> T:
            self._leader.check(conn)
            return fn(conn)

        return self._db.write(fenced, lasting=lasting)
