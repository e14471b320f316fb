"""A scheduler for the state machine of the queue: it has machines, and starts what fits."""

from __future__ import annotations

from collections import Counter
from typing import Final
from uuid import UUID

import msgspec

from bridge.connectors.base import Machine, Room
from bridge.core.queue import Chosen, Waiting

ANY: Final = 1_000_000


class Run(msgspec.Struct):
    """A job that runs, where, and through how many passes it did."""

    job: Waiting
    where: str
    passes: int = 0


class Scheduler:
    """Starts what it was handed wherever that fits, in any order, and keeps the rest.

    ``alone``: it has one machine, and refuses what that could never hold. ``blind``: what it
    has room for is not known, and it runs everything.
    """

    def __init__(self, kind: str) -> None:
        self.alone, self.blind = kind == "one machine", kind == "blind"
        self.machines: dict[str, Machine] = {}
        self.running: list[Run] = []
        self.pending: list[Chosen] = []

    def room(self) -> Room | None:
        """As a connector tells it: what waits here has its room already."""
        if self.blind:
            return None
        found = self.free()
        most = ANY if any(one.ready for one in found) else 0
        slots = found[0].cores_free if self.alone else most
        room = Room(slots=slots, machines=found, queues=not self.alone, complete=self.alone)
        for one in self.pending:
            size = (one.job.cores, one.job.memory_mb)
            room = room.after_start(*size) or room.after_wait(*size)
        return room

    def free(self) -> tuple[Machine, ...]:
        """The machines with what is free beside what runs."""
        found = []
        for name, one in self.machines.items():
            here = [run.job for run in self.running if run.where == name]
            cores = one.cores - sum(job.cores for job in here)
            memory_mb = one.memory_mb - sum(job.memory_mb for job in here)
            left = {"cores_free": cores * one.ready, "memory_free_mb": memory_mb * one.ready}
            found.append(msgspec.structs.replace(one, **left))
        return tuple(found)

    def holds(self, job: Waiting) -> bool:
        """Whether it could run on a machine that is ready, were that empty."""
        return self.blind or any(one.ready and could_hold(one, job) for one in self.free())

    def place(self, *, newest_first: bool = False) -> None:
        """Start what fits; what it shall avoid it does where it can."""
        for one in self.pending[:: -1 if newest_first else 1]:
            fits = [
                (machine.name in one.avoid, machine.cores_free, machine.name)
                for machine in self.free()
                if has_free(machine, one.job)
            ]
            if fits or self.blind:
                self.pending.remove(one)
                self.running.append(Run(one.job, min(fits)[-1] if fits else ""))

    def under_way(self) -> Counter[UUID]:
        """By user, what was handed over and has not ended."""
        of = [one.job for one in self.pending] + [run.job for run in self.running]
        return Counter(job.user_id for job in of)


def has_free(machine: Machine, job: Waiting) -> bool:
    return job.cores <= machine.cores_free and job.memory_mb <= machine.memory_free_mb


def could_hold(machine: Machine, job: Waiting) -> bool:
    return machine.holds(job.cores, job.memory_mb)
