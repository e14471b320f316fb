"""The nodes as Nomad shows them, and what may be done to them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.faults import NoAnswer
from bridge.connectors.nomad.jobspec import MHZ_PER_CORE
from bridge.connectors.nomad.keeper import NodeKeeper
from bridge.connectors.nomad.use import Use, disk_mb, memory_mb, mhz, out_of_order
from bridge.connectors.nomad.wire import FullNode, Node
from bridge.errors import ConnectorUnavailable
from bridge.models.node import NodeStatus, NodeView

_PAGE: Final = 1000
_ALL_NAMESPACES: Final = "*"
_MB_PER_MIB: Final = 1.048576
_VERSIONS: Final = {
    "nomad": "nomad.version",
    "docker": "driver.docker.version",
    "kernel": "kernel.version",
}
# Nomad without a leader refuses everything, each time after some seconds.
_REFUSED_IN_A_ROW: Final = 3
_GONE: Final = FullNode("", 0, NodeStatus.DOWN)


def view(node: Node, full: FullNode, use: Use) -> NodeView:
    """A node in the words of the contract."""
    meta = full.meta or {}
    return NodeView(
        id=node.id,
        name=node.name,
        node_pool=node.node_pool,
        status=node.status,
        eligible=node.scheduling_eligibility == "eligible",
        draining=node.drain,
        paused="bridge_paused" in meta,
        generation=meta.get("bridge_generation"),
        stage_protocol=meta.get("bridge_stage"),
        versions=_versions(meta, full.attributes or {}),
        changed_at=float(full.status_updated_at) or None,
        cores_total=mhz(node) // MHZ_PER_CORE,
        cores_free=max(mhz(node) - use.cpu[node.id], 0) // MHZ_PER_CORE,
        memory_total_mb=memory_mb(node),
        memory_free_mb=max(memory_mb(node) - use.memory[node.id], 0),
        disk_total_mb=int(disk_mb(node) * _MB_PER_MIB),
        disk_free_mb=int(max(disk_mb(node) - use.disk[node.id], 0) * _MB_PER_MIB),
        attempts=use.attempts[node.id],
        trouble=out_of_order(node),
    )


def _versions(meta: Mapping[str, str], attributes: Mapping[str, str]) -> dict[str, str]:
    seen = {name: attributes[key] for name, key in _VERSIONS.items() if key in attributes}
    return seen | ({"stage": meta["bridge_stage"]} if "bridge_stage" in meta else {})


class NodeRoom:
    """Looks by the client of the bridge, changes by ``keeper``. Every method raises
    ConnectorUnavailable.
    """

    def __init__(self, client: NomadClient, keeper: NodeKeeper, prefix: str) -> None:
        self._client = client
        self._keeper = keeper
        self._prefix = prefix
        self._full: dict[str, FullNode] = {}
        self._unread: set[str] = set()
        self._lock = threading.Lock()

    def views(self) -> list[NodeView]:
        """Every node of every pool. One of which Nomad shows a newer state is read in
        full; the others are as they were read last, and so is one that cannot be read now.

        One that never was read cannot be shown, and left out it would look forgotten: then
        ConnectorUnavailable, and the next call goes on with those that lack.
        """
        with self._lock:
            stubs = [node for page in self._client.nodes(_PAGE) for node in page]
            pages = self._client.live_allocations(_ALL_NAMESPACES, _PAGE)
            use = Use.of((alloc for page in pages for alloc in page), self._prefix)
            fault = self._read([stub for stub in stubs if self._has_changed(stub)])
            known = {stub.id: self._full[stub.id] for stub in stubs if stub.id in self._full}
            self._full = known
            self._unread &= {stub.id for stub in stubs}
            if fault is not None and len(known) < len(stubs):
                raise fault
            return [view(stub, known[stub.id], use) for stub in stubs]

    def set_eligible(self, node_id: str, eligible: bool) -> None:
        """Whether a node may be given new attempts; True ends a drain."""
        self._keeper.set_eligible(node_id, eligible)

    def drain(self, node_id: str, deadline_s: float) -> None:
        """Give a node nothing more, and stop what still runs there after ``deadline_s``."""
        self._keeper.drain(node_id, deadline_s)

    def remove(self, node_id: str) -> None:
        """Forget a node that is down. One that is alive would register again at once, as
        new: it is stopped for good instead, and forgotten by a later call.
        """
        node = self._client.node(node_id)
        if node is None:
            return
        if node.status is NodeStatus.DOWN:
            self._keeper.purge(node_id)
        else:
            self._keeper.drain(node_id, 0)

    def _has_changed(self, stub: Node) -> bool:
        known = self._full.get(stub.id)
        return known is None or known.modify_index != stub.modify_index

    def _read(self, stubs: Iterable[Node]) -> ConnectorUnavailable | None:
        """Read nodes in full, as many as can be; the last error. What could not be read
        comes last the next time.
        """
        fault: ConnectorUnavailable | None = None
        refused = 0
        for stub in sorted(stubs, key=lambda one: one.id in self._unread):
            try:
                # None: forgotten by Nomad since it was listed, and not in the next listing.
                self._full[stub.id] = self._client.node(stub.id) or _GONE
            except ConnectorUnavailable as error:
                fault, refused = error, refused + 1
                if self._client.seconds_left() > 0:
                    self._unread.add(stub.id)
                if isinstance(error, NoAnswer) or refused == _REFUSED_IN_A_ROW:
                    break
            else:
                refused = 0
                self._unread.discard(stub.id)
        return fault
