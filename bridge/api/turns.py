"""Whose turn it is, among the threads that answer.

Python computes in one thread at a time. Another one that wants to go on waits for a
switch interval, and does so again after each of the dozen moments in which it waited
for the database or a socket. An array of a thousand jobs is a hundredth of a second of
computing; while there is one, turns are short, so that a look-up beside it is soon
answered. If they always were, single submissions would lose a tenth of their rate.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SHORT_S: Final = 0.0002

_lock: Final = threading.Lock()
_arrays = 0
_usual_s = 0.0


@contextmanager
def short_turns() -> Iterator[None]:
    """Switch between threads more often until the end, in all of the process."""
    global _arrays, _usual_s  # noqa: PLW0603 (so is the interval: one for the process)
    with _lock:
        if _arrays == 0:
            _usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(_SHORT_S, _usual_s))
        _arrays += 1
    try:
        yield
    finally:
        with _lock:
            _arrays -= 1
            if _arrays == 0:
                sys.setswitchinterval(_usual_s)
