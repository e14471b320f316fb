from __future__ import annotations

import io
import tarfile
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient

from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge
from tests.support.fake_nodes import FACTS
from tests.support.http import Door, assert_canonical_error


@pytest.fixture
def secret(anna: Door) -> str:
    """The compute secret of alpha."""
    found: str = anna.post("/v1/compute-secret/rotate").get_json()["secret"]
    return found


@pytest.fixture
def node(app: Flask, secret: str) -> Door:
    """A machine with alpha's compute secret."""
    return Door(app.test_client(), secret)


def asking(**changes: object) -> dict[str, object]:
    """The body of an enrolment."""
    return {
        "group_token": "grouptokenofalpha",
        "name": "n1",
        "signing_request": "-----BEGIN CERTIFICATE REQUEST-----",
        "facts": {**FACTS, "clock": 1.5},
        **changes,
    }


class TestEnrolment:
    def test_as_json(self, node: Door, bridge: FakeBridge) -> None:
        response = node.post("/v1/nodes/enroll", asking())
        assert response.status_code == 201
        assert response.get_json() == {
            "files": {"client.pem": "a certificate", "bridge.json": '{"name": "n1"}'},
            "expires_at": "2026-01-01T01:00:00.250Z",
        }
        [candidate] = bridge.enrolment.candidates
        assert (candidate.facts.cores, candidate.facts.clock) == (8, 1.5)

    def test_as_tar(self, app: Flask, secret: str) -> None:
        response = FlaskClient(app).post(
            "/v1/nodes/enroll",
            json=asking(),
            headers={"Authorization": f"Bearer {secret}", "Accept": "application/x-tar"},
        )
        assert (response.status_code, response.mimetype) == (201, "application/x-tar")
        assert response.headers["Cache-Control"] == "no-store"
        with tarfile.open(fileobj=io.BytesIO(response.data), mode="r:") as tar:
            members = tar.getmembers()
            pem = tar.extractfile("client.pem")
            assert pem is not None and pem.read() == b"a certificate"
        assert [(one.name, one.mode, one.uid) for one in members] == [
            ("bridge.json", 0o600, 0),
            ("client.pem", 0o600, 0),
        ]

    def test_facts_of_later_bundles_are_no_error(self, node: Door) -> None:
        told = {**FACTS, "clock": 1.5, "gpus": 2}
        assert node.post("/v1/nodes/enroll", asking(facts=told)).status_code == 201

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"name": 5}, "name"),
            ({"signing_request": "x" * 20_000}, "signing_request"),
            ({"facts": {**FACTS}}, "clock"),
            ({"facts": {**FACTS, "clock": 1, "cores": 0}}, "cores"),
            ({"more": 1}, "more"),
        ],
    )
    def test_bad_bodies(self, node: Door, changes: dict[str, object], says: str) -> None:
        assert_canonical_error(node.post("/v1/nodes/enroll", asking(**changes)), 422, says)

    def test_others_secrets(self, anna: Door, nobody: Door, secret: str) -> None:
        for door in (anna, nobody):
            assert_canonical_error(door.post("/v1/nodes/enroll", asking()), 401)

    def test_too_many(self, bridge: FakeBridge, anna: Door, secret: str) -> None:
        client = create_app(bridge, Limits(), enrolments_per_minute=2).test_client()
        node = Door(client, secret)
        statuses = [node.post("/v1/nodes/enroll", asking()).status_code for _ in range(2)]
        assert statuses == [201, 201]
        refused = node.post("/v1/nodes/enroll", asking())
        assert_canonical_error(refused, 429, "machines")
        assert int(refused.headers["Retry-After"]) <= 30
        # Each call for itself, and members are none of it.
        body = {"group_token": "grouptokenofalpha", "ok": True}
        assert node.post("/v1/nodes/n1/report", body).status_code == 200
        assert Door(client, bridge.anna).get("/v1/nodes").status_code == 200


class TestSelftest:
    def test_start_and_look(self, app: Flask, node: Door, secret: str) -> None:
        body = {"group_token": "grouptokenofalpha", "bucket_id": str(uuid4())}
        started = node.post("/v1/nodes/n1/selftest", body)
        assert started.status_code == 201
        assert started.get_json() == {
            "id": "00000000-0000-0000-0000-000000000005",
            "state": "received",
            "phase": None,
            "reason": None,
            "exit_code": None,
        }
        path = f"/v1/nodes/n1/selftest/{started.get_json()['id']}"
        headers = {"Authorization": f"Bearer {secret}", "X-Group-Token": "grouptokenofalpha"}
        looked = FlaskClient(app).get(path, headers=headers)
        assert looked.get_json() == started.get_json()
        assert_canonical_error(node.get(path), 401)  # without the group's token
        assert_canonical_error(node.get("/v1/nodes/n1/selftest/x"), 404)
        assert_canonical_error(node.post("/v1/nodes/n2/selftest", body), 404)

    def test_report(self, node: Door, bridge: FakeBridge) -> None:
        finding = {"what": "limits", "ok": False, "detail": "no cgroup v2", "remedy": "delegate"}
        body = {"group_token": "grouptokenofalpha", "ok": False, "findings": [finding]}
        assert node.post("/v1/nodes/n1/report", body).get_json() == {"ok": False}
        [(ok, [found])] = bridge.selftests.reports
        assert (ok, found.what, found.remedy) == (False, "limits", "delegate")
        too_many = {**body, "findings": [finding] * 101}
        assert_canonical_error(node.post("/v1/nodes/n1/report", too_many), 422)


