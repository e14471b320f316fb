"""The one writer of a SQLite database: many changes, one commit.

A durable commit costs one flush of the disk, however much is in it. While one
commit is under way further changes wait; the next commit takes all of them.
A change that fails is taken back alone; the others in its commit may run twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine

from bridge.db import statements
from bridge.db.faults import translate
from bridge.errors import Unavailable

T = TypeVar("T")

MAX_BATCH: Final = 64  # changes in one commit, so that the first of them waits no longer


class _Change:
    """One caller's function and what became of it."""

    def __init__(self, fn: Callable[[Connection], Any]) -> None:
        self.fn = fn
        self.result: Any = None
        self.error: BaseException | None = None
        self._state = threading.Lock()  # held by who may still decide whether it begins
        self._over = threading.Lock()  # free when there is a result: cheaper than an Event
        self._over.acquire()

    def begin(self) -> bool:
        """The writer takes it on; False when its caller has given up."""
        return self._state.acquire(blocking=False)

    def give_up(self) -> bool:
        """The caller waits no longer; False when it has begun."""
        return self._state.acquire(blocking=False)

    def run(self, conn: Connection) -> None:
        self.result = self.fn(conn)

    def deliver(self) -> None:
        self._over.release()

    def wait(self, seconds: float = -1) -> bool:
        return self._over.acquire(timeout=seconds)


class Writer:
    """A thread that runs changes in order and commits as many at once as wait."""

    def __init__(self, engine: Engine, patience_s: float) -> None:
        self._engine = engine
        self._patience_s = patience_s
        self._conn: Connection | None = None  # only the thread uses it
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="db-writer", daemon=True)
        self._thread.start()

    def write(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in the next commit; returns its result once that is on disk.

        Raises what ``fn`` raises; Unavailable when the database cannot be
        written, when the change could not begin in time, or after close().
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("write() inside write(): use the connection you were given")
        change = _Change(fn)
        with self._gate:
            if self._closed:
                raise Unavailable("The database is closed: the service is stopping.")
            self._queue.put(change)
        if not change.wait(self._patience_s):
            if change.give_up():
                raise Unavailable(
                    f"The database was busy for {self._patience_s:g} s.", "Retry later."
                )
            change.wait()  # it has begun: only its end tells
        if change.error is not None:
            raise translate(change.error)
        result: T = change.result
        return result

    def close(self) -> None:
        """Finish what waits and stop. May be called again."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        going = True
        while going:
            batch, going = self._take()
            self._commit([change for change in batch if change.begin()])
            del batch  # keep no caller's data while waiting for the next
        if self._conn is not None:
            self._conn.close()

    def _take(self) -> tuple[list[_Change], bool]:
        """Wait for one change, then take what else waits; False with the last ones."""
        batch: list[_Change] = []
        try:
            change = self._queue.get()
            while change is not None:
                batch.append(change)
                if len(batch) == MAX_BATCH:
                    return batch, True
                change = self._queue.get_nowait()
        except Empty:
            return batch, True
        return batch, False

    def _commit(self, changes: list[_Change]) -> None:
        if not changes:
            return
        try:
            # Kept: taking a connection from a pool costs as much as a small change.
            if self._conn is None:
                self._conn = self._engine.connect()
            with self._conn.begin():
                _run(self._conn, changes)
        except BaseException as error:  # noqa: BLE001 - the thread lives, every caller hears of it
            for change in changes:
                change.error = change.error or error
        for change in changes:
            change.deliver()


def _run(conn: Connection, changes: list[_Change]) -> None:
    """Run all; when one fails, again and each by itself, so that it takes back itself alone.

    Most commits have no failure in them, and a savepoint for each change would cost
    as much as a small change.
    """

    def all_of_them(conn: Connection) -> None:
        for change in changes:
            change.run(conn)

    if len(changes) == 1:
        changes[0].run(conn)
    elif _fault(conn, all_of_them) is not None:
        for change in changes:
            change.error = _fault(conn, change.run)


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
