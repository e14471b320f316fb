"""The bridge's own HTTP interface, ``/v1``: JSON, ``Authorization: Bearer``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from uuid import UUID

from flask import Blueprint, Response, request
from msgspec import UNSET, UnsetType
from werkzeug.routing import BaseConverter

from bridge.api import auth
from bridge.api.decoding import answer, body, decode, decode_many, is_array, query
from bridge.api.paging import HINTS, Page, canonical_uuid, cut
from bridge.api.services import services
from bridge.api.v1 import translate
from bridge.errors import InvalidRequest, NotFound
from bridge.models.attempt import Attempt
from bridge.models.identity import Caller
from bridge.models.job import Job
from bridge.turns import in_steps, long_work

T = TypeVar("T")

blueprint = Blueprint("v1", __name__, url_prefix="/v1")


class _AnyText(BaseConverter):
    """A name of somebody's choice, slashes and all: the server decodes %2F before it routes."""

    regex = ".+"
    part_isolating = False


blueprint.record_once(lambda state: state.app.url_map.converters.update(text=_AnyText))


@blueprint.post("/jobs")
def submit() -> Response:
    """One job (201), or an array of them (200 with one result each, in order)."""
    caller = auth.caller()
    data = body()
    if is_array(data):
        return _submit_many(caller, data)
    new = translate.new_job(decode(translate.ONE, data), services().limits)
    if isinstance(new, InvalidRequest):
        raise new
    job = services().bridge.jobs.submit(caller, new)
    return answer(_view(job, caller), 201, {"Location": f"/v1/jobs/{job.id}"})


@long_work()
def _submit_many(caller: Caller, data: bytes) -> Response:
    limits = services().limits
    sent = decode_many(translate.ONE, data, limits.bulk_items)
    items = [
        item if isinstance(item, InvalidRequest) else translate.new_job(item, limits, f"$[{at}]")
        for at, item in enumerate(in_steps(sent))
    ]
    results = services().bridge.jobs.submit_many(caller, items)
    return answer([translate.item_answer(result) for result in results])


@blueprint.get("/jobs")
def find() -> Response:
    """The caller's jobs, newest first; for an admin, the group's."""
    caller = auth.caller()
    wanted = query(translate.JobQuery, translate.QUERY_HINTS)
    jobs = services().bridge.jobs.find(
        caller,
        state=_given(wanted.state),
        user=_given(wanted.user),
        set=_given(wanted.set),
        limit=wanted.limit + 1,
        before=wanted.before(),
    )
    page, following = cut(jobs, wanted.limit)
    return answer({"jobs": _views(page, caller), "next": following})


@blueprint.get("/jobs/<job_id>")
def get(job_id: str) -> Response:
    """One job."""
    return _with_job(job_id, services().bridge.jobs.get)


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Ask that a job stops."""
    return _with_job(job_id, services().bridge.jobs.cancel, takes_body=True)


@blueprint.post("/jobs/<job_id>/hold")
def hold(job_id: str) -> Response:
    """Keep a waiting job from starting."""
    return _with_job(job_id, services().bridge.jobs.hold, takes_body=True)


@blueprint.post("/jobs/<job_id>/release")
def release(job_id: str) -> Response:
    """Let a held job start."""
    return _with_job(job_id, services().bridge.jobs.release, takes_body=True)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> Response:
    """Put a failed or canceled job back into the queue."""
    return _with_job(job_id, services().bridge.jobs.retry, takes_body=True)


@blueprint.post("/jobs/<job_id>/prune")
def prune(job_id: str) -> Response:
    """Give an ended job's data up; with ``deleted``, confirm that it is gone."""
    caller = auth.caller()
    data = body()
    asked = decode(translate.PRUNE, data) if data else translate.PruneRequest()
    job = services().bridge.jobs.prune(caller, _job_id(job_id), asked.deleted)
    return answer(_view(job, caller))


@blueprint.get("/jobs/<job_id>/attempts")
def attempts(job_id: str) -> Response:
    """The runs of one job, the first one first."""
    caller = auth.caller()
    found = services().bridge.jobs.attempts(caller, _job_id(job_id))
    return answer({"attempts": _attempt_views(found, caller)})


@blueprint.get("/jobs/<job_id>/explain")
def explain(job_id: str) -> Response:
    """Why one job is where it is."""
    found = services().bridge.jobs.explain(auth.caller(), _job_id(job_id))
    return answer(translate.explanation_view(found))


@blueprint.get("/sets")
def find_sets() -> Response:
    """The caller's sets by name; for an admin, the group's."""
    caller = auth.caller()
    wanted = query(translate.SetQuery, HINTS)
    found = services().bridge.sets.find(caller, limit=wanted.limit + 1, after=wanted.after())
    page = found[: wanted.limit]
    following = page[-1].name if len(found) > len(page) else None
    return answer({"sets": [translate.set_view(one) for one in page], "next": following})


@blueprint.get("/sets/<text:name>")
def get_set(name: str) -> Response:
    """One set; with ``/explain`` or ``/attempts`` behind its name, that of it."""
    caller = auth.caller()
    of, _, last = name.rpartition("/")
    # A name may end so, too: its own slash comes as %2F.
    if of and last in _ABOUT_SETS and _last_part() == last:
        return _ABOUT_SETS[last](caller, _set_name(of))
    return answer(translate.set_view(services().bridge.sets.get(caller, _set_name(name))))


def _explain_set(caller: Caller, name: str) -> Response:
    found = services().bridge.sets.explain(caller, name)
    return answer(translate.explanation_view(found))


