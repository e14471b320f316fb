"""An admin looks after the machines of a real Nomad cluster by the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import needs
from tests.support.nomad_cluster import cluster
from tests.support.nomad_service import on_nomad, printed
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs("nomad", "docker")


@pytest.fixture(scope="module")
def service(rclone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    for name in ("nomad", "docker"):
        needs.need(name)
    home = tmp_path_factory.mktemp("nodes") / "home"
    with cluster() as nomad:
        token = nomad.token_with('node { policy = "write" }')
        with on_nomad(nomad, home, rclone, node_token=token) as running:
            yield running


def _node(service: RunningService) -> dict[str, Any]:
    found: dict[str, Any] = printed(service, "nodes", "show", "node-1")
    return found


def test_the_operators_own_machine_is_shown(service: RunningService) -> None:
    (node,) = printed(service, "nodes", "list")
    assert (node["name"], node["state"]) == ("node-1", "ready")
    assert 0 < node["cores_free"] <= node["cores_total"]
    assert 0 < node["memory_free_mb"] <= node["memory_total_mb"]
    assert node["versions"]["nomad"].startswith("2.")
    assert node["attempts"] == 0


def test_drained_and_resumed(service: RunningService) -> None:
    done = service.command("nodes", "drain", "node-1", "--deadline", "1m")
    assert done.returncode == 0, done.stderr
    eventually(lambda: _node(service)["state"] in {"draining", "ineligible"})
    assert service.command("nodes", "resume", "node-1").returncode == 0
    eventually(lambda: _node(service)["state"] == "ready")
    assert service.command("nodes", "drain", "node-2").returncode == 4
