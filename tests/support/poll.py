"""Waiting for something that happens elsewhere, and free ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

_LOWEST_PORT: Final = 12_000
_WORKERS: Final = 16
_OWN_PORTS: Final = 1_200  # of each worker; the last one's end below 32,768, Linux's first


def eventually(look: Callable[[], T], *, timeout: float = 30.0, every: float = 0.02) -> T:
    """Call ``look`` until it returns something true, and return that.

    Fails, with what was seen last, when ``timeout`` seconds are over.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Before the look: who was kept from running for so long looks once more.
        late = time.monotonic() > deadline
        seen = look()
        if seen:
            return seen
        if late:
            raise AssertionError(f"not within {timeout:g} s; last seen: {seen!r}")
        time.sleep(every)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that no connection is given.

    Below the ports that the kernel gives to outgoing connections: one of those may be taken
    before, or while, the server that was to have it is started. Each test process has its own.
    """
    while True:
        port = next(_ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _own_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    own = range(_LOWEST_PORT + worker * _OWN_PORTS, _LOWEST_PORT + (worker + 1) * _OWN_PORTS)
    # Two runs on one machine hardly ever ask for the same one at the same time.
    first = os.getpid() % _OWN_PORTS
    return itertools.cycle([*own[first:], *own[:first]])


_ports: Final = _own_ports()
