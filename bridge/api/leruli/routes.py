"""The dialect of the public Leruli client, under ``/v22_1/`` and ``/latest/``: all POST."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from flask import Blueprint, Response
from msgspec import UNSET, UnsetType

from bridge.api import auth
from bridge.api.decoding import answer, body, decode, decode_many
from bridge.api.leruli import translate
from bridge.api.paging import canonical_uuid
from bridge.api.services import services
from bridge.errors import BridgeError, Forbidden, InvalidRequest, NotFound, Refused, Unavailable
from bridge.models.identity import Caller
from bridge.models.job import Job, NewJob
from bridge.turns import in_steps, long_work

PREFIXES: Final = ("/v22_1", "/latest")

blueprint = Blueprint("leruli", __name__)


@blueprint.post("/task-submit")
def task_submit() -> Response:
    """One job; answers its id as a bare JSON string."""
    sent = decode(translate.ONE, body(), translate.HINTS)
    caller = _caller(sent.secret)
    new = translate.new_job(sent, services().limits)
    if isinstance(new, InvalidRequest):
        raise new
    return answer(services().bridge.jobs.submit(caller, new).id)


@blueprint.post("/bulk/task-submit")
@long_work()
def bulk_task_submit() -> Response:
    """Many jobs; 200 and one result each, in order, whatever is wrong with some or all.

    The client zips the answer with what it sent and never looks at the HTTP status.
    """
    limits = services().limits
    sent = decode_many(translate.ONE, body(), limits.bulk_items, translate.HINTS)
    results: dict[int, UUID | BridgeError] = {}
    accepted: defaultdict[str | UnsetType, dict[int, NewJob]] = defaultdict(dict)
    for at, item in enumerate(in_steps(sent)):
        if at >= translate.BATCH_ITEMS:
            results[at] = translate.over_batch(at)
        elif isinstance(item, InvalidRequest):
            results[at] = item
        elif isinstance(new := translate.new_job(item, limits, f"$[{at}]"), InvalidRequest):
            results[at] = new
        else:
            accepted[item.secret][at] = new
    for secret, jobs in accepted.items():
        results.update(zip(jobs, _submit_many(secret, [*jobs.values()]), strict=True))
    return answer([translate.item_answer(results[at]) for at in range(len(sent))])


@blueprint.post("/task-status")
def task_status() -> Response:
    """A job's state."""
    return _with_job(services().bridge.jobs.get)


@blueprint.post("/task-cancel")
def task_cancel() -> Response:
    """Ask that a job stops; answers its state."""
    return _with_job(services().bridge.jobs.cancel)


@blueprint.post("/group-token")
def group_token() -> Response:
    """The group token as a bare JSON string; members only."""
    caller = _caller(decode(translate.SIGNED, body()).secret)
    if caller.user is None:
        raise Forbidden("A group token only reads.", "Use your API secret.")
    return answer(caller.group.token)


@blueprint.post("/group-create-user")
def group_create_user() -> Response:
    """A new member; its secret as a bare JSON string, the only time it is shown."""
    sent = decode(translate.CREATE_USER, body())
    return answer(services().bridge.groups.add_user(_admin(sent), sent.name, sent.admin))


@blueprint.post("/group-revoke-user")
def group_revoke_user() -> Response:
    """End a member's access at once; answers true."""
    sent = decode(translate.REVOKE_USER, body())
    services().bridge.groups.revoke(_admin(sent), sent.name)
    return answer(True)


@blueprint.post("/group-rotate-compute-secret")
def group_rotate_compute_secret() -> Response:
    """Set or replace the compute secret; answers it as a bare JSON string."""
    sent = decode(translate.ADMINISTRATION, body())
    # This service's users know of no overlap: the old secret's nodes get no more jobs.
    return answer(services().bridge.groups.rotate_compute_secret(_admin(sent), 0))


def _with_job(action: Callable[[Caller, UUID], Job]) -> Response:
    sent = decode(translate.TASK, body())
    caller = _caller(sent.secret)
    # Python's UUID takes braces and prefixes; an id of ours is written one way only.
    job_id = canonical_uuid(sent.jobid.strip())
    if job_id is None:
        raise NotFound("No such job or not your job.")
    return answer(translate.job_status(action(caller, job_id)))


def _submit_many(secret: str | UnsetType, jobs: list[NewJob]) -> Sequence[UUID | BridgeError]:
    """Hand in what came with one secret; an error that concerns all is each one's."""
    try:
        return services().bridge.jobs.submit_many(_caller(secret), jobs)
    except (Refused, Unavailable) as error:
        return [error] * len(jobs)


def _admin(sent: translate.Administration) -> Caller:
    return _caller(sent.adminsecret, "adminsecret")


def _caller(secret: str | UnsetType, field: str = "secret") -> Caller:
    """Who sent the body; the Authorization header counts when it has no secret."""
    if secret is not UNSET:
        return auth.caller(secret)
    if auth.bearer() is None:
        raise InvalidRequest(f"$.{field}: is missing.", "Your API secret.")
    return auth.caller()
