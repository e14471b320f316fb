from __future__ import annotations

from bridge.api.health import Readiness
from bridge.connectors.base import Finding
from tests.support.fake_core import FakeBridge
from tests.support.http import Door


def test_alive_needs_no_secret_and_asks_nothing(nobody: Door, bridge: FakeBridge) -> None:
    response = nobody.get("/healthz")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})
    assert bridge.looks == 0


def test_ready(nobody: Door) -> None:
    response = nobody.get("/readyz")
    assert response.status_code == 200
    assert response.get_json() == {
        "ready": True,
        "findings": [{"what": "database", "ok": True, "detail": "", "remedy": ""}],
    }


def test_not_ready_says_what_and_what_to_do(nobody: Door, bridge: FakeBridge) -> None:
    bridge.findings = [
        Finding("database", True),
        Finding("connector nomad", False, "no answer", "Start it."),
    ]
    response = nobody.get("/readyz")
    assert response.status_code == 503
    assert response.get_json()["ready"] is False
    assert response.get_json()["findings"][1] == {
        "what": "connector nomad",
        "ok": False,
        "detail": "no answer",
        "remedy": "Start it.",
    }


def test_a_look_is_kept_for_a_second(bridge: FakeBridge) -> None:
    now = 50.0
    readiness = Readiness(bridge.ready, lambda: now)
    readiness.findings()
    bridge.findings = []
    now = 50.9
    assert len(readiness.findings()) == 1
    now = 51.0
    assert readiness.findings() == []
    assert bridge.looks == 2
