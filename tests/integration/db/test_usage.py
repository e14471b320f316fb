"""The books: what each user used, by month."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event

from bridge.db import usage
from bridge.db.engine import Connection
from tests.integration.db.conftest import Lab

DAY = 86400
JANUARY = 1_767_225_600  # 2026-01-01 00:00 UTC


def charge(lab: Lab, seconds: float, at: float, cores: int = 10) -> list[str]:
    """Book a run of ada's; the statements that took."""
    said: list[str] = []

    def write(conn: Connection) -> None:
        def note(*call: Any) -> None:
            said.append(call[2])

        event.listen(conn, "before_cursor_execute", note)
        usage.charge(conn, lab.ada.id, cores=cores, seconds=seconds, at=at, half_life_s=7 * DAY)
        event.remove(conn, "before_cursor_execute", note)

    lab.db.write(write)
    return said


def booked(lab: Lab) -> list[tuple[str, int, float]]:
    months = lab.db.read(lambda conn: usage.by_month(conn, lab.group.id))
    return [(one.month, one.attempts, one.core_seconds) for one in months]


def test_a_run_within_a_month_is_booked_there_by_no_more_than_five_statements(lab: Lab) -> None:
    assert len(charge(lab, 60.5, JANUARY + 61)) == 5
    assert len(charge(lab, 30.0, JANUARY + 91)) == 5
    assert booked(lab) == [("2026-01", 2, 905.0)]


def test_a_run_that_ended_in_another_month_is_booked_where_it_ran(lab: Lab) -> None:
    charge(lab, 31 * DAY + 60, JANUARY + 60)
    assert booked(lab) == [("2026-01", 1, 600.0), ("2025-12", 0, 310.0 * DAY)]


def test_a_run_over_three_months_joins_what_they_have_already(lab: Lab) -> None:
    charge(lab, 100.0, JANUARY - 10 * DAY, cores=1)  # in December
    seconds = 31 * DAY + 2 * DAY + 3600.25
    assert len(charge(lab, seconds, JANUARY + 2 * DAY)) == 5 + 2 + 2
    assert booked(lab) == [
        ("2026-01", 1, 20.0 * DAY),
        ("2025-12", 1, 310.0 * DAY + 100),
        ("2025-11", 0, 36002.5),
    ]
    total = sum(core_seconds for _, _, core_seconds in booked(lab))
    assert total == 10 * seconds + 100


@pytest.mark.parametrize("seconds", [0.1, 1234.567, 40 * DAY + 1 / 3, 400 * DAY + 0.7])
def test_the_months_of_a_run_are_the_run(lab: Lab, seconds: float) -> None:
    charge(lab, seconds, JANUARY + 0.3, cores=7)
    months = booked(lab)
    assert sum(attempts for _, attempts, _ in months) == 1
    assert sum(core_seconds for *_, core_seconds in months) == pytest.approx(
        7 * seconds, rel=1e-12, abs=1e-6
    )
