"""Whose turn it is to compute, among the threads that serve HTTP.

Python computes in one thread at a time, and lets another one go on at each of the dozen
moments in which a request looks at the database or at a socket, to want it back an instant
later. With many small requests this to and fro costs more than they do. So whoever serves one
takes a turn, gives it away only where it really waits, and then queues again: a third of the
switches between threads, a third more requests in a second.

Turns only make it fast. Who computes without one does no harm, and one that lasts too long is
taken away by the thread that polls the sockets. The others wait without a time limit: to set
a timer for each of these waits would cost all that is won.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

# Small requests need a hundredth of this between the moments in which they wait.
LONGEST_S: Final = 0.05
_NO_LIMIT: Final = -1.0
_SHORT_S: Final = 0.0002
_STEP: Final = 32  # items of an array: a few hundred microseconds
# While others are served, who computes for long rests after this time, so shortly that the
# system's timers make it longer. A thread that wakes on a processor where somebody computes
# waits there for the next tick, 4 ms mostly, though the other one is idle; nothing but sleep
# gives a processor away (sched_yield does not before a slice is over). It costs a fifth.
_WORK_S: Final = 0.0003
_REST_S: Final = 0.00002
_LATELY_S: Final = 0.2

T = TypeVar("T")


class Turns:
    """One thread at a time, in the order in which they asked."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self.longest_s: Final = longest_s
        self._gate = threading.Lock()  # held for moments, to look at the following
        self._whose: int | None = None  # a thread
        self._since = 0.0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._met = -math.inf  # when somebody who computes for long last let others go first
        self._rested = threading.local()

    def take(self, watch: bool = False) -> None:
        """Wait for a turn; who is to ``watch`` takes it from others who have it for too long."""
        mine = threading.Lock()
        mine.acquire()
        self.invite(threading.get_ident(), mine)
        while not mine.acquire(timeout=self.longest_s if watch else _NO_LIMIT):
            with self._gate:
                if time.monotonic() - self._since >= self.longest_s:
                    self._pass_on()

    def give(self) -> None:
        """Let the next one go on; nothing for somebody who has no turn, or lost it."""
        with self._gate:
            if self.has():
                self._pass_on()

    @contextmanager
    def taken(self, watch: bool = False) -> Iterator[None]:
        """Compute in turn."""
        self.take(watch)
        try:
            yield
        finally:
            self.give()

    @contextmanager
    def given(self, watch: bool = False) -> Iterator[None]:
        """Wait for something: who has a turn gives it away meanwhile, and queues afterwards."""
        had = self.has()
        self.give()
        try:
            yield
        finally:
            if had:
                self.take(watch)

    def step_aside(self) -> None:
        """Let who computes in turn, and all who queue for one, go first; and let those begin
        who were woken for a request meanwhile, if there were some lately.
        """
        if self.has():
            return
        if self._whose is not None:
            self._met = time.monotonic()
            self.take()
            self.give()
        now = time.monotonic()
        if now - self._met < _LATELY_S and now - getattr(self._rested, "at", 0.0) >= _WORK_S:
            time.sleep(_REST_S)
            self._rested.at = time.monotonic()

    def wanted(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._waiting)

    def has(self) -> bool:
        """Whether it is the turn of this thread."""
        return self._whose == threading.get_ident()

    def invite(self, thread: int, signal: threading.Lock) -> None:
        """Queue for another thread, which waits for ``signal``."""
        with self._gate:
            self._waiting.append((thread, signal))
            if self._whose is None:
                self._pass_on()

    def _pass_on(self) -> None:
        self._whose, signal = self._waiting.popleft() if self._waiting else (None, None)
        self._since = time.monotonic()
        if signal is not None:
            signal.release()


class Pause:
    """A wait of the thread that makes it, for another one to end it: without its turn, which
    it has again afterwards. Woken once, and not a second time for its turn.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._thread = threading.get_ident()
        self._had_turn = turns.has()
        self._signal = threading.Lock()  # cheaper than an Event
        self._signal.acquire()

    def wait(self, timeout: float = _NO_LIMIT) -> bool:
        """Whether it was ended within ``timeout`` seconds. May be called again if not."""
        self._turns.give()
        return self._signal.acquire(timeout=timeout)

    def end(self) -> None:
        """Let the thread go on when it is its turn."""
        if self._had_turn:
            self._turns.invite(self._thread, self._signal)
        else:
            self._signal.release()


# One for the process, as Python's own lock is.
_turns: Final = Turns()
taken: Final = _turns.taken
given: Final = _turns.given
wanted: Final = _turns.wanted
step_aside: Final = _turns.step_aside


def pause() -> Pause:
    """A wait of this thread, to be ended by another one."""
    return Pause(_turns)


def in_steps(items: Iterable[T]) -> Iterator[T]:
    """The items, for work on many: at every few of them those who compute in turn go first."""
    for at, item in enumerate(items):
        if at % _STEP == 0:
            step_aside()
        yield item


_lock: Final = threading.Lock()
_arrays = 0
_usual_s = 0.0


@contextmanager
def long_work() -> Iterator[None]:
    """Compute for long: outside any turn, and with short ones, in all of the process.

    An array of a thousand jobs is a hundredth of a second of computing. While there is one,
    Python switches between threads more often, so that a look-up beside it soon begins; if it
    always did, single submissions would lose a tenth of their rate. Once a look-up has begun,
    ``in_steps`` and ``step_aside`` let it end without this to and fro.
    """
    global _arrays, _usual_s  # noqa: PLW0603 (so is the interval: one for the process)
    with _lock:
        if _arrays == 0:
            _usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(_SHORT_S, _usual_s))
        _arrays += 1
    try:
        with given():
            yield
    finally:
        with _lock:
            _arrays -= 1
            if _arrays == 0:
                sys.setswitchinterval(_usual_s)
