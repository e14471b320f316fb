"""One log line per request, and the headers that every answer bears."""

from __future__ import annotations

import logging
import time
from typing import Final

from flask import Flask, Response, g, request

from bridge import log

_log = log.get(__name__)

SECURITY_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PROBES: Final = frozenset({"/healthz", "/readyz"})


def install(app: Flask) -> None:
    """Log method, route, status and duration; never a query, a body or a header."""
    app.before_request(_start)
    app.after_request(_finish)


def _start() -> None:
    g.started = time.perf_counter()


def _finish(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers[name] = value
    # The template and not the path: an id, and whatever else was sent, stays out.
    route = request.url_rule.rule if request.url_rule else "-"
    level = logging.DEBUG if route in _PROBES and response.status_code < 400 else logging.INFO
    _log.log(
        level,
        "action=request method=%s route=%s status=%d ms=%.1f",
        request.method[:16],
        route,
        response.status_code,
        (time.perf_counter() - g.started) * 1000,
    )
    return response
