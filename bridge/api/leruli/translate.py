"""The JSON of the public Leruli client (22.1.6) and the models, both ways.

Secrets travel in the body, sizes are ``memorymb`` and ``timelimit``, answers are
bare JSON strings or small objects, errors ``{"detail": …}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from bridge.api.errors import Problem, problem_of
from bridge.api.limits import Limits
from bridge.api.submission import over_limit
from bridge.errors import BridgeError, InvalidRequest, TooLarge
from bridge.models import fields
from bridge.models.job import Job, JobState, NewJob

# More than the client ever sends in one request; what is over is refused item by item.
BATCH_ITEMS: Final = 50

_NAMES: Final = {
    "bucket_id": "bucketid",
    "image": "codeversion",
    "memory_mb": "memorymb",
    "time_limit_s": "timelimit",
}
HINTS: Final = {_NAMES.get(name, name): hint for name, hint in fields.HINTS.items()}


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body with its secret, unless the Authorization header has it."""

    secret: str | UnsetType = UNSET


class TaskSubmit(Signed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A submission. ``codeversion`` may have capitals: the public docs write Psi4:1.5."""

    bucketid: fields.BucketId
    codeversion: str
    name: fields.Title
    cores: fields.Cores
    memorymb: fields.MemoryMb
    timelimit: fields.Seconds


class TaskQuery(Signed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which job."""

    jobid: str


class Administration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body with an admin's secret, unless the Authorization header has it."""

    adminsecret: str | UnsetType = UNSET


class CreateUser(Administration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new member."""

    name: fields.UserName
    admin: bool = False


class RevokeUser(Administration, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member who leaves."""

    name: fields.UserName


ONE: Final = msgspec.json.Decoder(TaskSubmit)
TASK: Final = msgspec.json.Decoder(TaskQuery)
SIGNED: Final = msgspec.json.Decoder(Signed)
CREATE_USER: Final = msgspec.json.Decoder(CreateUser)
REVOKE_USER: Final = msgspec.json.Decoder(RevokeUser)
ADMINISTRATION: Final = msgspec.json.Decoder(Administration)


def new_job(sent: TaskSubmit, limits: Limits, at: str = "$") -> NewJob | InvalidRequest:
    """A submission as the model, or what is wrong with it."""
    name, _, version = sent.codeversion.rpartition(":")
    # Image names are lower case everywhere, versions are not.
    image = f"{name.lower()}:{version}"
    try:
        msgspec.convert(image, fields.Image)
    except msgspec.ValidationError:
        return InvalidRequest(
            f"{at}.codeversion: does not have the right form.", HINTS["codeversion"]
        )
    job = NewJob(
        bucket_id=UUID(sent.bucketid),
        image=image,
        name=sent.name,
        cores=sent.cores,
        memory_mb=sent.memorymb,
        time_limit_s=sent.timelimit,
    )
    return over_limit(job, limits, at, _NAMES) or job


def over_batch(at: int) -> TooLarge:
    """The refusal of an item beyond what a batch may hold."""
    return TooLarge(
        f"$[{at}]: is over the {BATCH_ITEMS} jobs of one request.", "Send it in another request."
    )


def item_answer(result: UUID | BridgeError) -> dict[str, Any]:
    """One element of the answer to a batch."""
    if isinstance(result, UUID):
        return {"status": 200, "data": result}
    status, body = shape(problem_of(result), "")
    return {"status": status, **body}


def job_status(job: Job) -> dict[str, str | None]:
    """A job's state. Scripts compare what the client prints, so only failures have a reason."""
    return {"status": job.state, "reason": job.reason if job.state is JobState.FAILED else None}


def shape(problem: Problem, path: str) -> tuple[int, Mapping[str, Any]]:
    """A problem as this client knows it.

    A secret that is not accepted is 403, a body that is not JSON 422. The client
    reads ``status`` and ``reason`` of every answer to a cancel, of errors too.
    """
    status = {401: 403, 400: 422}.get(problem.status, problem.status)
    detail = f"{problem.detail} {problem.hint}".strip()
    if path.endswith("/task-cancel"):
        return status, {"status": "unknown", "reason": problem.detail, "detail": detail}
    return status, {"detail": detail}
