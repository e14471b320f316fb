"""How much room a pool has, from listings of its nodes and of what lives on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct, structs

from bridge.connectors.base import Machine, Pending, Room
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.jobspec import MHZ_PER_CORE
from bridge.connectors.nomad.use import Use, memory_mb, mhz, out_of_order
from bridge.connectors.nomad.wire import Held, Node
from bridge.models.attempt import AttemptSpec
from bridge.models.node import NodeStatus

_PAGE: Final = 1000
_FRESH_S: Final = 1.0  # a listing is used so long
_AT_LEAST_S: Final = 0.2  # and that of allocations so long even when something has changed since
_HEARD_WITHIN_S: Final = 60.0
# Nomad sets no limit of its own to the number of attempts that fit.
_ANY: Final = 1_000_000


class Wish(Struct, frozen=True):
    """An attempt that was handed over and may not show up in a listing yet."""

    namespace: str
    cores: int
    memory_mb: int
    at: float


def measure(nodes: Iterable[Node], held: Iterable[Held], wishes: Iterable[Wish]) -> Room:
    """The room of a pool's ``nodes`` besides what is ``held`` there and what was
    handed over. Machines count in whatever state they are: they may return.
    """
    use = Use.of(held)
    machines = tuple(_machine(node, use) for node in nodes)
    ready = any(machine.ready for machine in machines)
    room = Room(slots=_ANY if ready else 0, machines=machines, queues=True)
    for wish in wishes:
        size = (wish.cores, wish.memory_mb)
        room = room.after_start(*size) or room.after_wait(*size)
    return room


def _machine(node: Node, use: Use) -> Machine:
    ready = _is_ready(node)
    return Machine(
        name=node.name or node.id,
        cores=mhz(node) // MHZ_PER_CORE,
        memory_mb=memory_mb(node),
        cores_free=max(mhz(node) - use.cpu[node.id], 0) // MHZ_PER_CORE if ready else 0,
        memory_free_mb=max(memory_mb(node) - use.memory[node.id], 0) if ready else 0,
        ready=ready,
    )


def _is_ready(node: Node) -> bool:
    connected = node.status is NodeStatus.READY and node.scheduling_eligibility == "eligible"
    return connected and out_of_order(node) is None


class Capacity:
    """Measures with few requests: listings are used again for up to a second."""

    def __init__(
        self,
        client: NomadClient,
        *,
        stage_protocol: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._stage_protocol = stage_protocol
        self._clock = clock
        self._lock = threading.Lock()
        self._changed_at = 0.0
        self._nodes: tuple[float, list[Node]] | None = None
        self._held: dict[str, tuple[float, list[Held]]] = {}
        self._wishes: dict[str, Wish] = {}
        self._least_memory_mb = 0

    def room(self, namespace: str, node_pool: str) -> Room:
        """What may be handed over now. Raises ConnectorUnavailable."""
        now = self._clock()
        # Jobs that come and go change nothing about the nodes.
        listed = self._nodes
        if listed is None or now - listed[0] >= _FRESH_S:
            listed = self._nodes = (now, self._listed())
        if namespace not in self._held or self._is_stale(self._held[namespace][0], now):
            allocs = self._client.live_allocations(namespace, _PAGE)
            self._held[namespace] = (now, [alloc for page in allocs for alloc in page])
        nodes = [node for node in listed[1] if node.node_pool == node_pool]
        held = self._held[namespace][1]
        return measure(nodes, held, self._unplaced(namespace, held, now))

    def takes_at_least(self, memory_mb: int) -> None:
        """What each attempt takes of a machine, however little it asks for. In MiB."""
        self._least_memory_mb = memory_mb

    def handed_over(self, spec: AttemptSpec) -> None:
        """Count an attempt that a listing may not show yet."""
        wish = Wish(spec.handle.namespace, spec.cores, spec.memory_mb, self._clock())
        with self._lock:
            self._wishes[spec.handle.native_id] = wish

    def recall(self, pending: Iterable[Pending]) -> None:
        """Count attempts that others handed over; those that have a machine show it soon."""
        now = self._clock()
        with self._lock:
            for one in pending:
                wish = Wish(one.handle.namespace, one.cores, one.memory_mb, now)
                self._wishes.setdefault(one.handle.native_id, wish)

    def ended(self, native_ids: Sequence[str]) -> None:
        """Attempts that hold nothing any more."""
        if native_ids:
            self.changed()
        with self._lock:
            for native_id in native_ids:
                self._wishes.pop(native_id, None)

    def still_waiting(self, native_ids: Iterable[str]) -> None:
        """Attempts that Nomad has just said it has no place for."""
        now = self._clock()
        with self._lock:
            for native_id in native_ids:
                if (wish := self._wishes.get(native_id)) is not None:
                    self._wishes[native_id] = structs.replace(wish, at=now)

    def changed(self) -> None:
        """Something happened at Nomad: the next answer is not from old listings."""
        self._changed_at = self._clock()

    def nodes_changed(self) -> None:
        """A node takes jobs now, or no longer: the next answer is from a new listing."""
        self._nodes = None

    def _listed(self) -> list[Node]:
        """The nodes set up for the bridge; those that their owners paused as ineligible."""
        ours = f'Meta.bridge_home is not empty and Meta.bridge_stage == "{self._stage_protocol}"'
        nodes = [node for page in self._client.nodes(_PAGE, ours) for node in page]
        # Listings do not show meta, so it takes a second one to see who is paused.
        pages = self._client.nodes(_PAGE, f"{ours} and Meta.bridge_paused is not empty")
        paused = {node.id for page in pages for node in page}
        return [
            structs.replace(node, scheduling_eligibility="paused") if node.id in paused else node
            for node in nodes
        ]

    def _is_stale(self, taken: float, now: float) -> bool:
        lasts = _AT_LEAST_S if self._changed_at >= taken else _FRESH_S
        return now - taken >= lasts

    def _unplaced(self, namespace: str, held: Iterable[Held], now: float) -> list[Wish]:
        placed = {alloc.job_id for alloc in held}
        with self._lock:
            # What was not heard of since is somebody else's by now.
            self._wishes = {
                native_id: wish
                for native_id, wish in self._wishes.items()
                if native_id not in placed and now - wish.at < _HEARD_WITHIN_S
            }
            return [
                structs.replace(wish, memory_mb=max(wish.memory_mb, self._least_memory_mb))
                for wish in self._wishes.values()
                if wish.namespace == namespace
            ]
