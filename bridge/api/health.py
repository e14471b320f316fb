"""Is the process alive, and is it ready? For supervisors and load balancers, without a secret."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from flask import Blueprint, Response

from bridge.api.decoding import answer
from bridge.api.services import Finding

# Anyone may ask, and an answer costs some reads of the database.
_FRESH_S: Final = 1.0


class KeptFindings:
    """What ``look`` finds, kept for a second and looked up by one thread at a time."""

    def __init__(
        self, look: Callable[[], Sequence[Finding]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._findings: Sequence[Finding] = ()
        self._until = float("-inf")

    def findings(self) -> Sequence[Finding]:
        """The findings, at most a second old."""
        with self._lock:
            if self._clock() >= self._until:
                self._findings = self._look()
                self._until = self._clock() + _FRESH_S
            return self._findings


def blueprint(kept: KeptFindings) -> Blueprint:
    """``/healthz`` and ``/readyz``."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz")
    def readyz() -> Response:
        findings = kept.findings()
        wrong = [finding for finding in findings if not finding.ok]
        # Not without a scheduler: every process of a service would be taken out at once, though
        # each of them takes submissions and answers.
        ready = all(finding.degrades for finding in wrong)
        told = [
            {"what": item.what, "ok": item.ok, "detail": item.detail, "remedy": item.remedy}
            for item in findings
        ]
        body = {"ready": ready, "degraded": bool(wrong), "findings": told}
        return answer(body, 200 if ready else 503)

    return routes
