"""A job: what a member handed in, and the states it may be in.

The words of ``JobState`` are the ones the public Leruli service uses on the
wire (``canceled`` with one l). Anything finer is a ``phase`` or a ``reason``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from bridge.models.identity import User


class JobState(StrEnum):
    """Where a job is. The last three are final."""

    RECEIVED = "received"  # in our queue
    SUBMITTED = "submitted"  # claimed for, or handed to, a scheduler
    RUNNING = "running"  # the user's program runs, or its results are being uploaded
    COMPLETED = "completed"  # ended well and the results are in the bucket
    FAILED = "failed"  # ended otherwise; the reason says how
    CANCELED = "canceled"  # stopped because somebody asked


FINAL: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELED})
LIVE: Final = frozenset(JobState) - FINAL

# Every legal change of state. Back to RECEIVED is another attempt; from an end, only
# because somebody asked for it.
MOVES: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.RECEIVED: frozenset({JobState.SUBMITTED, JobState.CANCELED, JobState.FAILED}),
    JobState.SUBMITTED: frozenset(
        {
            JobState.RECEIVED,
            JobState.RUNNING,
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.CANCELED,
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.RECEIVED, JobState.COMPLETED, JobState.FAILED, JobState.CANCELED}
    ),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset({JobState.RECEIVED}),
    JobState.CANCELED: frozenset({JobState.RECEIVED}),
}


class Phase(StrEnum):
    """What happens on the node right now, within a state."""

    STAGING = "staging"  # bucket → run directory (state: submitted)
    PULLING = "pulling"  # the image is being brought in (state: submitted)
    EXECUTING = "executing"  # the user's program runs (state: running)
    UPLOADING = "uploading"  # results → bucket (state: running)


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A checked submission. Units: MiB of memory, seconds of time."""

    bucket_id: UUID
    image: str
    name: str = "default"
    set: str | None = None
    cores: int = 1
    memory_mb: int = 4000
    time_limit_s: int = 86400
    priority: int = 50
    hold: bool = False
    input_sha256: str | None = None
    labels: dict[str, str] = {}
    oom_retry_mb: int = 0  # after an out-of-memory try again with up to this much; 0: do not


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job. Times are Unix seconds; ``phase`` and ``reason`` are for people."""

    id: UUID
    group_id: UUID
    user_id: UUID
    user: str
    bucket_id: UUID
    image: str
    name: str
    set: str | None
    cores: int
    memory_mb: int
    time_limit_s: int
    priority: int
    hold: bool
    input_sha256: str | None
    labels: dict[str, str]
    oom_retry_mb: int
    state: JobState
    phase: Phase | None = None
    reason: str | None = None
    attempt: int = 0  # how many attempts were started
    attempts_before: int = 0  # how many of them before somebody last had it tried again
    retries: int = 0  # how many of them made up for a fault that was not the job's
    not_before: float | None = None  # when it waits for another attempt
    created_at: float
    started_at: float | None = None  # first start of the user's program in the last attempt
    ended_at: float | None = None
    exit_code: int | None = None
    cause: str | None = None
    node: str | None = None
    cancel_requested_at: float | None = None
    prune_requested_at: float | None = None
    pruned_at: float | None = None
    pinned_to: str | None = None  # the only node that may run it: a self-test, hidden from members


def as_received(new: NewJob, *, id: UUID, owner: User, now: float) -> Job:
    """What a submission is once it is stored."""
    return Job(
        **msgspec.structs.asdict(new),
        id=id,
        group_id=owner.group_id,
        user_id=owner.id,
        user=owner.name,
        state=JobState.RECEIVED,
        created_at=now,
    )
