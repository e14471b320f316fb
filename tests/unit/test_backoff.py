"""Delays that double."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.backoff import doubled

seconds = st.floats(min_value=0, max_value=1e9)


@pytest.mark.parametrize(
    ("base_s", "times", "longest_s", "delay_s"),
    [
        (10.0, 0, 3600.0, 10.0),
        (10.0, 3, 3600.0, 80.0),
        (10.0, 9, 3600.0, 3600.0),
        (10.0, 10**9, 3600.0, 3600.0),
        (1e-3, 16, 3600.0, 65.536),
        (1e-3, 22, 3600.0, 3600.0),
        (1e-300, 5000, 3600.0, 3600.0),
        (math.ulp(0.0), 5000, 3600.0, 3600.0),
        (7200.0, 5, 3600.0, 7200.0),
        (0.0, 10**9, 3600.0, 0.0),
        (10.0, 5, 0.0, 10.0),
    ],
)
def test_up_to_a_bound(base_s: float, times: int, longest_s: float, delay_s: float) -> None:
    assert doubled(base_s, times, longest_s) == delay_s


@given(seconds, st.integers(0, 10**6), seconds)
def test_each_is_twice_the_last_or_the_longest(base_s: float, times: int, longest_s: float) -> None:
    this, after = (doubled(base_s, count, longest_s) for count in (times, times + 1))
    assert base_s <= this <= after
    assert after == max(base_s, min(2 * this, longest_s))
