"""What a scheduler refused is not asked again at once, and nothing else waits for it.

A scheduler that answers to nobody is asked once for each kind of act and delay. One that
answers, but refuses something in one place, is left alone there and used everywhere else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from bridge import log
from bridge.errors import ConnectorUnavailable

_log = log.get(__name__)

# One attempt whose call fails again and again must not be the first to be tried each time.
_ONE_LATER_S: Final = 60.0
# A fault that was not met again for so long is over: what met it may have nothing to do now.
_OVER_S: Final = 60.0


class Act(StrEnum):
    """What is asked of a scheduler, as far as it may be refused by itself."""

    FEED = "feed"
    LOOK = "look"
    STOP = "stop"
    SWEEP = "sweep"
    FORGET = "forget"
    NODES = "inspect-nodes"


class Fault(msgspec.Struct, frozen=True):
    """Why something cannot be asked, and what to do. ``place``: where only; empty: anywhere."""

    act: Act
    place: str
    message: str
    hint: str
    until: float

    @property
    def detail(self) -> str:
        """The message, and where."""
        return f"in {self.place}: {self.message}" if self.place else self.message


class Patience:
    """Who is not to be asked for what, and until when; for any number of threads.

    ``ticks`` are seconds that go forward whatever is done to the clock.
    """

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._lock = threading.Lock()
        self._until: dict[tuple[str, ...], float] = {}
        self._faults: dict[tuple[str, ...], Fault] = {}

    def waits(self, connector: str, act: Act, *within: str) -> bool:
        """Whether this is not to be asked yet; ``within``: the place, then which attempt."""
        key, now = (connector, act, *within), self._ticks()
        with self._lock:
            return any(now < self._until.get(key[:long], now) for long in range(2, len(key) + 1))

    def failed(
        self, connector: str, act: Act, away: ConnectorUnavailable, place: str, one: str = ""
    ) -> None:
        """It was asked, in a ``place`` and of ``one`` attempt, and could not say."""
        now = self._ticks()
        until = now + away.retry_after
        where = place if away.narrow else ""
        key = (connector, act, where) if where else (connector, act)
        with self._lock:
            known = now < self._until.get(key, now)
            self._until = {old: at for old, at in self._until.items() if now < at}
            self._until[key] = until
            if one and not away.narrow:
                self._until[connector, act, place, one] = now + _ONE_LATER_S
            self._faults[key] = Fault(act, where, away.message, away.hint, until)
        if not known:
            _log.warning(
                "action=%s connector=%s place=%s away=%s hint=%s retry_after=%.0f",
                act.value,
                connector,
                where or "any",
                away.message,
                away.hint,
                away.retry_after,
            )

    def worked(self, connector: str, act: Act, place: str) -> None:
        """It was asked in a ``place``, and answered."""
        with self._lock:
            for key in ((connector, act), (connector, act, place)):
                self._faults.pop(key, None)

    def faults(self, connector: str) -> list[Fault]:
        """What cannot be asked of a connector at present."""
        now = self._ticks()
        with self._lock:
            return [
                fault
                for key, fault in self._faults.items()
                if key[0] == connector and now < fault.until + _OVER_S
            ]

    def clear(self) -> None:
        """Forget it all: another process asks from now on, or asked until now."""
        with self._lock:
            self._until.clear()
            self._faults.clear()
