"""Since when attempts were absent while we looked."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from bridge.core.reconcile import Absences
from bridge.models.attempt import Observed

ONE = uuid4()


@pytest.fixture
def absences() -> Absences:
    return Absences(asleep_s=60)


def note(
    absences: Absences, *moments: float, one: UUID = ONE, seen: Observed = Observed.UNKNOWN
) -> float:
    """Look at these moments; returns since when it was watched at the last."""
    return [absences.note("local", one, seen, now) for now in moments][-1]


def test_it_counts_from_the_first_look(absences: Absences) -> None:
    assert note(absences, 5, 65, 125) == 5


def test_a_pause_starts_anew(absences: Absences) -> None:
    assert note(absences, 5, 6, 67) == 67
    assert note(absences, 68) == 67


def test_so_does_every_other_among_quick_looks(absences: Absences) -> None:
    assert note(absences, 5, 105, 106, 206) == 206


def test_equal_gaps_are_the_pace(absences: Absences) -> None:
    assert note(absences, 0, 100, 200, 300, 500) == 200


def test_one_pause_is_not_the_pace(absences: Absences) -> None:
    assert note(absences, 0, 10, 20, 920, 2420) == 2420


def test_coming_back_starts_anew(absences: Absences) -> None:
    note(absences, 5)
    note(absences, 10, seen=Observed.RUNNING)
    assert note(absences, 15) == 15


def test_each_attempt_counts_for_itself(absences: Absences) -> None:
    note(absences, 5)
    assert note(absences, 30, one=uuid4()) == 30
    assert note(absences, 31) == 5


def test_those_that_live_no_more_are_forgotten(absences: Absences) -> None:
    ended = uuid4()
    note(absences, 5)
    note(absences, 5, one=ended)
    absences.keep("local", {ONE})
    absences.keep("nomad", set())
    assert note(absences, 6) == 5
    assert note(absences, 6, one=ended) == 6
