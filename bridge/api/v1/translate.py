"""``/v1`` JSON and the models, both ways; no request, no service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from bridge.api import paging
from bridge.api.errors import plain, problem_of
from bridge.api.limits import Limits
from bridge.api.submission import over_limit
from bridge.errors import InvalidRequest, Refused
from bridge.models import fields
from bridge.models.attempt import Attempt, AttemptState, Cause
from bridge.models.explanation import Explanation
from bridge.models.identity import Caller, Role, User
from bridge.models.ids import of_text
from bridge.models.job import Job, JobState, NewJob, Phase
from bridge.models.job_set import SetSummary


class Submission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/jobs``."""

    bucket_id: fields.BucketId
    image: fields.Image
    name: fields.Title = "default"
    set: fields.Title | None = None
    cores: fields.Cores = 1
    memory_mb: fields.MemoryMb = 4000
    oom_retry_mb: fields.OomRetryMb = 0
    time_limit_s: fields.Seconds = 86400
    priority: fields.Priority = 50
    hold: bool = False
    input_sha256: fields.Sha256 | None = None
    labels: fields.Labels = {}


class PruneRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/jobs/{id}/prune``; ``deleted`` confirms that the data is gone."""

    deleted: bool = False


class NoFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that needs none."""


class UserRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/users``."""

    name: fields.UserName
    admin: bool = False


class RotateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/compute-secret/rotate``; seconds, without it as configured."""

    overlap_s: fields.Overlap | UnsetType = UNSET


class SecretRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/compute-secret/check``."""

    secret: str


class JobQuery(paging.Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of ``GET /v1/jobs``."""

    state: JobState | UnsetType = UNSET
    user: fields.UserName | UnsetType = UNSET
    set: fields.Title | UnsetType = UNSET


