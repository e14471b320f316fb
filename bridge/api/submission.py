"""What every front door checks of a submission beyond the form of its fields."""

from __future__ import annotations

from collections.abc import Mapping

from bridge.api.limits import Limits
from bridge.errors import InvalidRequest
from bridge.models.job import NewJob


def over_limit(
    job: NewJob, limits: Limits, at: str, names: Mapping[str, str]
) -> InvalidRequest | None:
    """The first size of ``job`` that is over what this service takes, or None.

    ``at`` is the path of the submission in its request; ``names`` has the field
    names of the front door, where they differ from the model's.
    """
    for field, value, most in (
        ("cores", job.cores, limits.max_cores),
        ("memory_mb", job.memory_mb, limits.max_memory_mb),
        ("oom_retry_mb", job.oom_retry_mb, limits.max_memory_mb),
        ("time_limit_s", job.time_limit_s, limits.max_time_limit_s),
    ):
        if value > most:
            return InvalidRequest(
                f"{at}.{names.get(field, field)}: {value} is over the limit of {most}.",
                "The operator of this service sets the limit.",
            )
    return None
