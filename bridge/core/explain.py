"""Why does it wait? One sentence with numbers. Pure."""

from __future__ import annotations

import msgspec

from bridge.connectors.base import Room
from bridge.models.explanation import Explanation
from bridge.models.job import FINAL, Job, JobState

# Jobs ahead are counted up to here; more than that is all the same to a person.
COUNTED = 10_000


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a waiting job's surroundings. Limits of 0 are none."""

    connector: str
    away: str | None = None  # why the connector cannot be asked
    room: Room | None = None  # None where the pool does not know its room
    ahead: dict[str, int] = {}  # by user name, counted up to COUNTED in all
    mine_under_way: int = 0
    group_under_way: int = 0
    running_per_user: int = 0
    running_per_group: int = 0


def explain(job: Job, facts: Facts, *, now: float) -> Explanation:
    """Where a job is, and what it waits for."""
    if job.state in FINAL:
        tail = f": {job.reason}" if job.reason else ""
        return Explanation(sentence=f"The job has ended, {job.state}{tail}.")
    if job.state is not JobState.RECEIVED:
        return Explanation(sentence=_handed_over(job, facts))
    ahead = sum(facts.ahead.values())
    return Explanation(
        sentence=f"{_waits_for(job, facts, now)}{_queue(facts.ahead)}",
        ahead=ahead,
        details={
            "position": ahead + 1,
            "ahead_by_user": facts.ahead,
            "room": None if facts.room is None else msgspec.structs.asdict(facts.room),
        },
    )


def _handed_over(job: Job, facts: Facts) -> str:
    if job.cancel_requested_at is not None:
        return f"It was asked to stop; {facts.connector} has not shown the end yet."
    if job.state is JobState.RUNNING:
        where = f" on {job.node}" if job.node else ""
        return f"It runs{where}, phase {job.phase or 'executing'}."
    if facts.away:
        return f"It was handed over to {facts.connector}, which cannot be asked now: {facts.away}"
    words = job.reason or (f"phase {job.phase}" if job.phase else "it has not started yet")
    return f"It was handed over to {facts.connector} as attempt {job.attempt}: {words}."


def _waits_for(job: Job, facts: Facts, now: float) -> str:
    """The one thing that keeps it from starting, the surest first."""
    if job.hold:
        return "It is held; release it to let it start."
    if job.not_before is not None and job.not_before > now:
        return f"Another attempt starts in {job.not_before - now:.0f} s ({job.reason})."
    if facts.away:
        return f"The connector {facts.connector} cannot be reached: {facts.away}"
    if facts.running_per_user and facts.mine_under_way >= facts.running_per_user:
        return (
            f"{job.user} has {facts.mine_under_way} jobs under way, "
            f"the limit is {facts.running_per_user}."
        )
    if facts.running_per_group and facts.group_under_way >= facts.running_per_group:
        return (
            f"The group has {facts.group_under_way} jobs under way, "
            f"the limit is {facts.running_per_group}."
        )
    return _room(job, facts.room) or "It can start as soon as it is its turn."


def _room(job: Job, room: Room | None) -> str | None:
    if room is None:
        return None
    if not room.ready:
        return "The group's pool has no ready node."
    if job.cores > room.cores_total or job.memory_mb > room.memory_total_mb:
        return (
            f"No machine is large enough: it needs {_cores(job.cores)} and {job.memory_mb} MiB, "
            f"the largest has {_cores(room.cores_total)} and {room.memory_total_mb} MiB."
        )
    short = []
    if job.cores > room.cores_free:
        short.append(f"{_cores(job.cores)} ({max(room.cores_free, 0)} free)")
    if job.memory_mb > room.memory_free_mb:
        short.append(f"{job.memory_mb} MiB ({max(room.memory_free_mb, 0)} MiB free)")
    if short:
        return f"The machines are busy: it needs {' and '.join(short)}."
    return "The pool takes no more jobs at the moment." if room.slots <= 0 else None


def _cores(count: int) -> str:
    return f"{count} core{'' if count == 1 else 's'}"


def _queue(ahead: dict[str, int]) -> str:
    count = sum(ahead.values())
    if not count:
        return " No job is ahead of it."
    shown = f"more than {COUNTED:,}" if count >= COUNTED else f"{count:,}"
    users = sorted(ahead, key=lambda user: -ahead[user])
    whose = ", ".join(f"{user} {ahead[user]:,}" for user in users[:3])
    more = ", …" if len(users) > 3 else ""
    verb = "job is" if count == 1 else "jobs are"
    return f" {shown} {verb} ahead of it ({whose}{more})."
