"""What is wrong with the servers' configuration, from a recorded answer of a real one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.connectors.nomad.server_settings import Agent, judge, seconds

RECORDED = json.loads(
    (Path(__file__).parents[3] / "fixtures/nomad/servers/agent-self.json").read_text()
)
HOUR = 3600.0


def wrong(
    forget_after_s: float = 600,
    node_lost_after_s: float = 600,
    upload_limit_s: float = 1200,
    **changes: Any,
) -> Any:
    """The findings that are not fine, when parts of the recorded configuration differ."""
    raw = copy.deepcopy(RECORDED)
    for name, value in changes.items():
        *path, last = name.split("__")
        part = raw["config"]
        for key in path:
            part = part[key]
        assert last in part  # Nomad calls it so
        part[last] = value
    settings = msgspec.convert(raw, Agent).config
    found = list(
        judge(
            settings,
            forget_after_s=forget_after_s,
            node_lost_after_s=node_lost_after_s,
            upload_limit_s=upload_limit_s,
        )
    )
    assert all(one.remedy and one.detail for one in found if not one.ok)
    return {one.what: one for one in found if not one.ok}


def test_the_recorded_server_is_fine() -> None:
    assert wrong() == {}


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("TLSConfig__EnableHTTP", False, "TLS of the HTTP interface"),
        ("TLSConfig__EnableRPC", False, "TLS between agents"),
        ("TLSConfig__VerifyServerHostname", False, "TLS between agents"),
        ("ACL__Enabled", False, "ACLs"),
        ("Server__ClientIntroduction__Enforcement", "warn", "introduction of machines"),
        ("Server__ClientIntroduction__Enforcement", "", "introduction of machines"),
        ("Server__EnableEventBroker", False, "event stream"),
        ("Server__JobGCThreshold", "15m", "garbage collection"),
        ("Server__BatchEvalGCThreshold", "10m", "garbage collection"),
        ("Server__NodeGCThreshold", "19m59s", "garbage collection"),
    ],
)
def test_each_weak_setting_is_found_and_named(name: str, value: Any, what: str) -> None:
    assert list(wrong(**{name: value})) == [what]


def test_what_is_too_short_depends_on_what_the_bridge_needs() -> None:
    assert wrong(Server__JobGCThreshold="20m") == {}
    found = wrong(forget_after_s=3 * HOUR)
    assert "job_gc_threshold is 4h, needed is 6:00:00" in found["garbage collection"].detail


def test_a_failed_run_is_remembered_as_long_as_it_may_upload() -> None:
    """Nomad counts from the end of the program."""
    short = wrong(upload_limit_s=24 * HOUR)["garbage collection"]
    assert short.detail == "job_gc_threshold is 4h, needed is 1 day, 0:00:00"
    assert "queue.upload_limit_s" in short.remedy
    assert wrong(upload_limit_s=24 * HOUR, Server__JobGCThreshold="24h") == {}
    both = wrong(upload_limit_s=25 * HOUR, Server__JobGCThreshold="24h")["garbage collection"]
    assert "batch_eval_gc_threshold is 24h, needed is 1 day, 1:00:00" in both.detail


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4h", 14400),
        ("1h30m", 5400),
        ("24h0m0s", 86400),
        ("90s", 90),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("", 0),
    ],
)
def test_durations_as_go_writes_them(text: str, expected: float) -> None:
    assert seconds(text) == expected
