"""Why Nomad has not placed a job, in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bridge.connectors.nomad.wire import Evaluation, Metric

_DIMENSIONS = {
    "cpu": "cores",
    "cores": "cores",
    "memory": "memory",
    "disk": "disk space",
    "devices": "devices",
}
# Constraints of ours, by the attribute they name; their values are not shown.
_CONSTRAINTS = {
    "bridge_home": "not set up for this bridge",
    "bridge_stage": "with a stage program of another version",
    "bridge_generation": "not enrolled since the compute secret was rotated",
    "bridge_paused": "paused by the owner",
    "bridge_limits": "without limits of memory and cores for containers",
    "node.unique.id": "not the one that is meant",
    "missing drivers": "without a healthy container engine",
}


def why_waiting(evaluations: Sequence[Evaluation]) -> str | None:
    """One sentence that names what is short, or None while the scheduler thinks."""
    by_age = sorted(evaluations, key=lambda one: one.create_index, reverse=True)
    for one in by_age:
        metrics = list((one.failed_groups or {}).values())
        if metrics:
            return "Waiting for a machine: " + "; ".join(_short_of(metrics[0]))
        if one.status == "failed":
            return f"Nomad could not place it yet: {one.status_description}"
    return None


def _short_of(metric: Metric) -> Iterator[str]:
    if sum((metric.nodes_available or {}).values()) == 0:
        yield "none of the group's machines is connected"
        return
    for dimension, nodes in sorted((metric.dimension_exhausted or {}).items()):
        name = _DIMENSIONS.get(dimension, dimension)
        yield f"not enough {name} free on {_machines(nodes)}{_needed(metric, dimension)}"
    for constraint, nodes in sorted((metric.constraint_filtered or {}).items()):
        yield f"{_machines(nodes)} {_unfit(constraint)}"
    if not metric.dimension_exhausted and not metric.constraint_filtered:
        yield f"none of {_machines(metric.nodes_evaluated)} fits"


def _needed(metric: Metric, dimension: str) -> str:
    field, unit, per_unit = {
        "memory": ("MemoryMB", "MiB", 1),
        "cpu": ("CPU", "cores", 1000),
        "cores": ("Cores", "cores", 1),
        "disk": ("DiskMB", "MiB", 1),
    }.get(dimension, ("", "", 1))
    tasks = (metric.resources_exhausted or {}).values()
    most = max((int(task.get(field) or 0) for task in tasks), default=0)
    return f" (the job needs {most / per_unit:.12g} {unit})" if most else ""


def _unfit(constraint: str) -> str:
    for name, words in _CONSTRAINTS.items():
        if name in constraint:
            return words
    return f"do not meet {re.sub(r'[^ -~]', '?', constraint)[:120]}"


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"
