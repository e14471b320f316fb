"""What a node has, and what lives on it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Self

from msgspec import Struct

from bridge.connectors.nomad.wire import Held, Node

_DRIVERS: Final = ("docker", "raw_exec")


class Use(Struct, frozen=True):
    """What lives on a node: processor time in MHz, memory and disk in MiB."""

    cpu: Counter[str]
    memory: Counter[str]
    disk: Counter[str]
    attempts: Counter[str]

    @classmethod
    def of(cls, held: Iterable[Held], prefix: str = "") -> Self:
        """By node; ``attempts`` counts the jobs whose ids begin with ``prefix``."""
        use = cls(Counter(), Counter(), Counter(), Counter())
        for alloc in held:
            if alloc.allocated is not None:
                # The largest of its tasks: they run one after another.
                tasks = (alloc.allocated.tasks or {}).values()
                use.cpu[alloc.node_id] += max((task.cpu.cpu_shares for task in tasks), default=0)
                use.memory[alloc.node_id] += max(
                    (task.memory.memory_mb for task in tasks), default=0
                )
                use.disk[alloc.node_id] += alloc.allocated.shared.disk_mb
            use.attempts[alloc.node_id] += alloc.job_id.startswith(prefix)
        return use


def mhz(node: Node) -> int:
    """Processor time for jobs in MHz: what the node keeps for itself is not counted."""
    return node.resources.cpu.cpu_shares - node.reserved.cpu.cpu_shares


def memory_mb(node: Node) -> int:
    """Memory for jobs in MiB."""
    return node.resources.memory.memory_mb - node.reserved.memory.memory_mb


def disk_mb(node: Node) -> int:
    """Disk space for jobs in MiB, as it was when the node started."""
    return node.resources.disk.disk_mb - node.reserved.disk.disk_mb


def out_of_order(node: Node) -> str | None:
    """Why a node can run nothing though it may be connected, or None."""
    for name in _DRIVERS:
        driver = (node.drivers or {}).get(name)
        if driver is None or not driver.healthy:
            words = driver.health_description if driver is not None else ""
            return f"Nomad's driver {name} does not work: {words or 'it is not set up'}"
    return None
