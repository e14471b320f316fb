"""What is not asked again yet, and what is said about it."""

from __future__ import annotations

import pytest

from bridge.core.patience import Act, Patience
from bridge.errors import ConnectorUnavailable

AWAY = ConnectorUnavailable("no connection", "Look at it.", 5)
DENIED = ConnectorUnavailable("denied", "Grant it.", 30, narrow=True)


class Ticks:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def patience(ticks: Ticks) -> Patience:
    return Patience(ticks)


def test_a_narrow_fault_is_of_one_place_and_act(patience: Patience, ticks: Ticks) -> None:
    patience.failed("nomad", Act.STOP, DENIED, "lab", "a")
    assert patience.waits("nomad", Act.STOP, "lab")
    assert patience.waits("nomad", Act.STOP, "lab", "b")
    assert not patience.waits("nomad", Act.STOP)
    assert not patience.waits("nomad", Act.STOP, "den")
    assert not patience.waits("nomad", Act.LOOK, "lab")
    assert not patience.waits("local", Act.STOP, "lab")
    ticks.now += 30
    assert not patience.waits("nomad", Act.STOP, "lab", "a")


def test_any_other_is_of_all_places_and_longer_of_what_met_it(
    patience: Patience, ticks: Ticks
) -> None:
    patience.failed("nomad", Act.STOP, AWAY, "lab", "a")
    assert patience.waits("nomad", Act.STOP, "den")
    ticks.now += 5
    assert not patience.waits("nomad", Act.STOP, "lab", "b")
    assert patience.waits("nomad", Act.STOP, "lab", "a")
    ticks.now += 60
    assert not patience.waits("nomad", Act.STOP, "lab", "a")


def test_only_an_answer_to_the_same_act_ends_a_fault(patience: Patience) -> None:
    patience.failed("nomad", Act.STOP, DENIED, "lab")
    patience.worked("nomad", Act.LOOK, "lab")
    patience.worked("nomad", Act.STOP, "den")
    [fault] = patience.faults("nomad")
    assert (fault.detail, fault.hint) == ("in lab: denied", "Grant it.")
    assert patience.faults("local") == []
    patience.worked("nomad", Act.STOP, "lab")
    assert patience.faults("nomad") == []


def test_an_answer_anywhere_ends_a_fault_of_all(patience: Patience) -> None:
    patience.failed("nomad", Act.LOOK, AWAY, "lab")
    assert [fault.detail for fault in patience.faults("nomad")] == ["no connection"]
    patience.worked("nomad", Act.LOOK, "den")
    assert patience.faults("nomad") == []


def test_a_fault_that_is_not_met_again_is_over(patience: Patience, ticks: Ticks) -> None:
    patience.failed("nomad", Act.FORGET, DENIED, "lab")
    ticks.now += 89
    assert patience.faults("nomad") != []
    ticks.now += 1
    assert patience.faults("nomad") == []


def test_it_is_logged_once_with_its_hint(
    patience: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    for one in "abc":
        patience.failed("nomad", Act.FORGET, DENIED, "lab", one)
    assert caplog.text.count("denied") == 1
    assert "hint=Grant it." in caplog.text
    assert "place=lab" in caplog.text


def test_another_leader_starts_anew(patience: Patience) -> None:
    patience.failed("nomad", Act.LOOK, AWAY, "lab")
    patience.clear()
    assert not patience.waits("nomad", Act.LOOK, "lab")
    assert patience.faults("nomad") == []
