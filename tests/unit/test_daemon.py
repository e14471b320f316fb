"""The loops of the service: how often they act, and that nothing ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from bridge.daemon import Loop
from bridge.errors import Unavailable
from tests.support.poll import eventually


def run(loop: Loop, done: Callable[[], object]) -> None:
    loop.start()
    try:
        eventually(done)
    finally:
        loop.stop()
        loop.join(30)
    assert not loop.is_alive()


class Failing:
    def __init__(self, error: Exception) -> None:
        self.calls = 0
        self._error = error

    def __call__(self) -> None:
        self.calls += 1
        raise self._error


def test_a_fault_of_ours_ends_no_loop() -> None:
    act = Failing(KeyError("mine"))
    run(Loop("x", act, interval=1e-6), lambda: act.calls > 3)


def test_no_number_of_faults_ends_a_loop() -> None:
    """A database may be away for hours."""
    act = Failing(Unavailable("away"))
    run(Loop("x", act, interval=1e-6, longest_back_off=0.0), lambda: act.calls > 1100)


@pytest.mark.parametrize(("faults", "pause_s"), [(0, 300.0), (1, 300.0), (9, 300.0), (5000, 300.0)])
def test_a_pause_is_never_shorter_than_the_interval(faults: int, pause_s: float) -> None:
    loop = Loop("x", lambda: None, interval=300.0, longest_back_off=30.0)
    assert loop.pause_s(faults) == pause_s


@pytest.mark.parametrize(
    ("faults", "pause_s"), [(0, 0.5), (1, 1.0), (3, 4.0), (6, 30.0), (5000, 30.0)]
)
def test_faults_make_it_slower_up_to_a_bound(faults: int, pause_s: float) -> None:
    loop = Loop("x", lambda: None, interval=0.5, longest_back_off=30.0)
    assert loop.pause_s(faults) == pause_s


def test_it_acts_at_once_when_woken() -> None:
    acted = threading.Semaphore(0)
    loop = Loop("x", acted.release, interval=600.0)
    loop.start()
    assert acted.acquire(timeout=30)
    loop.wake()
    assert acted.acquire(timeout=30)
    loop.stop()
    loop.join(30)
    assert not loop.is_alive()
