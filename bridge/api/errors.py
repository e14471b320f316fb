"""Errors as answers: the only place that knows HTTP status codes.

``/v1`` and everything not below a dialect's prefix answer in one shape,
``{"error": kind, "detail": sentence, "hint": what to do}``. A dialect has a shape
of its own for the paths below its prefixes.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from bridge import log
from bridge.errors import (
    BridgeError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReady,
    OverQuota,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
)

_log = log.get(__name__)


class MalformedBody(InvalidRequest):
    """The body is not JSON."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One refusal, whatever shape it is told in."""

    status: int
    kind: str
    detail: str
    hint: str = ""
    headers: dict[str, str] = {}


# The most special class first.
_STATUS: Final[tuple[tuple[type[BridgeError], int, str], ...]] = (
    (MalformedBody, 400, "not_json"),
    (InvalidRequest, 422, "invalid_request"),
    (Unauthenticated, 401, "unauthenticated"),
    (Forbidden, 403, "forbidden"),
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (NotReady, 412, "not_ready"),
    (TooLarge, 413, "too_large"),
    (OverQuota, 429, "over_quota"),
    (TooMany, 429, "too_many"),
    (Unavailable, 503, "unavailable"),
)


def problem_of(error: BridgeError) -> Problem:
    """What an error of ours is over HTTP; a kind that no caller can cause is a 500."""
    for kind_of_error, status, kind in _STATUS:
        if isinstance(error, kind_of_error):
            headers = {}
            if isinstance(error, TooMany | Unavailable):
                headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
            if status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            return Problem(
                status=status, kind=kind, detail=error.message, hint=error.hint, headers=headers
            )
    return _incident(error)


def too_large(limit: int) -> TooLarge:
    """The body is over ``limit`` bytes."""
    return TooLarge(f"The body is larger than {limit} bytes.", "Send fewer jobs in one request.")


def plain(problem: Problem) -> dict[str, Any]:
    """A problem in the bridge's own shape."""
    return {"error": problem.kind, "detail": problem.detail, "hint": problem.hint}


# (problem, path) → status and body, for the paths below a dialect's prefix.
Shape = Callable[[Problem, str], tuple[int, Mapping[str, Any]]]


def tell(problem: Problem, path: str, shapes: Mapping[str, Shape]) -> tuple[int, bytes]:
    """Status and JSON body of a problem for a request to ``path``."""
    for prefix, shape in shapes.items():
        if path.startswith(prefix):
            status, body = shape(problem, path)
            return status, msgspec.json.encode(body)
    return problem.status, msgspec.json.encode(plain(problem))


def install(app: Flask, shapes: Mapping[str, Shape]) -> None:
    """Turn every exception of ``app`` into an answer in the shape of its path."""

    def answer(problem: Problem) -> Response:
        status, body = tell(problem, request.path, shapes)
        return Response(body, status, problem.headers, mimetype="application/json")

    def from_http(error: HTTPException) -> Response | HTTPException:
        # A redirect is an answer, not an error.
        return error if (error.code or 500) < 400 else answer(_problem_of_http(error))

    app.register_error_handler(BridgeError, lambda error: answer(problem_of(error)))
    app.register_error_handler(HTTPException, from_http)
    app.register_error_handler(Exception, lambda error: answer(_incident(error)))


def _problem_of_http(error: HTTPException) -> Problem:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        return problem_of(too_large(request.max_content_length or 0))
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Problem(
            status=status,
            kind="method_not_allowed",
            detail="This path does not take this method.",
            hint=f"It takes {allowed}.",
            headers={"Allow": allowed},
        )
    if status == 404:
        return problem_of(NotFound("There is nothing at this path.", "Paths begin with /v1/."))
    kind = re.sub(r"[^a-z0-9]+", "_", error.name.lower()).strip("_")
    return Problem(status=status, kind=kind, detail=error.description or error.name)


def _incident(error: Exception) -> Problem:
    """Something we did not foresee: the log has it all, the caller gets its number."""
    number = secrets.token_hex(4)
    _log.error("action=fail incident=%s", number, exc_info=error)
    return Problem(
        status=500,
        kind="internal",
        detail=f"Something went wrong here; incident {number}.",
        hint="Tell the operator of this service the incident's number.",
    )
