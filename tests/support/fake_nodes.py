"""A scheduler in memory whose nodes groups bring themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from bridge.models.node import Admission, EnrolRequest, Facts, NodeStatus, NodeView
from tests.support.fake_connector import FakeConnector

CERTIFICATE_S: Final = 30 * 86400.0

FACTS: Final[dict[str, Any]] = {
    "cores": 8,
    "memory_mb": 16_000,
    "disk_mb": 500_000,
    "architecture": "amd64",
    "versions": {"nomad": "2.0.5"},
    "limits": True,
}


def facts(clock: float, **changes: object) -> Facts:
    """What a machine says of itself at a time."""
    return Facts(**{**FACTS, "clock": clock, **changes})


class FakeNodes(FakeConnector):
    """Lets every machine in; ``register`` shows one at the scheduler."""

    def __init__(self, name: str = "local", clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(name)
        self.clock = clock
        self.views: dict[str, NodeView] = {}
        self.let_in: list[EnrolRequest] = []
        self.calls: list[tuple[str, str]] = []

    def register(self, native_id: str, name: str, generation: str | None, **more: object) -> None:
        """A machine appears, as it says of itself."""
        said = {
            "id": native_id,
            "name": name,
            "node_pool": "g-lab",
            "status": NodeStatus.READY,
            "eligible": True,
            "draining": False,
            "paused": False,
            "generation": generation,
            "stage_protocol": "1",
            "versions": {"nomad": "2.0.5"},
            "changed_at": self.clock(),
            "cores_total": 8,
            "cores_free": 8,
            "memory_total_mb": 16_000,
            "memory_free_mb": 16_000,
            "disk_total_mb": 500_000,
            "disk_free_mb": 400_000,
            "attempts": 0,
            **more,
        }
        self.views[native_id] = msgspec.convert(said, NodeView)

    def change(self, native_id: str, **changes: object) -> None:
        """The scheduler shows something else of a machine."""
        self.views[native_id] = msgspec.structs.replace(self.views[native_id], **changes)

    def enrol(self, request: EnrolRequest) -> Admission:
        self._ask()
        self.let_in.append(request)
        return Admission(
            files={"client.pem": f"certificate of {request.name}", "bridge.json": "{}"},
            expires_at=self.clock() + CERTIFICATE_S,
        )

    def nodes(self) -> list[NodeView]:
        self._ask()
        return list(self.views.values())

    def set_eligible(self, node_id: str, eligible: bool) -> None:
        self._ask()
        self.calls.append(("eligible" if eligible else "ineligible", node_id))
        self.change(node_id, eligible=eligible, draining=False)

    def drain(self, node_id: str, deadline_s: float) -> None:
        self._ask()
        self.calls.append((f"drain {deadline_s:.0f}", node_id))
        self.change(node_id, draining=True, eligible=False)

    def remove(self, node_id: str) -> None:
        self._ask()
        self.calls.append(("remove", node_id))
        self.views.pop(node_id, None)

    def node_url(self, node_id: str) -> str | None:
        return f"https://nomad.test/ui/clients/{node_id}"

    def job_url(self, handle: object) -> str | None:
        return None
