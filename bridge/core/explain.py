"""Why does it wait? One sentence with numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

import msgspec

from bridge.connectors.base import Machine, Room
from bridge.models.attempt import AttemptState
from bridge.models.explanation import Explanation
from bridge.models.job import FINAL, Job, JobState
from bridge.models.words import noun

# Jobs ahead are counted up to here; more than that is all the same to a person.
COUNTED: Final = 1000
_NAMED: Final = 3  # machines in a sentence


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a live job's surroundings. Limits of 0 are none."""

    connector: str
    away: str | None = None  # why the connector cannot be asked
    # Why it takes nothing over; of what it has taken, why it does not say how that goes on.
    refused: str | None = None
    # After a restore, before all that lives at the schedulers was listed; why not, if it is known.
    unlisted: str | None = None
    attempt: AttemptState | None = None  # where the last attempt is
    room: Room | None = None  # None where the pool does not know its room
    ahead: dict[str, int] = {}  # by user name, counted a little beyond COUNTED in all
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
            "room": None if facts.room is None else msgspec.to_builtins(facts.room),
        },
    )


def _handed_over(job: Job, facts: Facts) -> str:
    if job.cancel_requested_at is not None:
        return f"It was asked to stop; {facts.connector} has not shown the end yet."
    why = facts.away or facts.refused
    if job.state is JobState.RUNNING:
        where = f" on {job.node}" if job.node else ""
        runs = _closed(f"It runs{where}, phase {job.phase or 'executing'}", job.reason)
        asked = f"The connector {facts.connector} cannot be asked now"
        return f"{runs} {_closed(asked, why)}" if why else runs
    if facts.attempt is AttemptState.CLAIMED:
        yet = f"The connector {facts.connector} has not taken it yet, as attempt {job.attempt}"
        return f"{_closed(yet, why)} The hand-over is repeated until it does."
    if why:
        return _closed(f"It was handed over to {facts.connector}, which cannot be asked now", why)
    words = job.reason or (f"phase {job.phase}" if job.phase else "it has not started yet")
    return _closed(f"It was handed over to {facts.connector} as attempt {job.attempt}", words)


def _waits_for(job: Job, facts: Facts, now: float) -> str:
    """The one thing that keeps it from starting, the surest first."""
    if job.hold:
        return "It is held; release it to let it start."
    if job.not_before is not None and job.not_before > now:
        return f"Another attempt starts in {job.not_before - now:.0f} s ({job.reason})."
    missing = _unlisted(facts) or _connector(facts) or _limit(job, facts) or _room(job, facts.room)
    return missing or "It can start as soon as it is its turn."


def _unlisted(facts: Facts) -> str | None:
    if facts.unlisted is None:
        return None
    waits = "Nothing is handed over after a restore until all that runs at the schedulers is known"
    return _closed(waits, facts.unlisted)


def _connector(facts: Facts) -> str | None:
    if facts.away:
        return _closed(f"The connector {facts.connector} cannot be reached", facts.away)
    if facts.refused:
        return _closed(f"The connector {facts.connector} takes no jobs now", facts.refused)
    return None


def _limit(job: Job, facts: Facts) -> str | None:
    for whose, has, most in (
        (job.user, facts.mine_under_way, facts.running_per_user),
        ("The group", facts.group_under_way, facts.running_per_group),
    ):
        if most and has >= most:
            return f"{whose} has {has} {noun(has, 'job')} under way, the limit is {most}."
    return None


def _room(job: Job, room: Room | None) -> str | None:
    if room is None:
        return None
    if not room.ready:
        return "The group's pool has no ready node."
    enough = [one for one in room.machines if one.holds(job.cores, job.memory_mb)]
    if not enough:
        return _too_large(job, room)
    ready = [one for one in enough if one.ready]
    if not ready:
        names = _list([one.name for one in enough])
        return f"It needs {_size(job)}, and what has so much is not ready: {names}."
    if not any(map(partial(_is_free, job), ready)):
        return f"It needs {_size(job)}, and what has so much is busy: {_list(_short(job, ready))}."
    return "The pool takes no more jobs at the moment." if room.slots <= 0 else None


def _too_large(job: Job, room: Room) -> str:
    """The largest machines there are, of each kind."""
    largest = {
        max(room.machines, key=lambda one: (one.cores, one.memory_mb)),
        max(room.machines, key=lambda one: (one.memory_mb, one.cores)),
    }
    have = " and ".join(
        f"{one.name} has {_cores(one.cores)} and {one.memory_mb} MiB"
        for one in sorted(largest, key=lambda one: one.name)
    )
    what = (
        "It will be refused when it is its turn."
        if room.complete
        else "It waits for a larger one; cancel it if none will come."
    )
    return f"No machine is large enough: it needs {_size(job)}, {have}. {what}"


def _is_free(job: Job, one: Machine) -> bool:
    return job.cores <= one.cores_free and job.memory_mb <= one.memory_free_mb


def _short(job: Job, machines: Iterable[Machine]) -> list[str]:
    """What each machine has too little of, beginning with that which has most."""
    found = []
    for one in sorted(machines, key=lambda one: (-one.cores_free, -one.memory_free_mb)):
        lacks = []
        if job.cores > one.cores_free:
            lacks.append(f"{_cores(one.cores_free)}")
        if job.memory_mb > one.memory_free_mb:
            lacks.append(f"{one.memory_free_mb} MiB")
        found.append(f"{one.name} ({' and '.join(lacks)} free)")
    return found


def _closed(said: str, why: str | None) -> str:
    """A sentence; what others tell us may end with a full stop or without."""
    return f"{said}: {why.rstrip('.')}." if why else f"{said}."


def _list(words: Sequence[str]) -> str:
    more = len(words) - _NAMED
    return ", ".join(words[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _size(job: Job) -> str:
    return f"{_cores(job.cores)} and {job.memory_mb} MiB"


def _cores(count: int) -> str:
    return f"{count} {noun(count, 'core')}"


def _queue(ahead: dict[str, int]) -> str:
    count = sum(ahead.values())
    if not count:
        return " No job is ahead of it."
    shown = f"more than {COUNTED:,}" if count > COUNTED else f"{count:,}"
    users = sorted(ahead, key=lambda user: -ahead[user])
    whose = _list([f"{user} {ahead[user]:,}" for user in users])
    verb = "job is" if count == 1 else "jobs are"
    return f" {shown} {verb} ahead of it ({whose})."
