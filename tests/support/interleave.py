"""Letting somebody else act, or the process die, at a point in the code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge import points
from bridge.points import Point


class Killed(BaseException):
    """The process died here. No ``except Exception`` holds it up."""


class Survived(AssertionError):
    """It should have died."""


@contextmanager
def at(point: Point, act: Callable[[], object], *, time: int = 1) -> Iterator[None]:
    """When ``point`` is reached for the ``time``-th time, ``act`` comes first.

    Fails when it is not reached so often.
    """
    lock = threading.Lock()
    reached = 0

    def hook(here: Point) -> None:
        nonlocal reached
        with lock:
            reached += here is point
            now = here is point and reached == time
        if now:
            act()

    with points.install(hook):
        yield
    assert reached >= time, f"{point} was reached {reached} times"


@contextmanager
def killed_at(point: Point, *, time: int = 1) -> Iterator[None]:
    """What is done within dies at ``point``: from then on nobody gets past any point.

    Raises Survived.
    """
    lock = threading.Lock()
    reached = 0

    def hook(here: Point) -> None:
        nonlocal reached
        with lock:
            reached += here is point
            dead = reached >= time
        if dead:
            raise Killed

    with points.install(hook):
        try:
            yield
        except Killed:
            return
    raise Survived(f"{point} was reached {reached} times")


class Other:
    """Somebody else, in a thread: ``begin`` it within a transaction of ours, and see
    with ``end`` what came of it.
    """

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._thread = threading.Thread(target=self._run)
        self._error: BaseException | None = None
        self._has_read = threading.Event()

    def begin(self) -> None:
        """Start, and wait until it has read what it acts on (``note_read``); then until
        it has done it, or is held up, by us, for longer than that would take.
        """
        self._thread.start()
        assert self._has_read.wait(10)
        self._thread.join(0.5)

    def note_read(self) -> None:
        """To be called after every read; only this thread's count."""
        if threading.current_thread() is self._thread:
            self._has_read.set()

    def end(self) -> None:
        """Wait for its end. Raises what it raised."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001 (it is raised by end)
            self._error = error
