"""Machines under ``/v1/nodes``: they join by the compute secret, admins steer them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from flask import Blueprint, Response, request

from bridge.api import auth
from bridge.api.decoding import answer, body, decode
from bridge.api.paging import canonical_uuid
from bridge.api.services import services
from bridge.api.v1 import node_views, translate
from bridge.errors import NotFound, TooMany
from bridge.models.identity import Caller
from bridge.models.node import NodeReport
from bridge.models.secret import digest

blueprint = Blueprint("v1-nodes", __name__, url_prefix="/v1/nodes")


@blueprint.post("/enroll")
def enrol() -> Response:
    """Let a machine in (compute secret): what it needs to join, as JSON or as a tar."""
    with auth.node_secret() as secret:
        sent = decode(node_views.ENROL, body(), node_views.HINTS)
        _within_rate("enroll", secret)
        admission = services().bridge.enrolment.enrol(
            sent.group_token, secret, node_views.candidate(sent)
        )
    if request.accept_mimetypes.best_match(["application/json", node_views.TAR]) == node_views.TAR:
        return Response(node_views.admission_tar(admission), 201, mimetype=node_views.TAR)
    return answer(node_views.admission_view(admission), 201)


@blueprint.post("/<name>/selftest")
def start_selftest(name: str) -> Response:
    """Run the job in a bucket on this node (compute secret)."""
    with auth.node_secret() as secret:
        sent = decode(node_views.SELFTEST, body(), node_views.HINTS)
        _within_rate("selftest", secret)
        job = services().bridge.selftests.start(
            sent.group_token, secret, name, UUID(sent.bucket_id)
        )
    return answer(node_views.selftest_view(job), 201)


@blueprint.get("/<name>/selftest/<job_id>")
def look_at_selftest(name: str, job_id: str) -> Response:
    """How far a self-test is (compute secret; the group token in X-Group-Token)."""
    with auth.node_secret() as secret:
        token = request.headers.get("X-Group-Token", "")
        wanted = canonical_uuid(job_id)
        if wanted is None:
            raise NotFound("There is no such self-test of this node.", "Ask for another one.")
        job = services().bridge.selftests.look(token, secret, name, wanted)
    return answer(node_views.selftest_view(job))


@blueprint.post("/<name>/report")
def report(name: str) -> Response:
    """Keep what a node found on itself (compute secret)."""
    with auth.node_secret() as secret:
        sent = decode(node_views.REPORT, body(), node_views.HINTS)
        _within_rate("report", secret)
        found = node_views.findings(sent)
        services().bridge.selftests.report(sent.group_token, secret, name, sent.ok, found)
    return answer({"ok": sent.ok})


@blueprint.post("/require-limits")
def require_limits() -> Response:
    """Whether jobs run only on nodes that enforce limits of memory and cores (admins)."""
    caller = auth.caller()
    sent = decode(node_views.LIMITS, body(), node_views.HINTS)
    services().bridge.groups.require_limits(caller, sent.required)
    return answer({"required": sent.required})


@blueprint.get("")
def find() -> Response:
    """The nodes of the group, and strangers in its pool (admins)."""
    caller = auth.caller()
    found = services().bridge.nodes.list(caller)
    return answer({"nodes": [node_views.node_view(one) for one in found]})


@blueprint.get("/<name>")
def get(name: str) -> Response:
    """One node (admins)."""
    return answer(node_views.node_view(services().bridge.nodes.get(auth.caller(), name)))


@blueprint.post("/<name>/drain")
def drain(name: str) -> Response:
    """Give a node nothing more (admins); what runs is stopped after the deadline."""
    caller = auth.caller()
    data = body()
    asked = decode(node_views.DRAIN, data, node_views.HINTS) if data else node_views.DrainBody()
    found = services().bridge.nodes.drain(caller, name, asked.deadline_s)
    return answer(node_views.node_view(found))


@blueprint.post("/<name>/resume")
def resume(name: str) -> Response:
    """Give a node jobs again (admins)."""
    return _steer(name, services().bridge.nodes.resume)


@blueprint.post("/<name>/remove")
def remove(name: str) -> Response:
    """Forget a node (admins)."""
    return _steer(name, services().bridge.nodes.remove)


def _steer(name: str, act: Callable[[Caller, str], NodeReport]) -> Response:
    caller = auth.caller()
    data = body()
    if data:
        decode(translate.NOTHING, data)
    return answer(node_views.node_view(act(caller, name)))


def _within_rate(what: str, secret: str) -> None:
    """Each call for itself: all nodes of a group may start at once. Raises TooMany."""
    try:
        services().machines.take((what, digest(secret)))
    except TooMany as many:
        raise TooMany(
            "Many machines of the group ask for this at the same time.",
            f"Try again in {many.retry_after:.0f} s.",
            many.retry_after,
        ) from None
