from __future__ import annotations

import pytest

from bridge.models.usage import Month
from tests.support.fake_core import FakeBridge
from tests.support.http import Door, assert_canonical_error, submission


def test_whoami(anna: Door, ben: Door, reader: Door) -> None:
    alpha = {"group": "alpha", "code_bucket": "code-grouptokenofalpha"}
    token = {"group_token": "grouptokenofalpha"}
    assert anna.get("/v1/whoami").get_json() == {
        **alpha,
        **token,
        "user": "anna",
        "role": "admin",
        "admin": True,
    }
    assert ben.get("/v1/whoami").get_json() == {
        **alpha,
        **token,
        "user": "ben",
        "role": "member",
        "admin": False,
    }
    assert reader.get("/v1/whoami").get_json() == {
        **alpha,
        "group_token": None,
        "user": None,
        "role": "reader",
        "admin": False,
    }


def test_members_see_their_own_usage_and_admins_the_groups(
    anna: Door, ben: Door, reader: Door, bridge: FakeBridge
) -> None:
    bridge.usage.months = [
        Month("cleo", "2026-01", 1, 60.0, 0.0),
        Month("ben", "2026-01", 3, 7.5, 0),
    ]
    bens = {
        "user": "ben",
        "month": "2026-01",
        "attempts": 3,
        "core_seconds": 7.5,
        "gpu_seconds": 0,
    }
    assert ben.get("/v1/usage").get_json() == {"usage": [bens]}
    assert len(anna.get("/v1/usage").get_json()["usage"]) == 2
    assert_canonical_error(reader.get("/v1/usage"), 403)
    [total, *_] = anna.get("/v1/usage/group").get_json()["usage"]
    assert set(total) == {"month", "attempts", "core_seconds", "gpu_seconds"}
    assert_canonical_error(ben.get("/v1/usage/group"), 403)


def test_a_new_users_secret_works_and_is_shown_once(anna: Door) -> None:
    response = anna.post("/v1/users", {"name": "dora"})
    created = response.get_json()
    assert response.status_code == 201
    assert (created["name"], created["admin"]) == ("dora", False)
    dora = Door(anna._client, created["secret"])
    assert dora.get("/v1/whoami").get_json()["user"] == "dora"
    assert created["secret"] not in anna.get("/v1/users").get_data(as_text=True)


def test_users_are_listed_without_secrets(anna: Door) -> None:
    first = anna.get("/v1/users").get_json()["users"][0]
    assert first == {
        "name": "anna",
        "admin": True,
        "created_at": "2026-01-01T00:00:00.250Z",
        "revoked_at": None,
        "last_used_at": None,
    }


def test_a_revoked_user_is_out_at_once_and_looks_unknown(anna: Door, ben: Door) -> None:
    revoked = anna.delete("/v1/users/ben")
    assert revoked.status_code == 200
    assert revoked.get_json()["revoked_at"] == "2026-01-01T00:00:00.250Z"
    unknown = Door(ben._client, "nbapi_" + "x" * 52)
    told = assert_canonical_error(ben.get("/v1/whoami"), 401)
    assert told == assert_canonical_error(unknown.get("/v1/whoami"), 401)


@pytest.mark.parametrize("name", ["nobody", "%00", "a" * 65, "%0a"])
def test_revoking_an_unknown_user_is_404(anna: Door, name: str) -> None:
    assert_canonical_error(anna.delete(f"/v1/users/{name}"), 404)


def test_the_compute_secret_opens_the_group(bert: Door) -> None:
    assert_canonical_error(bert.post("/v1/jobs", submission()), 412)
    assert bert.post("/v1/compute-secret/rotate").get_json()["secret"].startswith("nbcompute_")
    assert bert.post("/v1/jobs", submission()).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/v1/users", None),
        ("post", "/v1/users", {"name": "x"}),
        ("delete", "/v1/users/anna", None),
        ("post", "/v1/compute-secret/rotate", None),
    ],
)
def test_only_admins_manage(ben: Door, reader: Door, method: str, path: str, body: object) -> None:
    for door in (ben, reader):
        response = getattr(door, method)(path, *([body] if body else []))
        assert_canonical_error(response, 403)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "$.name: is missing"),
        ({"name": ""}, "$.name"),
        ({"name": "n" * 65}, "$.name"),
        ({"name": None}, "$.name"),
        ({"name": "x\ny"}, "$.name"),
        ({"name": "x", "admin": 1}, "$.admin"),
        ({"name": "x", "admin": None}, "$.admin"),
        ({"name": "x", "role": "admin"}, "$.role: is not a known field"),
    ],
)
def test_a_bad_new_user_is_refused(anna: Door, bridge: FakeBridge, body: object, says: str) -> None:
    before = len(bridge.groups.users)
    assert_canonical_error(anna.post("/v1/users", body), 422, says)
    assert len(bridge.groups.users) == before


def test_a_taken_name_is_a_conflict(anna: Door) -> None:
    assert_canonical_error(anna.post("/v1/users", {"name": "ben"}), 409, "ben")


def test_rotate_takes_no_fields(bert: Door, bridge: FakeBridge) -> None:
    assert_canonical_error(bert.post("/v1/compute-secret/rotate", {"keep": True}), 422, "$.keep")
    assert not bridge.groups.groups[bridge.beta.id].has_compute_secret
