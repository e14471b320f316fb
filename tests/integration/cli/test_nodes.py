from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.client import bundle
from bridge.client.workflow import Client
from bridge.errors import NotFound
from tests.integration.cli.conftest import Run
from tests.support import node_files
from tests.support.fake_service import NOW, FakeService

SCRIPTS = Path("scripts")


def _node(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "ready",
        "reason": None,
        "generation_current": True,
        "enrolled_at": NOW,
        "expires_at": NOW,
        "last_seen_at": NOW,
        "attempts": 2,
        "failures": 0,
        "versions": {},
        "cores_total": 8,
        "cores_free": 6,
        "memory_total_mb": 32768,
        "memory_free_mb": 20480,
        "disk_total_mb": 500_000,
        "disk_free_mb": 123_000,
        "limits": True,
        "selftest": {"at": NOW, "ok": True, "detail": None},
        "ui_url": None,
    } | more


@pytest.fixture(autouse=True)
def _installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation whose scripts and pins are known here."""
    root = tmp_path / "installed"
    node_files.scripts(root / "node-setup")
    monkeypatch.setattr("bridge.resources.path", lambda name: root / name)


@pytest.fixture(name="machines", autouse=True)
def _machines(fake: FakeService) -> dict[str, dict[str, Any]]:
    stranger = {"name": "odd", "state": "stranger", "reason": "It was never enrolled."}
    fake.nodes = {
        "n1": _node("n1"),
        "n2": _node(
            "n2",
            state="quarantined",
            reason="5 attempts in a row failed here.",
            failures=5,
            generation_current=False,
            limits=False,
            selftest={"at": NOW, "ok": False, "detail": "no memory limit"},
            versions={"nomad": "2.0.4", "bundle": "0.0.9+aaaaaaaa", "kernel": "6.1"},
        ),
        # What a later service says more, and what this one does not know yet.
        "odd": stranger | {"colour": "blue"},
    }
    return fake.nodes


def test_list(run: Run) -> None:
    one, two, odd = (line.split("\t") for line in run("nodes", "list").output.splitlines())
    assert one[:7] == ["n1", "ready", "2", "", "6/8", "20/32 GiB", "123/500 GB"]
    assert one[8:] == ["ok", ""]
    assert two[:4] == ["n2", "quarantined", "2", "5"]
    assert two[9] == (
        "5 attempts in a row failed here; no memory limit; limits of jobs are not enforced"
    )
    assert odd == ["odd", "stranger", *[""] * 7, "It was never enrolled"]


def test_a_node_that_must_enrol_anew_is_told(run: Run, machines: dict[str, dict[str, Any]]) -> None:
    machines["n1"]["generation_current"] = False
    assert "it needs the new bundle" in run("nodes", "list").output.splitlines()[0]


def test_show(run: Run) -> None:
    told = dict(line.split("\t") for line in run("nodes", "show", "n2").output.splitlines())
    assert told["Node"] == "n2"
    assert told["Limits of jobs"] == "NOT ENFORCED"
    assert told["Versions"] == "bundle 0.0.9+aaaaaaaa, kernel 6.1, nomad 2.0.4"
    assert told["Secret"] == "before the last rotation"
    assert told["Certificate"].startswith("ended ")
    assert told["Self-test"].startswith("failed ")
    assert run("nodes", "show", "nothing").exit_code == 4
    assert "Versions" not in run("nodes", "show", "odd").output


def test_json_is_the_whole_node(run: Run, machines: dict[str, dict[str, Any]]) -> None:
    assert [node["name"] for node in json.loads(run("nodes", "list", "--json").stdout)] == [
        "n1",
        "n2",
        "odd",
    ]
    shown = json.loads(run("nodes", "show", "n1", "--json").stdout)
    assert shown.keys() == machines["n1"].keys()
    assert shown["memory_free_mb"] == 20480


@pytest.mark.parametrize(
    ("arguments", "body", "state"),
    [
        (["drain"], {"deadline_s": 3600}, "draining"),
        (["drain", "--deadline", "10m"], {"deadline_s": 600}, "draining"),
        (["resume"], None, "ready"),
        (["remove"], None, "removed"),
    ],
)
def test_steering_goes_on_after_an_error(
    run: Run, fake: FakeService, arguments: list[str], body: object, state: str
) -> None:
    done = run("nodes", *arguments, "n1", "nothing", "odd")
    assert done.exit_code == 4
    assert "There is no such node" in done.stderr
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [
        ["n1", state],
        ["odd", state],
    ]
    assert ("POST", f"/v1/nodes/n1/{arguments[0]}", body) in fake.requests


@pytest.mark.parametrize(
    ("switch", "required", "words"), [("on", True, "only on nodes"), ("off", False, "on all nodes")]
)
def test_limits_are_required_or_not(
    run: Run, fake: FakeService, switch: str, required: bool, words: str
) -> None:
    done = run("nodes", "require-limits", switch)
    assert (done.exit_code, words in done.stdout) == (0, True), done.output
    assert fake.requests[-1] == ("POST", "/v1/nodes/require-limits", {"required": required})
    as_json = run("nodes", "require-limits", switch, "--json")
    assert json.loads(as_json.stdout) == {"required": required}
    assert run("nodes", "require-limits").exit_code == 2


def test_names_that_are_no_path(run: Run, fake: FakeService) -> None:
    run("nodes", "drain", "../users")
    assert fake.requests[-1][1] == "/v1/nodes/..%2Fusers/drain"
    assert run("nodes", "drain").exit_code == 2
    assert run("nodes", "drain", "n1", "--deadline", "soon").exit_code == 2


def test_upgrade_says_what_is_behind(run: Run, fake: FakeService) -> None:
    done = run("nodes", "upgrade")
    assert done.exit_code == 0
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["n2", "bundle", "0.0.9+aaaaaaaa", bundle.version()],
        ["n2", "nomad", "2.0.4", "2.0.5"],
    ]
    assert "tar -xf nomadrun.tar && nomadrun/get-started.sh" in done.stderr
    assert "nodes drain n2" in done.stderr
    assert not any(method == "POST" for method, _, _ in fake.requests)


def test_upgrade_drains_only_what_is_behind(run: Run, fake: FakeService) -> None:
    done = run("nodes", "upgrade", "n1", "n2", "--drain", "--json")
    one, two = json.loads(done.stdout)
    assert (one["behind"], one["command"]) == ([], None)
    assert two["behind"][1] == {"part": "nomad", "found": "2.0.4", "wanted": "2.0.5"}
    assert [path for method, path, _ in fake.requests if method == "POST"] == ["/v1/nodes/n2/drain"]


def test_nothing_to_upgrade(run: Run, machines: dict[str, dict[str, Any]]) -> None:
    machines["n1"]["versions"] = {"bundle": bundle.version(), "nomad": "2.0.5", "stage": "1"}
    assert run("nodes", "upgrade", "n1").output == ""
    assert run("nodes", "upgrade", "nothing").exit_code == 4


def test_only_admins(run: Run, fake: FakeService) -> None:
    fake.script("GET", "/v1/nodes", 403, {"error": "forbidden", "detail": "Only an admin may."})
    assert run("nodes", "list").exit_code == 3


def test_from_python(run: Run, fake: FakeService) -> None:
    client = Client()
    assert [node.name for node in client.nodes.list()] == ["n1", "n2", "odd"]
    assert client.nodes.show("n1").enrolled_at is not None
    assert client.nodes.drain("n1", 60).state == "draining"
    with pytest.raises(NotFound):
        client.nodes.resume("nothing")


def test_rotating_with_an_overlap(run: Run, fake: FakeService) -> None:
    run("compute-secret", "rotate")
    run("compute-secret", "rotate", "--overlap", "0")
    run("compute-secret", "rotate", "--overlap", "1d")
    bodies = [body for _, path, body in fake.requests if path == "/v1/compute-secret/rotate"]
    assert bodies == [None, {"overlap_s": 0}, {"overlap_s": 86400}]
