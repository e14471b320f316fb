"""Waiting for something that happens elsewhere, and free ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, timeout: float = 10.0, every: float = 0.02) -> T:
    """Call ``look`` until it returns something true, and return that.

    Fails, with what was seen last, when ``timeout`` seconds are over.
    """
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s; last seen: {seen!r}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
