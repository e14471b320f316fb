"""Compares what registered at a scheduler with what was enrolled, and acts on it.

Who was not let in, who was let in with a secret that no longer counts, and who fails job
after job is made ineligible; who was made so by us and is fine again gets jobs again. What
an operator does at the scheduler is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from bridge import log
from bridge.connectors.base import Connector, Nodes
from bridge.core.jobs import cancel_job
from bridge.core.node_rules import Match, bar, match, may_pass, quarantine_reason
from bridge.core.patience import Act, Patience
from bridge.db import attempts, audit, identity, selftests
from bridge.db import nodes as nodes_db
from bridge.db.engine import Connection, Transactions
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Cause, Handle, Observation, Observed
from bridge.models.node import Node, NodeView

_log = log.get(__name__)

_ACTOR: Final = "bridge"
_SELFTEST_PATIENCE_S: Final = 900.0  # then nobody asks for its result any more
_SELFTEST_KEPT_S: Final = 86400.0
_BATCH: Final = 500
# Then a node in quarantine for the storage's sake may show with one attempt whether that is back.
_STORAGE_PAUSE_S: Final = 900.0


class NodeWatch:
    """One pass is ``step``. ``quarantine_failures`` in a row are too many; 0: never."""

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        quarantine_failures: int,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._quarantine_failures = quarantine_failures
        self._patience = patience or Patience()
        self._clock = clock

    def step(self) -> None:
        """Look at all nodes once. A scheduler that cannot be asked changes nothing."""
        self._withdraw()
        self._tidy_selftests()
        self._end_quarantine()
        self._quarantine()
        for name, connector in self._connectors.items():
            if isinstance(connector, Nodes) and not self._patience.waits(name, Act.NODES):
                self._inspect(name, connector)

    def _withdraw(self) -> None:
        """Attempts that wait for nodes which no longer count are taken back, to be handed
        over anew. What is placed runs to its end; whether it is, its scheduler is asked
        first, because a good deal of what is stored has begun since.
        """
        now = self._clock()

        def read(conn: Connection) -> list[attempts.Unplaced]:
            wanted: dict[UUID, str | None] = {
                group.id: " ".join(group.generations(now)) or None
                for group in identity.list_groups(conn)
            }
            return [
                one for one in attempts.unplaced(conn) if one.generations != wanted[one.group_id]
            ]

        stale = self._db.read(read)
        waiting = {handle for handle, seen in self._ask_about(stale).items() if _waits(seen)}
        stale = [one for one in stale if one.handle in waiting]
        if not stale:
            return

        def write(conn: Connection) -> None:
            for one in stale:
                attempts.request_stop(
                    conn, one.job_id, number=one.number, cause=Cause.WITHDRAWN, now=now
                )

        self._db.write(write)
        _log.info("action=withdraw attempts=%d", len(stale))

    def _ask_about(self, some: Sequence[attempts.Unplaced]) -> dict[Handle, Observation]:
        by_place: dict[tuple[str, str], list[Handle]] = {}
        for one in some:
            by_place.setdefault((one.connector, one.handle.namespace), []).append(one.handle)
        seen: dict[Handle, Observation] = {}
        for (name, place), handles in by_place.items():
            if name not in self._connectors or self._patience.waits(name, Act.NODES, place):
                continue
            try:
                seen |= self._connectors[name].poll(handles)
            except ConnectorUnavailable as away:
                self._patience.failed(name, Act.NODES, away, place)
            else:
                self._patience.worked(name, Act.NODES, place)
        return seen

    def _tidy_selftests(self) -> None:
        now = self._clock()
        overdue = self._db.read(lambda conn: selftests.overdue(conn, now - _SELFTEST_PATIENCE_S))
        before = now - _SELFTEST_KEPT_S
        old = self._db.read(lambda conn: selftests.ended(conn, before, _BATCH))

        def write(conn: Connection) -> None:
            for job_id in overdue:
                cancel_job(conn, job_id, now)
            selftests.remove(conn, old)

        if overdue or old:
            self._db.write(write)

    def _quarantine(self) -> None:
        most = self._quarantine_failures
        if not most:
            return
        now = self._clock()
        for node in self._db.read(lambda conn: nodes_db.failing(conn, most)):
            reason = quarantine_reason(node)
            self._change(
                node.group_id,
                node,
                "node.quarantine",
                reason,
                quarantined_at=now,
                quarantine_reason=reason,
            )

    def _end_quarantine(self) -> None:
        """An absence of the storage must not cost a group all its nodes for good."""
        before = self._clock() - _STORAGE_PAUSE_S
        # The next failure in a row is one too many again.
        failures = max(self._quarantine_failures - 1, 0)
        for node in self._db.read(lambda conn: nodes_db.quarantined(conn, before)):
            if may_pass(node):
                self._change(
                    node.group_id,
                    node,
                    "node.try-again",
                    node.quarantine_reason or "",
                    failures=failures,
                    quarantined_at=None,
                    quarantine_reason=None,
                )

    def _inspect(self, name: str, connector: Nodes) -> None:
        try:
            views = connector.nodes()
        except ConnectorUnavailable as away:
            self._patience.failed(name, Act.NODES, away, "")
            return
        self._patience.worked(name, Act.NODES, "")
        now = self._clock()

        def read(conn: Connection) -> list[Match]:
            groups = [one for one in identity.list_groups(conn) if one.connector == name]
            return match(groups, nodes_db.find(conn, name), views, now)

        for one in self._db.read(read):
            place = one.view.name if one.view is not None else ""
            if self._patience.waits(name, Act.NODES, place):
                continue
            try:
                self._judge(connector, one, now)
            except ConnectorUnavailable as away:
                self._patience.failed(name, Act.NODES, away, place)
            else:
                self._patience.worked(name, Act.NODES, place)

    def _judge(self, connector: Nodes, one: Match, now: float) -> None:
        """Every news is written before the scheduler is called: that fails where another leads."""
        view = one.view
        if view is None:
            return
        barred = bar(one, now)
        if one.node is None:
            if barred is not None and view.eligible:
                self._change(one.group.id, None, "node.bar", barred, name=view.name)
                connector.set_eligible(view.id, False)
            return
        node = one.node if one.node.native_id == view.id else self._bind(one.node, view)
        if barred is not None:
            if node.barred != barred:
                self._change(node.group_id, node, "node.bar", barred, barred=barred)
            if view.eligible and self._is_barred(node):
                connector.set_eligible(view.id, False)
        elif node.barred is not None:
            self._lift(connector, node, view)

    def _is_barred(self, node: Node) -> bool:
        """Whether it still is: were we paused, another may lead, and have let it in again. What
        we made ineligible then would stay so, as if an operator had.
        """

        def read(conn: Connection) -> bool:
            stored = nodes_db.get(conn, node.group_id, node.name)
            return stored is not None and stored.barred is not None

        return self._db.write(read, lasting=False)

    def _bind(self, node: Node, view: NodeView) -> Node:
        """Note which machine the node is. It may have been there as a stranger before."""
        barred = node.barred if view.eligible else "it registered before it was let in"
        self._db.write(
            lambda conn: nodes_db.change(conn, node.id, native_id=view.id, barred=barred)
        )
        _log.info("action=bind node=%s native_id=%s", node.name, view.id)
        return msgspec.structs.replace(node, native_id=view.id, barred=barred)

    def _lift(self, connector: Nodes, node: Node, view: NodeView) -> None:
        """Eligible again, unless an admin drained it; done when it is seen to be."""
        if view.eligible or view.draining or node.drained_at is not None:
            self._change(node.group_id, node, "node.unbar", node.barred or "", barred=None)
        else:
            connector.set_eligible(view.id, True)

    def _change(
        self,
        group_id: UUID,
        node: Node | None,
        action: str,
        detail: str,
        *,
        name: str = "",
        **values: object,
    ) -> None:
        target = node.name if node is not None else name

        def write(conn: Connection) -> None:
            if node is not None:
                nodes_db.change(conn, node.id, **values)
            audit.record(
                conn,
                group_id=group_id,
                actor=_ACTOR,
                action=action,
                target=target,
                detail=detail,
                now=self._clock(),
            )

        self._db.write(write)
        _log.warning("action=%s node=%s reason=%s", action, target, detail)


def _waits(seen: Observation) -> bool:
    """Whether no machine has it, as far as its scheduler knows."""
    return seen.node is None and seen.state in (Observed.PENDING, Observed.GONE)