class SetQuery(paging.Page, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of ``GET /v1/sets``; the cursor is a name."""

    def after(self) -> str:
        """The name after which the page begins. Raises InvalidRequest."""
        if self.cursor is UNSET:
            return ""
        if not is_set_name(self.cursor):
            raise InvalidRequest("?cursor: is not one of ours.", paging.HINTS["cursor"])
        return self.cursor


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as its owner and the admins see it."""

    id: UUID
    name: str
    set: str | None
    user: str
    image: str
    bucket_id: UUID | None
    cores: int
    memory_mb: int
    time_limit_s: int
    priority: int
    hold: bool
    input_sha256: str | None
    labels: dict[str, str]
    oom_retry_mb: int
    state: JobState
    phase: Phase | None
    reason: str | None
    attempt: int
    retries: int
    not_before: str | None
    exit_code: int | None
    cause: str | None
    node: str | None
    ui_url: str | None
    created_at: str
    started_at: str | None
    ended_at: str | None
    cancel_requested_at: str | None
    prune_requested_at: str | None
    pruned_at: str | None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job. Its name and its page at the scheduler are for admins."""

    job: UUID
    number: int
    state: AttemptState
    native_id: str | None
    node: str | None
    claimed_at: str
    submitted_at: str | None
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    cause: Cause | None
    reason: str | None
    ui_url: str | None


class ExplanationView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is."""

    explanation: str
    ahead: int | None
    details: dict[str, object]


class SetView(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a set are in which state."""

    name: str
    jobs: dict[JobState, int]
    first_at: str
    last_at: str


class ActivityView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as everyone in the group sees it: nothing that leads to its data."""

    id: UUID
    user: str
    image: str
    state: JobState
    phase: Phase | None
    created_at: str
    started_at: str | None
    ended_at: str | None


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the admins see it."""

    name: str
    admin: bool
    created_at: str
    revoked_at: str | None
    last_used_at: str | None


QUERY_HINTS: Final = {
    **paging.HINTS,
    "state": f"One of {', '.join(JobState)}.",
    "user": "The name of a member.",
    "set": fields.HINTS["set"],
}

ONE: Final = msgspec.json.Decoder(Submission)
PRUNE: Final = msgspec.json.Decoder(PruneRequest)
NOTHING: Final = msgspec.json.Decoder(NoFields)
USER: Final = msgspec.json.Decoder(UserRequest)
ROTATE: Final = msgspec.json.Decoder(RotateRequest)
SECRET: Final = msgspec.json.Decoder(SecretRequest)


def new_job(sent: Submission, limits: Limits, at: str = "$") -> NewJob | InvalidRequest:
    """A submission as the model; an error if it is over a limit of this service, or senseless."""
    job = NewJob(
        bucket_id=of_text(sent.bucket_id),
        image=sent.image,
        name=sent.name,
        set=sent.set,
        cores=sent.cores,
        memory_mb=sent.memory_mb,
        time_limit_s=sent.time_limit_s,
        priority=sent.priority,
        hold=sent.hold,
        input_sha256=sent.input_sha256,
        labels=sent.labels,
        oom_retry_mb=sent.oom_retry_mb,
    )
    if 0 < job.oom_retry_mb <= job.memory_mb:
        return InvalidRequest(
            f"{at}.oom_retry_mb: {job.oom_retry_mb} is not more than memory_mb, {job.memory_mb}.",
            fields.HINTS["oom_retry_mb"],
        )
    return over_limit(job, limits, at, {}) or job


def is_user_name(text: str) -> bool:
    """Whether ``text`` can be the name of a member at all."""
    return _fits(text, fields.UserName)


def is_set_name(text: str) -> bool:
    """Whether ``text`` can be the name of a set at all."""
    return _fits(text, fields.Title)


def _fits(text: str, field: Any) -> bool:
    try:
        msgspec.convert(text, field)
    except msgspec.ValidationError:
        return False
    return True


def item_answer(result: UUID | Refused) -> dict[str, Any]:
    """One element of the answer to an array."""
    if isinstance(result, UUID):
        return {"status": 201, "id": result}
    problem = problem_of(result)
    return {"status": problem.status, **plain(problem)}


def job_view(job: Job, caller: Caller, page: str | None) -> JobView:
    """A job for ``caller``; ``page`` is its page at the scheduler. The bucket's name opens
    the data: owner and admins only.
    """
    own = caller.user is not None and caller.user.id == job.user_id
    return JobView(
        id=job.id,
        name=job.name,
        set=job.set,
        user=job.user,
        image=job.image,
        bucket_id=job.bucket_id if own or caller.role is Role.ADMIN else None,
        cores=job.cores,
        memory_mb=job.memory_mb,
        time_limit_s=job.time_limit_s,
        priority=job.priority,
        hold=job.hold,
        input_sha256=job.input_sha256,
        labels=job.labels,
        oom_retry_mb=job.oom_retry_mb,
        state=job.state,
        phase=job.phase,
        reason=job.reason,
        attempt=job.attempt,
        retries=job.retries,
        not_before=rfc3339_or_none(job.not_before),
        exit_code=job.exit_code,
        cause=job.cause,
        node=job.node,
        ui_url=page,
        created_at=rfc3339(job.created_at),
        started_at=rfc3339_or_none(job.started_at),
        ended_at=rfc3339_or_none(job.ended_at),
        cancel_requested_at=rfc3339_or_none(job.cancel_requested_at),
        prune_requested_at=rfc3339_or_none(job.prune_requested_at),
        pruned_at=rfc3339_or_none(job.pruned_at),
    )


def attempt_view(attempt: Attempt, caller: Caller, page: str | None) -> AttemptView:
    """An attempt for ``caller``; ``page`` is its page at the scheduler."""
    return AttemptView(
        job=attempt.job_id,
        number=attempt.number,
        state=attempt.state,
        native_id=attempt.native_id if caller.role is Role.ADMIN else None,
        node=attempt.node,
        claimed_at=rfc3339(attempt.claimed_at),
        submitted_at=rfc3339_or_none(attempt.submitted_at),
        started_at=rfc3339_or_none(attempt.started_at),
        ended_at=rfc3339_or_none(attempt.ended_at),
        exit_code=attempt.exit_code,
        cause=attempt.cause if attempt.state is AttemptState.ENDED else None,
        reason=attempt.reason,
        ui_url=page,
    )


def explanation_view(found: Explanation) -> ExplanationView:
    """An explanation in the words of the wire."""
    return ExplanationView(explanation=found.sentence, ahead=found.ahead, details=found.details)


def set_view(found: SetSummary) -> SetView:
    """A set as it stands."""
    return SetView(
        name=found.name,
        jobs=found.jobs,
        first_at=rfc3339(found.first_at),
        last_at=rfc3339(found.last_at),
    )


def activity_view(job: Job) -> ActivityView:
    """A job for any member of its group."""
    return ActivityView(
        id=job.id,
        user=job.user,
        image=job.image,
        state=job.state,
        phase=job.phase,
        created_at=rfc3339(job.created_at),
        started_at=rfc3339_or_none(job.started_at),
        ended_at=rfc3339_or_none(job.ended_at),
    )


def user_view(user: User) -> UserView:
    """A member for the admins."""
    return UserView(
        name=user.name,
        admin=user.admin,
        created_at=rfc3339(user.created_at),
        revoked_at=rfc3339_or_none(user.revoked_at),
        last_used_at=rfc3339_or_none(user.last_used_at),
    )


def whoami_view(caller: Caller) -> dict[str, Any]:
    """Who the caller is, and the names it needs to publish and find images."""
    return {
        "group": caller.group.name,
        "user": caller.user.name if caller.user else None,
        "role": caller.role,
        "admin": caller.role is Role.ADMIN,
        "group_token": caller.group.token if caller.user else None,
        "code_bucket": caller.group.code_bucket,
    }


def rfc3339(seconds: float) -> str:
    """Unix seconds as UTC with milliseconds, for example 2026-01-31T12:00:00.000Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def rfc3339_or_none(seconds: float | None) -> str | None:
    """The same, of a time that may not have come."""
    return None if seconds is None else rfc3339(seconds)
