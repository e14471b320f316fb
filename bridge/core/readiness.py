"""What must be true for jobs to be taken, and to move on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from bridge.connectors.base import Finding
from bridge.core.leader import Leader
from bridge.core.tidings import Tidings
from bridge.core.unconfigured import Unconfigured
from bridge.db.engine import Database
from bridge.errors import Unavailable

_KEPT: Final = "Submissions are kept and go on when it answers again."
_UNLED_HINT: Final = (
    "Another process takes over within seconds. If none does, their logs say why (`name=leader`); "
    "start one again."
)


class Readiness:
    """Whichever process is asked, the answer is that of the whole service."""

    def __init__(
        self,
        db: Database,
        connectors: Collection[str],
        *,
        leader: Leader,
        tidings: Tidings,
        unconfigured: Unconfigured,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._leader = leader
        self._tidings = tidings
        self._unconfigured = unconfigured

    def findings(self) -> list[Finding]:
        """Everything that was looked at. Raises nothing."""
        try:
            self._db.ping()
            found = [Finding("database", True), self._role()]
            for name in self._connectors:
                found += self._scheduler(name)
            return found + self._unconfigured.findings()
        except Unavailable as exc:  # the rest is written there
            return [Finding("database", False, exc.message, exc.hint)]

    def _role(self) -> Finding:
        """Both roles take submissions; only the leader hands jobs over."""
        if self._leader.leads:
            return Finding("role", True, "leader")
        if self._tidings.is_led():
            return Finding("role", True, "follower")
        detail = "follower, and no process leads: nothing is handed over or followed"
        return Finding("role", False, detail, _UNLED_HINT, degrades=True)

    def _scheduler(self, name: str) -> Iterator[Finding]:
        """What the loops of the leader met lately."""
        what = f"connector {name}"
        faults = self._tidings.faults(name) if self._tidings.is_led() else []
        if not faults:
            yield Finding(what, True)
        for detail, hint in sorted({(fault.detail, fault.hint) for fault in faults}):
            yield Finding(what, False, detail, f"{hint} {_KEPT}".lstrip(), degrades=True)