def _set_attempts(caller: Caller, name: str) -> Response:
    """The runs of its jobs, the newest job first; a page is of so many jobs."""
    wanted = query(Page, HINTS)
    found = services().bridge.sets.attempts(
        caller, name, limit=wanted.limit + 1, before=wanted.before()
    )
    page = found[: wanted.limit]
    following = str(page[-1][0].job_id) if len(found) > len(page) else None
    shown = _attempt_views([one for runs in page for one in runs], caller)
    return answer({"attempts": shown, "next": following})


_ABOUT_SETS: Final = {"explain": _explain_set, "attempts": _set_attempts}


def _last_part() -> str:
    """The last part of the path as it was sent, before anything of it is decoded."""
    sent = str(request.environ.get("REQUEST_URI") or request.path)
    return sent.partition("?")[0].rpartition("/")[2]


@blueprint.post("/sets/<text:name>/<any(cancel, hold, release, retry, prune):verb>")
def steer_set(name: str, verb: str) -> Response:
    """Do to the jobs of a set what the verb does to one, where it applies."""
    caller = auth.caller()
    _no_fields()
    sets = services().bridge.sets
    actions = {
        "cancel": sets.cancel,
        "hold": sets.hold,
        "release": sets.release,
        "retry": sets.retry,
        "prune": sets.prune,
    }
    return answer({"set": name, "changed": actions[verb](caller, _set_name(name))})


@blueprint.get("/activity")
def activity() -> Response:
    """What the group runs; for anyone in it, also by group token."""
    caller = auth.caller()
    wanted = query(Page, HINTS)
    jobs = services().bridge.jobs.activity(caller, wanted.limit + 1, wanted.before())
    page, following = cut(jobs, wanted.limit)
    return answer({"activity": [translate.activity_view(job) for job in page], "next": following})


@blueprint.get("/users")
def list_users() -> Response:
    """The members of the group (admins)."""
    users = services().bridge.groups.list_users(auth.caller())
    return answer({"users": [translate.user_view(user) for user in users]})


@blueprint.post("/users")
def add_user() -> Response:
    """A new member (admins); the only time its secret is shown."""
    caller = auth.caller()
    asked = decode(translate.USER, body())
    secret = services().bridge.groups.add_user(caller, asked.name, asked.admin)
    return answer({"name": asked.name, "admin": asked.admin, "secret": secret}, 201)


@blueprint.delete("/users/<name>")
def revoke_user(name: str) -> Response:
    """End a member's access at once (admins); jobs and data stay."""
    caller = auth.caller()
    if not translate.is_user_name(name):
        raise NotFound("There is no such user in the group.", "See GET /v1/users.")
    user = services().bridge.groups.revoke(caller, name)
    return answer(translate.user_view(user))


@blueprint.post("/compute-secret/rotate")
def rotate_compute_secret() -> Response:
    """Set or replace the secret that adds nodes (admins); the only time it is shown."""
    caller = auth.caller()
    data = body()
    asked = decode(translate.ROTATE, data) if data else translate.RotateRequest()
    overlap_s = _given(asked.overlap_s)
    return answer({"secret": services().bridge.groups.rotate_compute_secret(caller, overlap_s)})


@blueprint.post("/compute-secret/check")
def check_compute_secret() -> Response:
    """Whether a secret is the group's compute secret (admins)."""
    caller = auth.caller()
    secret = decode(translate.SECRET, body()).secret
    return answer({"current": services().bridge.groups.is_compute_secret(caller, secret)})


@blueprint.get("/usage")
def usage() -> Response:
    """What the caller used, by month; for an admin, every member of the group."""
    return answer({"usage": services().bridge.usage.by_month(auth.caller())})


@blueprint.get("/usage/group")
def usage_of_group() -> Response:
    """What the whole group used, by month (admins)."""
    return answer({"usage": services().bridge.usage.of_group(auth.caller())})


@blueprint.get("/whoami")
def whoami() -> Response:
    """Who the secret belongs to."""
    return answer(translate.whoami_view(auth.caller()))


def _with_job(
    job_id: str, action: Callable[[Caller, UUID], Job], takes_body: bool = False
) -> Response:
    caller = auth.caller()
    if takes_body:
        _no_fields()
    return answer(_view(action(caller, _job_id(job_id)), caller))


def _view(job: Job, caller: Caller) -> translate.JobView:
    return _views([job], caller)[0]


def _views(jobs: Sequence[Job], caller: Caller) -> list[translate.JobView]:
    ui_url = services().bridge.pages.of_job
    return [translate.job_view(job, caller, ui_url(caller, job)) for job in jobs]


def _attempt_views(found: Sequence[Attempt], caller: Caller) -> list[translate.AttemptView]:
    pages = services().bridge.pages
    return [translate.attempt_view(one, caller, pages.of_attempt(caller, one)) for one in found]


def _no_fields() -> None:
    """Refuse a field where none means anything, rather than not to heed it."""
    data = body()
    if data:
        decode(translate.NOTHING, data)


def _job_id(text: str) -> UUID:
    """An id in a path. Raises NotFound: what is no id names no job."""
    value = canonical_uuid(text)
    if value is None:
        raise NotFound("No such job or not your job.", "Job ids look like their `id` in the list.")
    return value


def _set_name(text: str) -> str:
    """The name of a set in a path. Raises NotFound: what can be no name names no set."""
    if not translate.is_set_name(text):
        raise NotFound("There is no such set.", "See GET /v1/sets.")
    return text


def _given(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value
