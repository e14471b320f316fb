"""How much one caller may ask for: sizes, and requests per minute."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Protocol

from bridge.errors import TooMany

# Enough for every member of a large group; more only happens under attack.
_MOST_KEYS: Final = 10_000


class Limits(Protocol):
    """The ``limits`` of the configuration."""

    @property
    def body_bytes(self) -> int:
        """Largest body in bytes."""

    @property
    def bulk_items(self) -> int:
        """Most jobs in one array."""

    @property
    def requests_per_minute(self) -> int:
        """Requests per secret and minute."""

    @property
    def max_cores(self) -> int:
        """Most cores of one job."""

    @property
    def max_memory_mb(self) -> int:
        """Most memory of one job in MiB."""

    @property
    def max_time_limit_s(self) -> int:
        """Longest time limit of one job in seconds."""


class RateLimit:
    """A token bucket per key: a minute's worth at once, then evenly."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        # key → (tokens left, when that was); least recently used first.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> None:
        """Count one request of ``key``. Raises TooMany, which says when to come back."""
        with self._lock:
            now = self._clock()
            tokens, since = self._buckets.pop(key, (self._capacity, now))
            tokens = min(self._capacity, tokens + (now - since) * self._per_second)
            allowed = tokens >= 1
            self._buckets[key] = (tokens - 1 if allowed else tokens, now)
            if len(self._buckets) > _MOST_KEYS:
                # The one forgotten starts anew with a full bucket: a bound on
                # memory matters more than a limit on who has been quiet longest.
                self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1 - tokens) / self._per_second)
            raise TooMany(
                f"More than {self._capacity:.0f} requests in a minute.",
                f"Go on in {wait} s; many jobs fit into one request.",
                retry_after=wait,
            )
