"""Machines and nodes in memory, as the front doors see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from bridge.core.access import require_admin
from bridge.errors import NotFound, Unauthenticated
from bridge.models.identity import Caller
from bridge.models.job import Job, JobState
from bridge.models.node import (
    Admission,
    Candidate,
    Node,
    NodeReport,
    NodeState,
    NodeView,
    SelftestFinding,
)
from tests.support.fake_nodes import FakeNodes as FakeScheduler
from tests.support.fake_nodes import facts

NOW: Final = 1_767_225_600.25  # 2026-01-01T00:00:00.250Z


class FakeMachines:
    """The door for machines, and what those that are in may do; one node, ``n1``."""

    def __init__(self, compute_secrets: Mapping[str, str]) -> None:
        self._compute_secrets = compute_secrets  # by group token
        self.candidates: list[Candidate] = []
        self.selftest: Job | None = None
        self.reports: list[tuple[bool, Sequence[SelftestFinding]]] = []

    def enrol(self, token: str, secret: str, candidate: Candidate) -> Admission:
        self._check(token, secret)
        self.candidates.append(candidate)
        files = {"client.pem": "a certificate", "bridge.json": '{"name": "n1"}'}
        return Admission(files=files, expires_at=NOW + 3600)

    def start(self, token: str, secret: str, name: str, bucket_id: UUID) -> Job:
        self._check(token, secret)
        _require_n1(name)
        nothing = dict.fromkeys(Job.__struct_fields__)
        known: dict[str, Any] = {
            "id": UUID(int=5),
            "state": JobState.RECEIVED,
            "bucket_id": bucket_id,
        }
        self.selftest = Job(**{**nothing, **known})
        return self.selftest

    def look(self, token: str, secret: str, name: str, job_id: UUID) -> Job:
        self._check(token, secret)
        _require_n1(name)
        if self.selftest is None or self.selftest.id != job_id:
            raise NotFound("There is no such self-test of this node.")
        return self.selftest

    def report(
        self, token: str, secret: str, name: str, ok: bool, findings: Sequence[SelftestFinding]
    ) -> None:
        self._check(token, secret)
        _require_n1(name)
        self.reports.append((ok, findings))

    def _check(self, token: str, secret: str) -> None:
        if self._compute_secrets.get(token) != secret:
            raise Unauthenticated("The compute secret is not, or no longer, that of the group.")


class FakeNodes:
    """Two nodes as an admin sees them: ``n1``, of which all is known, and a stranger."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.reports = {
            "n1": NodeReport(
                name="n1",
                state=NodeState.READY,
                reason=None,
                generation_current=True,
                last_seen_at=NOW,
                node=_node("n1"),
                view=_view("n1"),
                ui_url="https://nomad.test/ui/clients/id-n1",
            ),
            "odd": NodeReport(
                name="odd",
                state=NodeState.STRANGER,
                reason="never enrolled",
                generation_current=False,
                last_seen_at=None,
                node=None,
                view=None,
                ui_url=None,
            ),
        }

    def list(self, caller: Caller) -> Sequence[NodeReport]:
        require_admin(caller)
        return [*self.reports.values()]

    def get(self, caller: Caller, name: str) -> NodeReport:
        require_admin(caller)
        if name not in self.reports:
            raise NotFound("There is no such node in the group.")
        return self.reports[name]

    def drain(self, caller: Caller, name: str, deadline_s: float) -> NodeReport:
        return self._act(caller, name, "drain", f"{deadline_s:.0f}")

    def resume(self, caller: Caller, name: str) -> NodeReport:
        return self._act(caller, name, "resume")

    def remove(self, caller: Caller, name: str) -> NodeReport:
        return self._act(caller, name, "remove")

    def _act(self, caller: Caller, name: str, *what: str) -> NodeReport:
        found = self.get(caller, name)
        self.calls.append((name, *what))
        return found


def _node(name: str) -> Node:
    """An enrolled node with nothing against it."""
    nothing = dict.fromkeys(Node.__struct_fields__)
    known: dict[str, Any] = {
        "name": name,
        "generation": "g1",
        "facts": facts(NOW),
        "enrolled_at": NOW,
        "expires_at": NOW + 86400,
        "failures": 1,
        "selftest_at": NOW,
        "selftest_ok": False,
        "selftest_detail": "limits: none",
    }
    return Node(**{**nothing, **known})


def _view(name: str) -> NodeView:
    scheduler = FakeScheduler()
    scheduler.register(f"id-{name}", name, "g1", cores_free=3, attempts=2)
    return scheduler.views[f"id-{name}"]


def _require_n1(name: str) -> None:
    if name != "n1":
        raise NotFound(f"{name!r} is not enrolled.")
