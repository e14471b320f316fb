"""Whose a machine is, and what counts against it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.node_rules import (
    AGAINST_NODE,
    FOR_NODE,
    Match,
    Outcome,
    bar,
    match,
    standing,
    tally,
)
from bridge.models.attempt import Cause
from bridge.models.identity import Group
from bridge.models.node import Node, NodeState, NodeStatus, NodeView
from tests.support.fake_nodes import FakeNodes, facts

NOW = 1_000.0
GROUP = Group(
    id=UUID(int=1),
    name="lab",
    token="t",
    connector="nomad",
    namespace="g-lab",
    node_pool="g-lab",
    generation="new",
    has_compute_secret=True,
    created_at=0,
    previous_generation="old",
    previous_until=NOW + 1,
)


def node(**changes: Any) -> Node:
    nothing = dict.fromkeys(Node.__struct_fields__)
    known = {
        "id": UUID(int=2),
        "group_id": GROUP.id,
        "name": "n1",
        "generation": "new",
        "facts": facts(NOW),
        "enrolled_at": 0.0,
        "expires_at": NOW,
        "failures": 0,
    }
    return Node(**{**nothing, **known, **changes})


def view(
    native_id: str = "m1", name: str = "n1", generation: str | None = "new", **more: Any
) -> NodeView:
    scheduler = FakeNodes()
    scheduler.register(native_id, name, generation, **more)
    return scheduler.views[native_id]


outcomes = st.lists(st.sampled_from([None, *Cause]))


@given(outcomes, outcomes)
def test_counting_in_two_batches_is_counting_at_once(
    first: list[Cause | None], second: list[Cause | None]
) -> None:
    def count(before: int, causes: list[Cause | None]) -> int:
        found = tally(Outcome(cause, None) for cause in causes)
        return found.failures + (0 if found.from_zero else before)

    assert count(count(0, first), second) == count(0, first + second)


@given(outcomes)
def test_only_what_speaks_of_the_node_counts(causes: list[Cause | None]) -> None:
    heard = [cause for cause in causes if cause in AGAINST_NODE | FOR_NODE]
    assert tally(Outcome(one, None) for one in causes) == tally(Outcome(one, None) for one in heard)
    assert tally(Outcome(one, None) for one in causes).failures <= sum(
        cause in AGAINST_NODE for cause in causes
    )


@pytest.mark.parametrize(
    ("views", "bound", "machine"),
    [
        ([], None, None),
        ([view()], None, "m1"),
        ([view(generation="other")], None, None),  # nobody has it who was not let in
        ([view(generation=None)], None, None),
        ([view(generation="other")], "m1", "m1"),  # it was let in, and is judged by `bar`
        ([view(name="n2")], "m1", None),
        ([view(), view("m2")], "m2", "m2"),
        ([view(), view("m2", status=NodeStatus.DOWN)], "m2", "m1"),
        ([view(status=NodeStatus.DOWN), view("m2", status=NodeStatus.DOWN)], "m2", "m2"),
        ([view(node_pool="default"), view("m2")], None, "m2"),
        ([view(node_pool="default")], None, "m1"),
    ],
)
def test_which_machine_a_node_is(
    views: list[NodeView], bound: str | None, machine: str | None
) -> None:
    [first, *strangers] = match([GROUP], [node(native_id=bound)], views, NOW)
    assert (first.view and first.view.id) == machine
    for one in strangers:
        assert one.node is None and bar(one, NOW) is not None


@pytest.mark.parametrize(
    ("generation", "now", "fine"),
    [("new", NOW, True), ("old", NOW, True), ("old", NOW + 1, False), (None, NOW, False)],
)
def test_generations_count_until_the_overlap_ends(
    generation: str | None, now: float, fine: bool
) -> None:
    one = Match(GROUP, node(native_id="m1"), view(generation=generation))
    assert (bar(one, now) is None) == fine


@pytest.mark.parametrize(
    ("shown", "word"),
    [
        ({}, NodeState.READY),
        ({"status": NodeStatus.DOWN}, NodeState.DOWN),
        ({"status": NodeStatus.DISCONNECTED}, NodeState.DISCONNECTED),
        ({"status": NodeStatus.INITIALIZING}, NodeState.INITIALIZING),
        ({"draining": True, "eligible": False}, NodeState.DRAINING),
        ({"paused": True}, NodeState.PAUSED),
        ({"eligible": False}, NodeState.INELIGIBLE),
        ({"trouble": "Docker is dead"}, NodeState.INELIGIBLE),
    ],
)
def test_the_word_for_a_node(shown: dict[str, Any], word: NodeState) -> None:
    state, reason = standing(Match(GROUP, node(native_id="m1"), view(**shown)), NOW)
    assert state is word
    assert bool(reason) == (word not in (NodeState.READY, NodeState.INITIALIZING))


def test_a_quarantine_is_told_whatever_the_scheduler_shows() -> None:
    bad = node(native_id="m1", quarantined_at=NOW, quarantine_reason="five in a row")
    for seen in (view(), view(status=NodeStatus.DOWN), None):
        assert standing(Match(GROUP, bad, seen), NOW) == (NodeState.QUARANTINED, "five in a row")
