"""What admins see of their group's nodes, and do with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bridge.connectors.base import Connector, Links
from bridge.core.access import require_admin
from bridge.core.enrolment import takes_nodes
from bridge.core.node_rules import Match, bar, is_current, match, standing
from bridge.db import audit, identity
from bridge.db import nodes as nodes_db
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, NotFound
from bridge.models.identity import Caller, Group
from bridge.models.node import Node, NodeReport, NodeState, NodeStatus, NodeView


class Nodes:
    """The rules of an admin's nodes.

    Every method raises Forbidden, Conflict (the group's scheduler takes no nodes) and
    Unavailable; what names a node raises NotFound.
    """

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._clock = clock

    def list(self, caller: Caller) -> list[NodeReport]:
        """By name: the nodes that are in, and strangers in the group's pool."""
        found = (self._report(one) for one in self._matches(caller))
        there = [one for one in found if one.state is not NodeState.REMOVED]
        return sorted(there, key=lambda one: (one.name, one.node is None))

    def get(self, caller: Caller, name: str) -> NodeReport:
        """One node, also a removed one; a stranger if no node has the name."""
        return self._report(self._find(caller, name))

    def drain(self, caller: Caller, name: str, deadline_s: float) -> NodeReport:
        """Give a node nothing more, and stop what still runs there after so many seconds.

        Raises Conflict when it is not registered at the scheduler.
        """
        one = self._find(caller, name)
        view = _registered(one, name)
        detail = f"deadline {deadline_s:.0f} s"
        self._record(
            caller, one, "node.drain", detail, drained_at=self._clock(), drained_by=_actor(caller)
        )
        takes_nodes(self._connectors, caller.group).drain(view.id, deadline_s)
        return self.get(caller, name)

    def resume(self, caller: Caller, name: str) -> NodeReport:
        """Give a node jobs again: after a drain, a quarantine, or as it was made ineligible
        at the scheduler.

        Raises Conflict when it is not registered at the scheduler, or may be given nothing
        for another reason.
        """
        one = self._find(caller, name)
        view = _registered(one, name)
        fresh: dict[str, object] = {
            "failures": 0,
            "quarantined_at": None,
            "quarantine_reason": None,
            "drained_at": None,
            "drained_by": None,
        }
        node = None if one.node is None else msgspec.structs.replace(one.node, **fresh)
        problem = bar(Match(one.group, node, view, one.namesake), self._clock())
        if problem is not None:
            raise Conflict(f"{name} may be given no jobs: {problem}.")
        # Until it is seen to be eligible: a look that began before would make it ineligible.
        fresh["barred"] = f"resumed by {_actor(caller)}"
        detail = one.node.quarantine_reason if one.node is not None else None
        self._record(caller, one, "node.resume", detail, **fresh)
        takes_nodes(self._connectors, caller.group).set_eligible(view.id, True)
        return self.get(caller, name)

    def remove(self, caller: Caller, name: str) -> NodeReport:
        """Forget a node. With the compute secret it may enrol again; rotate that, if it
        shall not. Repeating is fine.

        Raises Conflict while it runs jobs.
        """
        one = self._find(caller, name)
        view = one.view
        if view is not None and view.attempts and view.status is not NodeStatus.DOWN:
            raise Conflict(
                f"{name} has {view.attempts} attempts.",
                f"Drain it first (nomad-bridge nodes drain {name}).",
            )
        report = self._report(one)
        self._record(caller, one, "node.remove", None, removed_at=self._clock())
        if view is not None:
            takes_nodes(self._connectors, caller.group).remove(view.id)
        return report if one.node is None else self.get(caller, name)

    def _matches(self, caller: Caller) -> Sequence[Match]:
        require_admin(caller)
        group = caller.group
        views = takes_nodes(self._connectors, group).nodes()
        now = self._clock()
        found = self._db.read(lambda conn: match_pool(conn, group, views, now))
        return [one for one in found if one.node is None or one.node.group_id == group.id]

    def _find(self, caller: Caller, name: str) -> Match:
        named = [one for one in self._matches(caller) if _name(one) == name]
        if not named:
            raise NotFound("There is no such node in the group.", "nomad-bridge nodes list")
        return min(named, key=lambda one: one.node is None or one.node.removed_at is not None)

    def _report(self, one: Match) -> NodeReport:
        now = self._clock()
        state, reason = standing(one, now)
        view, node = one.view, one.node
        last_seen = None
        if view is not None:
            last_seen = now if view.status is NodeStatus.READY else view.changed_at
        # Before it has registered, what it was given at the door counts.
        generations = one.group.generations(now)
        current = node is not None and node.generation in generations
        return NodeReport(
            name=_name(one),
            state=state,
            reason=reason,
            generation_current=current if view is None else is_current(view, one.group, now),
            last_seen_at=last_seen,
            node=node,
            view=view,
            ui_url=self._link(one),
        )

    def _link(self, one: Match) -> str | None:
        connector = self._connectors.get(one.group.connector)
        if one.view is None or not isinstance(connector, Links):
            return None
        return connector.node_url(one.view.id)

    def _record(
        self, caller: Caller, one: Match, action: str, detail: str | None, **values: object
    ) -> None:
        def write(conn: Connection) -> None:
            if one.node is not None:
                nodes_db.change(conn, one.node.id, **values)
            self._audit(conn, caller, action, _name(one), detail)

        self._db.write(write)

    def _audit(
        self, conn: Connection, caller: Caller, action: str, name: str, detail: str | None
    ) -> None:
        audit.record(
            conn,
            group_id=caller.group.id,
            actor=_actor(caller),
            action=action,
            target=name,
            detail=detail,
            now=self._clock(),
        )


def match_pool(
    conn: Connection, group: Group, views: Sequence[NodeView], now: float
) -> Sequence[Match]:
    """The machines of a group's pool, which other groups may share."""
    where = (group.connector, group.node_pool)
    groups = [one for one in identity.list_groups(conn) if (one.connector, one.node_pool) == where]
    return match(groups, nodes_db.find(conn, *where), views, now)


def _name(one: Match) -> str:
    known: Node | NodeView | None = one.node or one.view
    assert known is not None
    return known.name


def _registered(one: Match, name: str) -> NodeView:
    if one.view is None:
        raise Conflict(f"{name} is not registered at the scheduler.", "Start run.sh there.")
    return one.view


def _actor(caller: Caller) -> str:
    return require_admin(caller).name
