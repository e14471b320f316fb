"""The connector contract: everything the core may ask of a scheduler.

A connector knows one scheduler and nothing of the database or the queue. What
it cannot learn is ``UNKNOWN``, what the scheduler no longer knows is ``GONE``;
it turns neither into success or failure. Two exceptions cross this line:
``JobRejected`` (always will be) and ``ConnectorUnavailable`` (cannot ask now).
Every call returns within a deadline. Calls come from several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, runtime_checkable

import msgspec

from bridge.models.attempt import AttemptSpec, Handle, Observation
from bridge.models.node import Admission, EnrolRequest, NodeView


class Finding(msgspec.Struct, frozen=True):
    """One thing a check looked at; ``remedy`` says what to do when not ``ok``."""

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""


class Health(msgspec.Struct, frozen=True):
    """What ``check`` found."""

    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """True when every finding is fine."""
        return all(finding.ok for finding in self.findings)


class Connector(Protocol):
    """Six methods; extra abilities are the small protocols below."""

    name: str

    def submit(self, spec: AttemptSpec) -> None:
        """Hand an attempt over under ``spec.handle``. Create-only and idempotent:
        called again with the same handle it changes nothing.

        Raises JobRejected, ConnectorUnavailable.
        """

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        """Look at attempts, by consistent reads. Every handle is in the answer.

        Raises ConnectorUnavailable.
        """

    def cancel(self, handle: Handle) -> None:
        """Ask that an attempt stops; its partial results are still uploaded.
        Idempotent; an unknown attempt is not an error.

        Raises ConnectorUnavailable.
        """

    def forget(self, handle: Handle) -> None:
        """Remove what the scheduler keeps of an ended attempt. Idempotent.

        Raises ConnectorUnavailable.
        """

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        """Everything not yet ended that bears this bridge's prefix.

        Raises ConnectorUnavailable.
        """

    def check(self) -> Health:
        """Whether the scheduler can be used, in words. Raises nothing."""


class Room(msgspec.Struct, frozen=True):
    """What a pool can start now, and what it could at most. Memory in MiB."""

    slots: int  # how many more attempts, whatever their size
    cores_free: int
    memory_free_mb: int
    cores_total: int  # of the largest single machine
    memory_total_mb: int  # of the largest single machine
    ready: bool = True  # some machine of the pool can take jobs; without one nothing is known
    queues: bool = False  # the scheduler keeps what cannot start yet, so a reserve may wait there


@runtime_checkable
class Capacity(Protocol):
    """A connector that knows how much room a pool has."""

    def room(self, namespace: str, node_pool: str) -> Room:
        """How much more may be handed over now.

        Raises ConnectorUnavailable.
        """


@runtime_checkable
class Watch(Protocol):
    """A connector that is told when something changes. Only a hint: polling is the truth."""

    def watch(
        self,
        namespaces: Callable[[], Iterable[str]],
        changed: Callable[[str | None], None],
        stopped: threading.Event,
    ) -> None:
        """Call ``changed`` with the native id of each attempt that changed, or with
        None when changes may have been missed, until ``stopped`` is set.

        ``namespaces`` is asked again on every (re)connection and now and then between.
        Returns when stopped; reconnects by itself with a growing delay.
        """


@runtime_checkable
class Nodes(Protocol):
    """A connector whose scheduler has nodes that groups bring themselves."""

    def enrol(self, request: EnrolRequest) -> Admission:
        """Let a node in: what it needs to join the pool under its name. Of the signing
        request only the public key is used.

        Raises InvalidRequest (the signing request), ConnectorUnavailable.
        """

    def nodes(self) -> list[NodeView]:
        """Every node the scheduler knows, of all pools.

        Raises ConnectorUnavailable.
        """

    def set_eligible(self, node_id: str, eligible: bool) -> None:
        """Whether a node may be given new attempts. Idempotent; True ends a drain.

        Raises ConnectorUnavailable.
        """

    def drain(self, node_id: str, deadline_s: float) -> None:
        """Give a node nothing more, and stop what still runs there after ``deadline_s``.

        Raises ConnectorUnavailable.
        """

    def remove(self, node_id: str) -> None:
        """Make the scheduler forget a node; one that is still connected is stopped for
        good, and forgotten by another call once it is down. Idempotent; an unknown node
        is not an error.

        Raises ConnectorUnavailable.
        """


@runtime_checkable
class Links(Protocol):
    """A connector whose scheduler has a web interface of its own, for operators."""

    def job_url(self, handle: Handle) -> str | None:
        """The page of an attempt, or None where no such interface is configured."""

    def node_url(self, node_id: str) -> str | None:
        """The page of a node, or None where no such interface is configured."""
