"""What follows the end of an attempt: nothing, or another attempt. Pure.

A fault of the machine or of a service is worth another try, the job's own exit
never is. A machine that is drained costs the job no try. Running out of memory is
tried again with more of it, if the submitter allowed that. Whatever the causes, a
job that has had many attempts ends: it may be what brings the nodes down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge.backoff import doubled
from bridge.core.verdict import End
from bridge.models.attempt import Attempt, Cause
from bridge.models.job import Job, JobState

# Faults of machines and services.
WORTH_ANOTHER: Final = frozenset({Cause.NODE_LOST, Cause.STORAGE, Cause.INTERNAL})
_LONGEST_DELAY_S: Final = 3600.0


class Rules(msgspec.Struct, frozen=True):
    """How often, how soon, with how much. Times in seconds."""

    retries: int = 1  # more attempts after faults that were not the job's
    delay_s: float = 10.0  # before the first of them; doubles each time, up to an hour
    oom_factor: float = 1.5  # memory of the next attempt against the last
    attempts_at_most: int = 10


def follow_up(job: Job, end: End, *, now: float, rules: Rules) -> End:
    """``end`` as it is, or with ``job`` RECEIVED and what changes for the next attempt."""
    if job.attempt - job.attempts_before >= rules.attempts_at_most:
        return _give_up(job, end)
    final = end.job is not JobState.FAILED or job.cancel_requested_at is not None
    if final or job.pinned_to is not None:  # a self-test shall show what is wrong
        return end
    if end.cause is Cause.OOM:
        memory = more_memory(job, rules)
        if memory is None:
            return end
        words = f"out of memory with {job.memory_mb} MiB, next with {memory} MiB"
        return _again(end, reason=words, memory_mb=memory)
    free = end.cause is Cause.DRAINED
    if not free and (end.cause not in WORTH_ANOTHER or job.retries >= rules.retries):
        return end
    words = f"{end.reason or end.cause}; trying again"
    not_before = None if free else now + doubled(rules.delay_s, job.retries, _LONGEST_DELAY_S)
    return _again(end, reason=words, retried=not free, not_before=not_before)


def failed_on(earlier: Iterable[Attempt]) -> tuple[str, ...]:
    """Names of the nodes by whose fault, as it looks, earlier attempts ended. The emptiest
    node is often the one on which everything fails.
    """
    failed = [one.node for one in earlier if one.node and one.cause in WORTH_ANOTHER]
    return tuple(dict.fromkeys(failed))


def more_memory(job: Job, rules: Rules) -> int | None:
    """MiB for the attempt after an out-of-memory, or None when there is no more."""
    memory = min(math.ceil(job.memory_mb * rules.oom_factor), job.oom_retry_mb)
    return memory if memory > job.memory_mb else None


def _again(end: End, *, reason: str, **changes: object) -> End:
    return msgspec.structs.replace(end, job=JobState.RECEIVED, reason=reason, **changes)


def _give_up(job: Job, end: End) -> End:
    if end.job is not JobState.RECEIVED:
        return end
    count = job.attempt - job.attempts_before
    reason = f"gave up after {count} attempts: {end.reason or end.cause}"
    return msgspec.structs.replace(end, job=JobState.FAILED, reason=reason)
