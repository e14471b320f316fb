"""A pool's room in two pairs of numbers: cores, and memory in MiB."""

from __future__ import annotations

from bridge.connectors.base import Room


def free(room: Room) -> tuple[int, int]:
    """What is free, of all machines together."""
    return (
        sum(one.cores_free for one in room.machines),
        sum(one.memory_free_mb for one in room.machines),
    )


def largest(room: Room) -> tuple[int, int]:
    """The most that some machine has, in whatever state it is."""
    return (
        max((one.cores for one in room.machines), default=0),
        max((one.memory_mb for one in room.machines), default=0),
    )
