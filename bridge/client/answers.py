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
    phase: str | None = None
    reason: str | None = None
    attempt: int = 0
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
