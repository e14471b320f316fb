"""What a check says where a real cluster would have to be broken first."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.connectors.base import Finding
from bridge.connectors.nomad.check import Asked, Checks, Probe
from bridge.connectors.nomad.client import Connection
from bridge.connectors.nomad.enrol import Enrolment
from bridge.connectors.nomad.keeper import NodeKeeper, second
from bridge.connectors.nomad.setup import Place
from tests.support.certificates import Authority
from tests.support.fake_nomad import Answer, FakeNomad
from tests.unit.connectors.nomad.test_capacity import raw_node
from tests.unit.connectors.nomad.test_server_settings import RECORDED

LAB = Place("lab", "g-lab", "g-lab")

Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(connection: Connection, nomad: FakeNomad) -> Look:
    nomad.routes["GET", "/v1/status/leader"] = Answer(200, "127.0.0.1:4647")
    nomad.routes["GET", "/v1/agent/self"] = Answer(200, RECORDED)

    def run(clock: Callable[[], float] = time.time, **changes: Any) -> dict[str, Finding]:
        fields: dict[str, Any] = {
            "places": (),
            "enrolment": Enrolment(),
            "client_cert": None,
            "forget_after_s": 600,
            "node_lost_after_s": 600,
            "upload_limit_s": 3600,
        }
        probe = Probe(connection)
        keeper = NodeKeeper(second(connection, "second"))
        checks = Checks(probe, keeper, probe, Asked(**(fields | changes)), clock)
        found = list(checks.run())
        assert len({one.what for one in found}) == len(found)
        assert all(one.remedy for one in found if not one.ok)
        return {one.what: one for one in found}

    return run


def test_clocks_that_agree_and_clocks_that_do_not(look: Look) -> None:
    assert look()["clock"].ok
    assert "behind ours" in look(lambda: time.time() + 100)["clock"].detail
    ahead = look(lambda: time.time() - 600)["clock"]
    assert not ahead.ok and "s ahead of ours" in ahead.detail


def test_nomad_on_machines_can_be_too_old(look: Look, nomad: FakeNomad) -> None:
    nodes = [
        raw_node("n1", Name="fresh", Version="2.0.5"),
        raw_node("n2", Name="stale", Version="2.0.3"),
        raw_node("n3", Name="odd", Version=""),
    ]
    nomad.routes["GET", "/v1/nodes"] = Answer(200, nodes)
    found = look(places=(LAB,))["machines of lab"]
    assert not found.ok and "stale, odd" in found.detail and "fresh" not in found.detail
    nomad.routes["GET", "/v1/nodes"] = Answer(200, [nodes[0], nodes[0] | {"Status": "down"}])
    assert look(places=(LAB,))["machines of lab"].detail == "1 of 2 ready"


def test_a_job_that_is_taken_and_not_shown(look: Look, nomad: FakeNomad) -> None:
    taken: list[str] = []

    def register(request: Any) -> Answer:
        job = request.body["Job"]["ID"]
        taken.append(job)
        nomad.routes["GET", f"/v1/job/{job}"] = Answer(404, "job not found")
        nomad.routes["GET", f"/v1/job/{job}/allocations"] = Answer(200, [])
        nomad.routes["DELETE", f"/v1/job/{job}"] = Answer(200, {})
        return Answer(200, {})

    nomad.routes["POST", "/v1/jobs"] = register
    nomad.routes["GET", "/v1/jobs"] = Answer(200, [])
    assert "does not show it" in look(places=(LAB,))["jobs of lab"].detail
    gone = [r for r in nomad.requests if r.method == "DELETE" and taken[0] in r.path]
    assert [r.query.get("purge") for r in gone][-1] == "True"


def test_a_job_that_nomad_refuses_for_its_own_sake(look: Look, nomad: FakeNomad) -> None:
    nomad.routes["POST", "/v1/jobs"] = Answer(500, "1 error occurred: job validation failed")
    assert not look(places=(LAB,))["jobs of lab"].ok


def test_certificates_that_expire_are_found_before(look: Look, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "nomad", lifetime_days=20)
    pair = authority.issue("client.global.nomad")
    fixed = Enrolment(ca_file=authority.ca_file, node_cert_file=pair.cert, node_key_file=pair.key)
    found = look(enrolment=fixed, client_cert=pair.cert)
    assert found["nomad.ca_file"].ok and found["nomad.node_cert_file"].ok
    assert "nomad.servers" in found["enrolment"].detail
    late = look(lambda: time.time() + 7 * 86400, enrolment=fixed)
    assert not late["nomad.ca_file"].ok and late["nomad.node_cert_file"].ok
    gone = look(lambda: time.time() + 99 * 86400, enrolment=fixed)
    assert "has expired" in gone["nomad.ca_file"].detail
    missing = look(enrolment=Enrolment(ca_file=tmp_path / "none"))
    assert "cannot read" in missing["nomad.ca_file"].detail


def test_a_ca_below_the_one_that_servers_trust_will_do(look: Look, tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    below = root.below("nodes")
    other = Authority(tmp_path, "other")
    for ca, trusted in ((root, True), (below, True), (other, False)):
        signing = Enrolment(ca_file=root.ca_file, ca_cert_file=ca.ca_file, ca_key_file=ca.key_file)
        assert look(enrolment=signing)["trust"].ok is trusted


def test_a_key_that_others_may_read_is_found(look: Look, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "nomad")
    signing = Enrolment(
        ca_file=authority.ca_file,
        ca_cert_file=authority.ca_file,
        ca_key_file=authority.key_file,
    )
    assert look(enrolment=signing)["nomad.ca_key_file"].ok
    authority.key_file.chmod(0o640)
    assert "640" in look(enrolment=signing)["nomad.ca_key_file"].detail
    authority.key_file.unlink()
    assert not look(enrolment=signing)["nomad.ca_key_file"].ok
