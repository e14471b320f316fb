"""A run and the months it falls into."""

from __future__ import annotations

import calendar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.models.usage import months_of

DAY = 86400


def at(*when: int) -> int:
    return calendar.timegm((*when, 0, 0, 0)[:6])


def test_seconds_are_booked_where_they_were_used() -> None:
    assert months_of(31 * DAY + 60, at(2026, 1, 1, 0, 1)) == [
        ("2026-01", 60.0),
        ("2025-12", 31 * DAY),
    ]


@pytest.mark.parametrize(("seconds", "here"), [(0.0, 0.0), (12.5, 12.5), (-1.0, 0.0)])
def test_a_run_within_a_month_is_in_no_other(seconds: float, here: float) -> None:
    assert months_of(seconds, at(2024, 2, 29, 23, 59, 59)) == [("2024-02", here)]


def test_from_the_first_second_of_a_month_to_the_last_is_that_month() -> None:
    assert months_of(28 * DAY, at(2025, 3, 1)) == [("2025-03", 0.0), ("2025-02", 28 * DAY)]
    assert months_of(27 * DAY, at(2025, 2, 28)) == [("2025-02", 27 * DAY)]


@given(st.floats(0, 400 * DAY), st.floats(at(1999, 1, 1), at(2100, 1, 1)))
def test_nothing_is_lost_and_nothing_is_more_than_a_month(seconds: float, end: float) -> None:
    parts = months_of(seconds, end)
    assert sum(here for _, here in parts) == pytest.approx(seconds, abs=1e-6)
    assert all(0 <= here <= 31 * DAY for _, here in parts)
    names = [month for month, _ in parts]
    assert names == sorted(set(names), reverse=True)
    whole = [here for _, here in parts[1:-1]]  # between the first and the last it ran all the time
    assert all(here in {days * DAY for days in (28, 29, 30, 31)} for here in whole)
