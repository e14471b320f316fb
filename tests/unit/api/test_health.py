from __future__ import annotations

from bridge.api.health import KeptFindings
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
        "degraded": False,
        "findings": [{"what": "database", "ok": True, "detail": "", "remedy": ""}],
    }


def test_not_ready_says_what_and_what_to_do(nobody: Door, bridge: FakeBridge) -> None:
    bridge.findings = [
        Finding("role", True),
        Finding("database", False, "no answer", "Start it."),
    ]
    response = nobody.get("/readyz")
    assert response.status_code == 503
    assert response.get_json() == {
        "ready": False,
        "degraded": True,
        "findings": [
            {"what": "role", "ok": True, "detail": "", "remedy": ""},
            {"what": "database", "ok": False, "detail": "no answer", "remedy": "Start it."},
        ],
    }


def test_without_a_scheduler_requests_are_served(nobody: Door, bridge: FakeBridge) -> None:
    away = Finding("connector nomad", False, "no answer", "Start it.", degrades=True)
    bridge.findings = [Finding("database", True), away]
    response = nobody.get("/readyz")
    assert response.status_code == 200
    told = response.get_json()
    assert (told["ready"], told["degraded"]) == (True, True)
    assert told["findings"][1]["remedy"] == "Start it."


def test_without_a_database_a_scheduler_does_not_matter(nobody: Door, bridge: FakeBridge) -> None:
    away = Finding("connector nomad", False, degrades=True)
    bridge.findings = [away, Finding("database", False)]
    assert nobody.get("/readyz").status_code == 503


def test_a_look_is_kept_for_a_second(bridge: FakeBridge) -> None:
    now = 50.0
    kept = KeptFindings(bridge.ready, lambda: now)
    kept.findings()
    bridge.findings = []
    now = 50.9
    assert len(kept.findings()) == 1
    now = 51.0
    assert kept.findings() == []
    assert bridge.looks == 2