class TestAdmins:
    def test_a_node(self, anna: Door) -> None:
        assert anna.get("/v1/nodes/n1").get_json() == {
            "name": "n1",
            "state": "ready",
            "reason": None,
            "generation_current": True,
            "enrolled_at": "2026-01-01T00:00:00.250Z",
            "expires_at": "2026-01-02T00:00:00.250Z",
            "last_seen_at": "2026-01-01T00:00:00.250Z",
            "attempts": 2,
            "failures": 1,
            "versions": {"nomad": "2.0.5"},
            "cores_total": 8,
            "cores_free": 3,
            "memory_total_mb": 16_000,
            "memory_free_mb": 16_000,
            "disk_total_mb": 500_000,
            "disk_free_mb": 400_000,
            "limits": True,
            "selftest": {
                "at": "2026-01-01T00:00:00.250Z",
                "ok": False,
                "detail": "limits: none",
            },
            "ui_url": "https://nomad.test/ui/clients/id-n1",
        }

    def test_the_list_has_strangers(self, anna: Door) -> None:
        found = anna.get("/v1/nodes").get_json()["nodes"]
        assert [one["name"] for one in found] == ["n1", "odd"]
        assert (found[1]["state"], found[1]["cores_total"]) == ("stranger", None)

    def test_steering(self, anna: Door, bridge: FakeBridge) -> None:
        for verb, body in (("drain", None), ("drain", {"deadline_s": 0}), ("resume", {})):
            assert anna.post(f"/v1/nodes/n1/{verb}", body).get_json()["name"] == "n1"
        assert anna.post("/v1/nodes/n1/remove").status_code == 200
        assert bridge.nodes.calls == [
            ("n1", "drain", "3600"),
            ("n1", "drain", "0"),
            ("n1", "resume"),
            ("n1", "remove"),
        ]
        assert_canonical_error(anna.post("/v1/nodes/n1/drain", {"deadline_s": -1}), 422)
        assert_canonical_error(anna.post("/v1/nodes/n1/resume", {"x": 1}), 422)
        assert_canonical_error(anna.post("/v1/nodes/n9/remove"), 404)

    def test_members_and_machines_steer_nothing(self, ben: Door, node: Door) -> None:
        for path in ("/v1/nodes", "/v1/nodes/n1"):
            assert_canonical_error(ben.get(path), 403)
            assert_canonical_error(node.get(path), 401)
        assert_canonical_error(ben.post("/v1/nodes/n1/drain"), 403)
        assert_canonical_error(ben.post("/v1/nodes/require-limits", {"required": True}), 403)

    def test_limits_can_be_required(self, anna: Door, bridge: FakeBridge) -> None:
        answer = anna.post("/v1/nodes/require-limits", {"required": True})
        assert answer.get_json() == {"required": True}
        assert bridge.groups.groups[bridge.alpha.id].requires_limits


class TestRotation:
    def test_with_an_overlap(self, anna: Door, bridge: FakeBridge) -> None:
        for body in (None, {}, {"overlap_s": 0}, {"overlap_s": 60}):
            assert anna.post("/v1/compute-secret/rotate", body).status_code == 200
        assert bridge.groups.overlaps == [None, None, 0, 60]
        for wrong in (-1, 1.5, 31 * 86400 + 1, "1"):
            refused = anna.post("/v1/compute-secret/rotate", {"overlap_s": wrong})
            assert_canonical_error(refused, 422, "overlap_s")

    def test_a_secret_can_be_checked(self, anna: Door, ben: Door, secret: str) -> None:
        check = "/v1/compute-secret/check"
        assert anna.post(check, {"secret": secret}).get_json() == {"current": True}
        assert anna.post(check, {"secret": "nbcompute_x"}).get_json() == {"current": False}
        assert_canonical_error(ben.post(check, {"secret": secret}), 403)

    def test_the_leruli_dialect_knows_no_overlap(self, app: Flask, bridge: FakeBridge) -> None:
        FlaskClient(app).post(
            "/v22_1/group-rotate-compute-secret", json={"adminsecret": bridge.anna}
        )
        assert bridge.groups.overlaps == [0]
