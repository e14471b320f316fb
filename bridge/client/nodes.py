"""The machines of a group: seen and steered by its admins."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from bridge.client.answers import decode
from bridge.client.api import Api

# What the stage program of this version speaks.
STAGE_PROTOCOL: Final = "1"

_DRAIN_S: Final = 3600


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's last self-test found."""

    at: datetime | None = None
    ok: bool | None = None
    detail: str | None = None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the group. Memory in MiB, disk in MB (10^6 bytes), times in UTC.

    ``state`` is one word (``ready``, ``down``, ``quarantined``, …), ``reason`` the
    sentence behind it. What nobody has told yet is None. A node whose
    ``generation_current`` is false was enrolled before the compute secret was rotated.
    """

    name: str
    state: str
    reason: str | None = None
    generation_current: bool | None = None
    enrolled_at: datetime | None = None
    expires_at: datetime | None = None
    last_seen_at: datetime | None = None
    attempts: int | None = None
    failures: int | None = None
    versions: dict[str, str] = {}
    cores_total: int | None = None
    cores_free: int | None = None
    memory_total_mb: int | None = None
    memory_free_mb: int | None = None
    disk_total_mb: int | None = None
    disk_free_mb: int | None = None
    limits: bool | None = None
    selftest: SelfTest | None = None
    ui_url: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a node that is of another version than it should be."""

    part: str
    found: str
    wanted: str


class Nodes:
    """The machines of the caller's group (admins).

    Every method raises Forbidden for others, NotFound for a name without a node, and
    as the service: Conflict for what cannot be done now.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def list(self) -> Sequence[Node]:
        """All of them, by name; also machines that registered without being enrolled."""
        return decode(self._api.get("nodes")["nodes"], tuple[Node, ...])

    def show(self, name: str) -> Node:
        """One of them."""
        return decode(self._api.get("nodes", name), Node)

    def drain(self, name: str, deadline_s: int = _DRAIN_S) -> Node:
        """Give a node no more jobs, and stop what still runs there after ``deadline_s``."""
        return decode(self._api.post("nodes", name, "drain", body={"deadline_s": deadline_s}), Node)

    def resume(self, name: str) -> Node:
        """Give a node jobs again, after a drain or a quarantine."""
        return decode(self._api.post("nodes", name, "resume"), Node)

    def remove(self, name: str) -> Node:
        """Forget a node. With the compute secret it can be enrolled again."""
        return decode(self._api.post("nodes", name, "remove"), Node)

    def require_limits(self, required: bool) -> None:
        """Whether jobs run only on nodes that enforce their limits of memory and cores."""
        self._api.post("nodes", "require-limits", body={"required": required})


def changes(node: Node, wanted: Mapping[str, Collection[str]]) -> list[Change]:
    """What of a node is of none of the versions that are wanted of it, by part.

    A part that the node does not tell is left out: nothing is known of it.
    """
    return [
        Change(part=part, found=found, wanted=" or ".join(sorted(versions)))
        for part, versions in wanted.items()
        if (found := node.versions.get(part)) is not None and found not in versions
    ]
