"""Turns are short while an array is worked through, and only then."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from bridge.api.turns import short_turns

USUAL_S = 0.003


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def turn_s() -> float:
    return round(sys.getswitchinterval(), 5)  # Python keeps whole microseconds, cut off


def test_until_the_last_array_is_done() -> None:
    first, second = short_turns(), short_turns()
    with first:
        assert turn_s() < USUAL_S
        second.__enter__()
    assert turn_s() < USUAL_S
    second.__exit__(None, None, None)
    assert turn_s() == USUAL_S


def test_also_when_it_fails() -> None:
    with pytest.raises(KeyError), short_turns():
        raise KeyError
    assert turn_s() == USUAL_S


def test_never_longer_than_usual() -> None:
    sys.setswitchinterval(0.0001)
    with short_turns():
        assert turn_s() == 0.0001
    assert turn_s() == 0.0001


def test_of_a_function() -> None:
    @short_turns()
    def work() -> float:
        return turn_s()

    assert work() < USUAL_S
    assert turn_s() == USUAL_S
