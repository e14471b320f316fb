"""What is to be thought of nodes: which machine is whose, who may take jobs, who fails. Pure.

What a machine says of itself (name, pool, generation) proves nothing alone: it is
compared with what was enrolled. So nobody takes jobs who was not let in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from bridge.models.attempt import Cause
from bridge.models.identity import Group
from bridge.models.node import Node, NodeState, NodeStatus, NodeView

# Ends that speak against the node: it could not stage, run or upload what it was given.
AGAINST_NODE: Final = frozenset({Cause.STORAGE, Cause.INTERNAL, Cause.NODE_LOST})
# Ends that speak for it: input and image came, and the user's program ran (None: success).
# All others (no input, no image, canceled, withdrawn, drained, refused) say nothing of it.
FOR_NODE: Final = frozenset({None, Cause.EXIT, Cause.OOM, Cause.TIMEOUT})

_DOWN: Final = (NodeStatus.DOWN, NodeStatus.DISCONNECTED)


class Outcome(msgspec.Struct, frozen=True):
    """How an attempt on a node ended."""

    cause: Cause | None
    reason: str | None


class Tally(msgspec.Struct, frozen=True):
    """What outcomes, oldest first, add to the failures in a row of a node."""

    failures: int
    from_zero: bool  # something went well before them
    last: str | None  # of the failures, in words

    def __bool__(self) -> bool:
        return self.from_zero or self.failures > 0


def tally(outcomes: Iterable[Outcome]) -> Tally:
    """Count the failures since the last outcome that speaks for the node."""
    failures, from_zero, last = 0, False, None
    for one in outcomes:
        if one.cause in FOR_NODE:
            failures, from_zero = 0, True
        elif one.cause in AGAINST_NODE:
            failures, last = failures + 1, f"{one.cause}: {one.reason or 'no reason given'}"
    return Tally(failures, from_zero, last)


def quarantine_reason(node: Node) -> str:
    """Why a node is given nothing any more, for the admins."""
    reason = (
        f"{node.failures} attempts in a row failed here, none by the users' own doing; "
        f"the last one: {node.last_failure or 'unknown'}"
    )
    return f"{reason}; it is tried again soon" if may_pass(node) else reason


def may_pass(node: Node) -> bool:
    """Whether what failed on a node last may be none of its own faults: the storage is
    everybody's, and when it is away, all nodes fail.
    """
    return (node.last_failure or "").startswith(f"{Cause.STORAGE}: ")


class Match(msgspec.Struct, frozen=True):
    """A machine at the scheduler, a node that was enrolled, or both; and the group."""

    group: Group
    node: Node | None
    view: NodeView | None
    namesake: bool = False  # a stranger with the name of an enrolled node


def match(
    groups: Sequence[Group], nodes: Sequence[Node], views: Sequence[NodeView], now: float
) -> list[Match]:
    """Whose the machines are: each enrolled node with the machine that is it, if any, then
    the strangers in the pools of these groups.
    """
    by_id = {group.id: group for group in groups}
    matches: list[Match] = []
    taken: set[str] = set()
    for node in nodes:
        group = by_id.get(node.group_id)
        if group is None:
            continue
        free = [view for view in views if view.id not in taken]
        view = None if node.removed_at is not None else _machine_of(node, group, free, now)
        if view is not None:
            taken.add(view.id)
        matches.append(Match(group, node, view))
    pools: Mapping[str, Group] = {group.node_pool: group for group in reversed(groups)}
    names = {node.name for node in nodes if node.removed_at is None}
    strangers = [
        Match(pools[view.node_pool], None, view, namesake=view.name in names)
        for view in views
        if view.id not in taken and view.node_pool in pools
    ]
    return matches + strangers


def _machine_of(node: Node, group: Group, views: Iterable[NodeView], now: float) -> NodeView | None:
    """The machine it was, as long as that lives; else one with its name and generation,
    which nobody has who was not let in.
    """
    namesakes = [view for view in views if view.name == node.name]
    bound = next((view for view in namesakes if view.id == node.native_id), None)
    if bound is not None and bound.status not in _DOWN:
        return bound
    successors = [
        view
        for view in namesakes
        if view is not bound
        and view.generation == node.generation
        and is_current(view, group, now)
        and (bound is None or view.status not in _DOWN)
    ]

    def fitness(view: NodeView) -> tuple[bool, bool, float]:
        return view.node_pool == group.node_pool, view.status not in _DOWN, view.changed_at or 0.0

    return max(successors, key=fitness, default=bound)


def bar(one: Match, now: float) -> str | None:
    """Why a machine may be given nothing, or None. Where no node was ever enrolled,
    machines are the operator's own, and nobody's business here.
    """
    group, node, view = one.group, one.node, one.view
    if view is None or group.generation is None:
        return None
    if node is None:
        who = "another machine is enrolled under this name" if one.namesake else "never enrolled"
        return f"{who}; run run.sh of the group's bundle there, or take it out of the pool"
    if node.quarantined_at is not None:
        return node.quarantine_reason or "in quarantine"
    if view.node_pool != group.node_pool:
        return f"it registered in the pool {view.node_pool!r} instead of {group.node_pool!r}"
    if not is_current(view, group, now):
        return "enrolled before the compute secret was rotated; start run.sh of a new bundle there"
    return None


def is_current(view: NodeView, group: Group, now: float) -> bool:
    """Whether a machine was enrolled with a secret that still counts."""
    return view.generation in group.generations(now)


def standing(one: Match, now: float) -> tuple[NodeState, str | None]:
    """What a node is in one word, and why."""
    node, view = one.node, one.view
    if node is None and view is not None:
        barred = bar(one, now)
        return (NodeState.STRANGER, barred) if barred else _shown(view, "not enrolled")
    assert node is not None
    if node.removed_at is not None:
        return NodeState.REMOVED, "an admin removed it; it may enrol again"
    if node.quarantined_at is not None:
        return NodeState.QUARANTINED, node.quarantine_reason
    if view is None:
        if node.native_id is None:
            return NodeState.ENROLLED, "enrolled, and not yet registered at the scheduler"
        return NodeState.DOWN, "the scheduler no longer knows it; start run.sh there"
    drained = f"drained by {node.drained_by}" if node.drained_at is not None else None
    return _shown(view, bar(one, now) or drained or "made so at the scheduler, not by the bridge")


def _shown(view: NodeView, ineligible: str) -> tuple[NodeState, str | None]:
    """What the scheduler shows; ``ineligible`` says why it may be given nothing."""
    if view.status is NodeStatus.DOWN:
        return NodeState.DOWN, "the scheduler has lost touch with it"
    if view.status is NodeStatus.DISCONNECTED:
        return NodeState.DISCONNECTED, "out of touch; its jobs go on there"
    if view.draining:
        return NodeState.DRAINING, ineligible
    if view.paused:
        return NodeState.PAUSED, "by its owner; run.sh --resume there"
    if not view.eligible:
        return NodeState.INELIGIBLE, ineligible
    trouble = view.trouble if view.status is NodeStatus.READY else None
    return NodeState.INELIGIBLE if trouble else NodeState(view.status.value), trouble
