"""Nodes: what a machine says of itself, what the bridge enrolled, what a scheduler shows."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

# The image of self-tests. It is made on each node; stage fetches none of that name.
SELFTEST_NAME: Final = "bridge-selftest:"
SELFTEST_IMAGE: Final = f"{SELFTEST_NAME}1"


class NodeStatus(StrEnum):
    """What a scheduler says about a node."""

    INITIALIZING = "initializing"
    READY = "ready"
    DISCONNECTED = "disconnected"
    DOWN = "down"


class NodeState(StrEnum):
    """What a node is, in one word for people."""

    READY = "ready"
    DOWN = "down"
    DISCONNECTED = "disconnected"
    INITIALIZING = "initializing"
    PAUSED = "paused"  # by its owner
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    INELIGIBLE = "ineligible"
    ENROLLED = "enrolled"  # let in, and not registered at the scheduler yet
    STRANGER = "stranger"  # registered in the group's pool, and never let in
    REMOVED = "removed"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node says of itself when it enrols. Memory in MiB, disk in MB (10^6 bytes)."""

    cores: int
    memory_mb: int
    disk_mb: int
    architecture: str
    versions: Mapping[str, str]  # of nomad, docker, stage, bundle …
    limits: bool  # memory and core limits of containers are enforced (cgroup v2 delegated)
    clock: float  # the node's Unix time when it asked


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that asks to be let in. ``signing_request`` is PEM (PKCS #10)."""

    name: str
    signing_request: str
    facts: Facts


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler needs to let a node in. ``signing_request`` is PEM (PKCS #10)."""

    name: str
    node_pool: str
    generation: str
    signing_request: str
    limits: bool


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What a node needs to join: files by name, and until when they serve.

    The files hold secrets of the node: they are handed to it once and not kept.
    """

    files: Mapping[str, str]
    expires_at: float


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the scheduler shows it. Memory in MiB, disk in MB (10^6 bytes)."""

    id: str  # the scheduler's
    name: str
    node_pool: str
    status: NodeStatus
    eligible: bool
    draining: bool
    paused: bool  # by its owner
    generation: str | None
    stage_protocol: str | None
    versions: Mapping[str, str]
    changed_at: float | None  # when its status last changed
    cores_total: int
    cores_free: int
    memory_total_mb: int
    memory_free_mb: int
    disk_total_mb: int
    disk_free_mb: int
    attempts: int  # that it holds now
    trouble: str | None = None  # why it can run nothing though it is connected


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled node. Times are Unix seconds."""

    id: UUID
    group_id: UUID
    name: str
    native_id: str | None  # the scheduler's id, once it has registered
    generation: str
    facts: Facts
    enrolled_at: float
    expires_at: float  # of its certificate
    failures: int  # attempts in a row that failed here by no fault of the users
    last_failure: str | None
    quarantined_at: float | None
    quarantine_reason: str | None
    drained_at: float | None
    drained_by: str | None
    barred: str | None  # why the bridge itself made it ineligible
    selftest_at: float | None
    selftest_ok: bool | None
    selftest_detail: str | None
    removed_at: float | None


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """A node as its group's admins see it; ``node`` is None for a stranger, ``view`` for
    one that the scheduler does not know.
    """

    name: str
    state: NodeState
    reason: str | None
    generation_current: bool
    last_seen_at: float | None
    node: Node | None
    view: NodeView | None
    ui_url: str | None  # its page at the scheduler


class SelftestFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing a node looked at on itself; ``remedy`` says what to do when not ``ok``."""

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""
