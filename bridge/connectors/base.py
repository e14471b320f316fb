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
    """One thing a check looked at; ``remedy`` says what to do when not ``ok``.

    ``degrades``: what fails there keeps nobody from being served, though less is done for them.
    """

    what: str
    ok: bool
    detail: str = ""
    remedy: str = ""
    degrades: bool = False


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
        """Look at attempts, by consistent reads. Every handle is in the answer, but those
        that there was no time for: a later call begins with them; and those of which the
        scheduler's words cannot be read, where others could.

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


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs may have of one machine, and what of it is free. Memory in MiB."""

    name: str
    cores: int
    memory_mb: int
    cores_free: int
    memory_free_mb: int
    ready: bool = True  # can take jobs now; one that cannot may return
    kept: bool = False  # for an attempt that waits for it: others go elsewhere if they can

    def holds(self, cores: int, memory_mb: int) -> bool:
        """Whether so much fits when it is empty, in whatever state it is."""
        return cores <= self.cores and memory_mb <= self.memory_mb


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What a pool can start now, and what it could at most."""

    slots: int  # how many more attempts, whatever their size
    machines: tuple[Machine, ...] = ()
    queues: bool = False  # the scheduler keeps what cannot start yet, so a reserve may wait there
    complete: bool = False  # no other machine ever joins: what fits none of these is refused
    # The most that one of those asks for which wait there: a smaller one would overtake it.
    waiting_cores: int = 0
    waiting_memory_mb: int = 0

    @property
    def ready(self) -> bool:
        """Whether some machine can take jobs; without one nothing is known."""
        return any(machine.ready for machine in self.machines)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the machines that are kept for somebody."""
        return tuple(machine.name for machine in self.machines if machine.kept)

    @property
    def has_free(self) -> bool:
        """Whether anything could start now, however small."""
        return any(one.cores_free > 0 and one.memory_free_mb > 0 for one in self.machines)

    def after_start(self, cores: int, memory_mb: int) -> Room | None:
        """What is left when an attempt starts where it fits most tightly; None: nowhere now."""
        fits = (
            (one.cores_free, at)
            for at, one in enumerate(self.machines)
            if cores <= one.cores_free and memory_mb <= one.memory_free_mb
        )
        _, at = min(fits, default=(0, None))
        return None if at is None else self._less(at, cores, memory_mb)

    def after_wait(self, cores: int, memory_mb: int) -> Room:
        """What is left when an attempt waits at the scheduler for a machine: one that is large
        enough is kept free for it, so that small ones do not take its room for ever.
        """
        holds = (
            (one.cores_free, at)
            for at, one in enumerate(self.machines)
            if one.ready and one.holds(cores, memory_mb)
        )
        _, at = max(holds, default=(0, None))
        if at is None:
            return self
        return msgspec.structs.replace(
            self._less(at, cores, memory_mb, kept=True),
            waiting_cores=max(cores, self.waiting_cores),
            waiting_memory_mb=max(memory_mb, self.waiting_memory_mb),
        )

    def kept_for(self, cores: int, memory_mb: int) -> Room:
        """What is left to others while somebody waits for so much: nothing where it could be."""
        machines = tuple(
            msgspec.structs.replace(one, cores_free=0, memory_free_mb=0, kept=True)
            if one.ready and one.holds(cores, memory_mb)
            else one
            for one in self.machines
        )
        return msgspec.structs.replace(self, machines=machines)

    def _less(self, at: int, cores: int, memory_mb: int, kept: bool = False) -> Room:
        one = self.machines[at]
        rest = msgspec.structs.replace(
            one,
            cores_free=max(one.cores_free - cores, 0),
            memory_free_mb=max(one.memory_free_mb - memory_mb, 0),
            kept=one.kept or kept,
        )
        machines = (*self.machines[:at], rest, *self.machines[at + 1 :])
        return msgspec.structs.replace(self, machines=machines)


@runtime_checkable
class Capacity(Protocol):
    """A connector that knows how much room a pool has."""

    def room(self, namespace: str, node_pool: str) -> Room:
        """How much more may be handed over now.

        Raises ConnectorUnavailable.
        """


@runtime_checkable
class Survey(Protocol):
    """A connector that finds out by itself where this bridge has something."""

    def inhabited(self) -> set[str]:
        """Namespaces, of those that may be listed, with something not yet ended that bears
        this bridge's prefix. It may name some in which all has ended.

        Raises ConnectorUnavailable.
        """


class Pending(msgspec.Struct, frozen=True):
    """An attempt that was handed over and, for all that is stored, has no machine yet.
    Memory in MiB.
    """

    handle: Handle
    cores: int
    memory_mb: int


@runtime_checkable
class Backlog(Protocol):
    """A connector whose room depends on what waits at its scheduler."""

    def recall(self, pending: Iterable[Pending]) -> None:
        """Count what this process did not hand over itself, or before it was started anew."""


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
