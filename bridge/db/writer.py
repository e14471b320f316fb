"""Writing to a SQLite database: one at a time, many changes in one commit.

A durable commit costs one flush of the disk, however much is in it. While one
commit is under way further changes wait; the next commit takes all of them.
The commit is made by the thread whose change waits longest, not by one of its
own: to wake another thread and to wait for it costs more than a small change.
A change that fails is taken back alone; the others in its commit may run twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine

from bridge import turns
from bridge.db import statements
from bridge.db.faults import translate
from bridge.errors import Unavailable

T = TypeVar("T")

MAX_BATCH: Final = 64  # changes in one commit, so that the first of them waits no longer


class _Change:
    """One caller's function and what became of it."""

    def __init__(self, fn: Callable[[Connection], Any], lasting: bool) -> None:
        self.fn = fn
        self.lasting = lasting
        self.thread = threading.get_ident()
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = False
        self.pause = turns.pause()  # until it is over, or its turn to commit

    def run(self, conn: Connection) -> None:
        self.result = self.fn(conn)


class Writer:
    """Runs the changes of many threads in order, and commits as many at once as wait."""

    def __init__(self, engine: Engine, patience_s: float) -> None:
        self._engine = engine
        self._patience_s = patience_s
        self._conn: Connection | None = None  # only who commits uses it
        self._gate = threading.Lock()  # held for moments, to look at the following
        self._idle = threading.Condition(self._gate)
        self._waiting: deque[_Change] = deque()
        self._waits_for_disk = True
        self._committing: int | None = None  # the thread whose turn it is
        self._closed = False

    def write(self, fn: Callable[[Connection], T], lasting: bool = True) -> T:
        """Run ``fn`` in the next commit; returns its result once that is on disk. If nothing
        in that commit is ``lasting``, the disk is not waited for.

        Raises what ``fn`` raises; Unavailable when the database cannot be
        written, when the change could not begin in time, or after close().
        """
        change = _Change(fn, lasting)
        with self._gate:
            if self._committing == change.thread:
                raise RuntimeError("write() inside write(): use the connection you were given")
            if self._closed:
                raise Unavailable("The database is closed: the service is stopping.")
            self._waiting.append(change)
            mine = self._committing is None
            if mine:
                self._committing = change.thread
        if not mine:
            try:
                self._wait(change)
            except BaseException:
                self._leave(change)
                raise
        if not change.over:
            self._commit_waiting(change)
        if change.error is not None:
            raise translate(change.error)
        result: T = change.result
        return result

    def close(self) -> None:
        """Finish what waits and stop. May be called again."""
        with self._gate:
            self._closed = True
            self._idle.wait_for(lambda: self._committing is None)
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def _wait(self, change: _Change) -> None:
        """Until it is over, or its turn to commit. Raises Unavailable when that takes too long."""
        if change.pause.wait(self._patience_s):
            return
        with self._gate:
            if change in self._waiting and self._committing != change.thread:
                self._waiting.remove(change)
                raise Unavailable(
                    f"The database was busy for {self._patience_s:g} s.", "Retry later."
                )
        change.pause.wait()  # it has begun: only its end tells

    def _leave(self, change: _Change) -> None:
        """Its caller was interrupted: nobody shall wait for it to commit."""
        with self._gate:
            if change not in self._waiting:
                return
            self._waiting.remove(change)
            turn = self._committing == change.thread
        if turn:
            self._pass_on()

    def _commit_waiting(self, mine: _Change) -> None:
        """Commit what waits, ``mine`` first, then let the next one do so."""
        with self._gate:
            many = min(len(self._waiting), MAX_BATCH)
            batch = [self._waiting.popleft() for _ in range(many)]
        try:
            self._commit(batch)
        finally:
            for change in batch:
                change.over = True
                if change is not mine:
                    change.pause.end()
            self._pass_on()

    def _pass_on(self) -> None:
        with self._gate:
            if not self._waiting:
                self._committing = None
                self._idle.notify_all()
                return
            following = self._waiting[0]
            self._committing = following.thread
        following.pause.end()

    def _wait_for_disk(self, wanted: bool) -> None:
        """Whether the next commits wait until they are on disk. In NORMAL, SQLite flushes its
        log with the next commit in FULL, or when it is full.
        """
        if wanted != self._waits_for_disk:
            assert self._conn is not None
            statements.run(self._conn, f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._waits_for_disk = wanted

    def _commit(self, changes: list[_Change]) -> None:
        try:
            # Kept: taking a connection from a pool costs as much as a small change.
            if self._conn is None:
                self._conn = self._engine.connect()
                self._waits_for_disk = True  # as connections are made
            self._wait_for_disk(any(change.lasting for change in changes))
            if not _at_once(self._conn, changes):
                with self._conn.begin():
                    for change in changes:
                        change.error = _fault(self._conn, change.run)
        except BaseException as error:  # noqa: BLE001 - every caller hears of it
            for change in changes:
                change.error = change.error or error


def _at_once(conn: Connection, changes: list[_Change]) -> bool:
    """Run and commit all; False, with nothing changed, when one of several failed.

    Most commits have no failure in them, and a savepoint for each change would cost
    as much as a small change. Raises the error of one that is alone.
    """
    transaction = conn.begin()
    try:
        for change in changes:
            change.run(conn)
    except BaseException:
        transaction.rollback()
        if len(changes) == 1:
            raise
        return False
    try:
        with turns.given():
            transaction.commit()
    except BaseException:
        transaction.rollback()
        raise
    return True


def _fault(conn: Connection, act: Callable[[Connection], object]) -> BaseException | None:
    """Run ``act``; if it fails, take back what it did and return its error.

    Raises the error where it ended the whole transaction, as a full disk may.
    """
    statements.run(conn, "SAVEPOINT act")
    try:
        act(conn)
    except BaseException as error:
        if not getattr(conn.connection.dbapi_connection, "in_transaction", False):
            raise
        statements.run(conn, "ROLLBACK TO act")
        return error
    statements.run(conn, "RELEASE act")
    return None
