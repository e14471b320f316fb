"""A set: a name that many jobs share, to be watched and steered as one."""

from __future__ import annotations

import msgspec

from bridge.models.job import JobState


class SetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How a set stands. Times are Unix seconds of its oldest and newest job."""

    name: str
    jobs: dict[JobState, int]
    first_at: float
    last_at: float
