"""What the service answers, as values.

Fields that this client does not know are ignored, so that a newer service can
say more.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from bridge.errors import Unreachable
from bridge.models.job import FINAL, JobState

T = TypeVar("T")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the service shows it. Memory in MiB, times in UTC.

    ``bucket_id`` is the key to the job's data; it is given to the job's owner
    and to admins only.
    """

    id: str
    state: JobState
    image: str
    name: str = "default"
    set: str | None = None
    user: str = ""
    bucket_id: str | None = None
    cores: int = 1
    memory_mb: int = 0
    time_limit_s: int = 0
    priority: int = 50
    hold: bool = False
    input_sha256: str | None = None
    labels: dict[str, str] = {}
    oom_retry_mb: int = 0
    phase: str | None = None
    reason: str | None = None
    attempt: int = 0
    retries: int = 0
    not_before: datetime | None = None
    exit_code: int | None = None
    cause: str | None = None
    node: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    prune_requested_at: datetime | None = None
    pruned_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL

    @property
    def held(self) -> bool:
        """Whether it waits until it is released."""
        return self.hold and self.state is JobState.RECEIVED


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job. ``native_id``, its name at the scheduler, is given to admins only."""

    number: int
    state: str
    job: str = ""
    native_id: str | None = None
    node: str | None = None
    claimed_at: datetime | None = None
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    cause: str | None = None
    reason: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is: a sentence, and its numbers by name.

    ``ahead`` is how many waiting jobs come before it, None when it does not wait.
    """

    explanation: str
    ahead: int | None = None
    details: dict[str, Any] = {}


class JobSet(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a set are in which state; when the first and the last came in."""

    name: str
    jobs: dict[JobState, int]
    first_at: datetime | None = None
    last_at: datetime | None = None

    @property
    def size(self) -> int:
        """How many jobs it has."""
        return sum(self.jobs.values())

    @property
    def ended(self) -> int:
        """How many of them are in a final state."""
        return sum(count for state, count in self.jobs.items() if state in FINAL)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a user used in a month (UTC, YYYY-MM)."""

    user: str
    month: str
    attempts: int
    core_seconds: float
    gpu_seconds: float = 0.0


class GroupUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a group used in a month (UTC, YYYY-MM)."""

    month: str
    attempts: int
    core_seconds: float
    gpu_seconds: float = 0.0


class Activity(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the group's activity: whose job it is and where it is."""

    id: str
    user: str
    image: str
    state: JobState
    phase: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A member of the group."""

    name: str
    admin: bool
    created_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the service takes us for."""

    group: str
    role: str
    user: str | None = None
    admin: bool = False
    group_token: str | None = None
    code_bucket: str | None = None


def decode(data: Any, kind: type[T]) -> T:
    """An answer as a value of ``kind``.

    Raises Unreachable when the answer is not what the protocol says: then
    something else than the service is listening there.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise Unreachable(
            f"the service's answer is not understood: {error}",
            "Check that BRIDGE_URL points to nomad-bridge and that client and service match.",
        ) from error
