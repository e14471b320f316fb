"""What Nomad answers, as far as the bridge reads it.

Unknown fields are ignored, ``null`` is what Go writes for an empty map or list.
Times in events are Unix nanoseconds, other times are RFC 3339 texts.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from bridge.models.node import NodeStatus


class Event(Struct, frozen=True, rename="pascal"):
    """One of the last ten things that happened to a task."""

    type: str
    display_message: str = ""
    details: dict[str, str] | None = None


class TaskState(Struct, frozen=True, rename="pascal"):
    """A task of an allocation. ``state`` is pending, running or dead."""

    state: str = "pending"
    failed: bool = False
    started_at: str | None = None
    finished_at: str | None = None
    events: tuple[Event, ...] | None = None


class Alloc(Struct, frozen=True, rename="pascal"):
    """A list stub of an allocation: one placement of a job on a node."""

    id: str = field(name="ID")
    job_id: str = field(name="JobID")
    create_index: int
    client_status: str
    desired_status: str
    client_description: str = ""
    desired_description: str = ""
    node_id: str = field(name="NodeID", default="")
    node_name: str = ""
    create_time: int = 0  # by the server's clock, Unix nanoseconds
    task_states: dict[str, TaskState] | None = None


class Cpu(Struct, frozen=True, rename="pascal"):
    """Processor time in MHz."""

    cpu_shares: int = 0


class Memory(Struct, frozen=True, rename="pascal"):
    """Memory in MiB."""

    memory_mb: int = field(name="MemoryMB", default=0)


class Disk(Struct, frozen=True, rename="pascal"):
    """Disk space in MiB."""

    disk_mb: int = field(name="DiskMB", default=0)


class Resources(Struct, frozen=True, rename="pascal"):
    """Of a node, or of one task of an allocation."""

    cpu: Cpu = field(default_factory=Cpu)
    memory: Memory = field(default_factory=Memory)
    disk: Disk = field(default_factory=Disk)


class Allocated(Struct, frozen=True, rename="pascal"):
    """What the tasks of an allocation were given, and the allocation itself."""

    tasks: dict[str, Resources] | None = None
    shared: Disk = field(default_factory=Disk)


class Held(Struct, frozen=True, rename="pascal"):
    """An allocation as far as it holds room on its node."""

    job_id: str = field(name="JobID")
    node_id: str = field(name="NodeID")
    allocated: Allocated | None = field(name="AllocatedResources", default=None)


class Driver(Struct, frozen=True, rename="pascal"):
    """A task driver of a node."""

    healthy: bool = False
    health_description: str = ""


class Node(Struct, frozen=True, rename="pascal"):
    """A list stub of a node. It lacks ``meta``, though listings can be filtered by it."""

    id: str = field(name="ID")
    node_pool: str
    status: NodeStatus
    name: str = ""
    version: str = ""
    scheduling_eligibility: str = ""
    drain: bool = False
    modify_index: int = 0
    drivers: dict[str, Driver] | None = None
    resources: Resources = field(name="NodeResources", default_factory=Resources)
    reserved: Resources = field(name="ReservedResources", default_factory=Resources)


class FullNode(Struct, frozen=True, rename="pascal"):
    """What only a node itself tells. It changes with the node's ``modify_index``."""

    id: str = field(name="ID")
    modify_index: int
    status: NodeStatus
    meta: dict[str, str] | None = None
    attributes: dict[str, str] | None = None
    status_updated_at: int = 0  # Unix seconds


class Metric(Struct, frozen=True, rename="pascal"):
    """Why a task group could not be placed: node counts by reason."""

    nodes_evaluated: int = 0
    nodes_filtered: int = 0
    nodes_exhausted: int = 0
    nodes_available: dict[str, int] | None = None
    constraint_filtered: dict[str, int] | None = None
    dimension_exhausted: dict[str, int] | None = None
    resources_exhausted: dict[str, dict[str, Any]] | None = None


class Evaluation(Struct, frozen=True, rename="pascal"):
    """One run of the scheduler for a job."""

    id: str = field(name="ID")
    create_index: int
    status: str
    job_id: str = field(name="JobID", default="")
    status_description: str = ""
    failed_groups: dict[str, Metric] | None = field(name="FailedTGAllocs", default=None)


class Summary(Struct, frozen=True, rename="pascal"):
    """How many allocations of each task group are in which state."""

    summary: dict[str, dict[str, int]] | None = None


class Job(Struct, frozen=True, rename="pascal"):
    """A job, in full or as a list stub. ``status`` is pending, running or dead."""

    id: str = field(name="ID")
    status: str = "pending"
    stop: bool = False
    namespace: str = ""
    job_summary: Summary | None = None  # in listings only

    @property
    def never_placed(self) -> bool:
        """Whether a listing tells that no node has ever had it."""
        groups = (self.job_summary.summary if self.job_summary else None) or {}
        counts = {state: n for group in groups.values() for state, n in group.items() if n}
        return bool(groups) and self.status == "pending" and counts.keys() <= {"Queued"}


class Validation(Struct, frozen=True, rename="pascal"):
    """The answer to a job that was only to be checked."""

    validation_errors: tuple[str, ...] | None = None
    error: str = ""


class Token(Struct, frozen=True, rename="pascal"):
    """The ACL token we bear, as Nomad describes it. Never its secret."""

    type: str = ""
    policies: tuple[str, ...] | None = None
    expiration_time: str | None = None


class Member(Struct, frozen=True, rename="pascal"):
    """A Nomad server."""

    name: str = ""
    tags: dict[str, str] | None = None


class Members(Struct, frozen=True, rename="pascal"):
    """The Nomad servers of all regions."""

    members: tuple[Member, ...] | None = None


class Namespace(Struct, frozen=True, rename="pascal"):
    """A namespace in which the token may do something."""

    name: str
