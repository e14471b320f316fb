from __future__ import annotations

import pytest
from flask import Flask

from bridge.models.secret import SecretKind, new_secret
from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge
from tests.support.http import Door, assert_canonical_error, submission

PATHS = [
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/0193f0a0-0000-7000-8000-000000000000"),
    ("post", "/v1/jobs"),
    ("post", "/v1/jobs/0193f0a0-0000-7000-8000-000000000000/cancel"),
    ("post", "/v1/jobs/0193f0a0-0000-7000-8000-000000000000/prune"),
    ("get", "/v1/activity"),
    ("get", "/v1/users"),
    ("post", "/v1/users"),
    ("delete", "/v1/users/ben"),
    ("post", "/v1/compute-secret/rotate"),
    ("get", "/v1/whoami"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_nothing_without_a_secret(nobody: Door, method: str, path: str) -> None:
    response = getattr(nobody, method)(path)
    assert_canonical_error(response, 401, "Authorization: Bearer")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("nbapi_" + "a" * 52, "not known, or was revoked"),
        ("nbcompute_" + "a" * 52, "Use your API secret"),
        ("nbapi_short", "not known, or was revoked"),
        ("something", "begins with nbapi_"),
        ("Grouptokenofalpha", "begins with nbapi_"),
    ],
)
def test_nothing_with_a_secret_that_is_not_valid(
    app: Flask, method: str, path: str, secret: str, says: str
) -> None:
    response = getattr(Door(app.test_client(), secret), method)(path)
    assert_canonical_error(response, 401, says)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_a_group_token_only_reads(reader: Door, method: str, path: str) -> None:
    bodies: dict[str, object] = {"/v1/jobs": [submission()], "/v1/users": {"name": "x"}}
    body = [bodies.get(path)] if method == "post" else []
    response = getattr(reader, method)(path, *body)
    if path in {"/v1/activity", "/v1/whoami"}:
        assert response.status_code == 200
    else:
        assert_canonical_error(response, 403, "Use your API secret")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer \xe4", "nbapi_x"]
)
def test_a_header_that_is_no_bearer_token(app: Flask, header: str) -> None:
    response = app.test_client().get("/v1/whoami", headers={"Authorization": header})
    assert_canonical_error(response, 401, "Authorization: Bearer")


def test_the_scheme_is_not_case_sensitive(app: Flask, bridge: FakeBridge) -> None:
    response = app.test_client().get(
        "/v1/whoami", headers={"Authorization": f"bearer  {bridge.ben}"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("query", ["token={}", "secret={}", "access_token=x", "state={}"])
def test_a_secret_in_the_url_is_refused_even_beside_a_good_header(
    ben: Door, bridge: FakeBridge, query: str
) -> None:
    response = ben.get("/v1/jobs?" + query.format(bridge.ben))
    assert_canonical_error(response, 401, "in the URL")


def test_a_body_is_not_read_before_the_secret_is_known(nobody: Door) -> None:
    assert_canonical_error(nobody.post("/v1/jobs", b"{"), 401)


def test_requests_are_limited_per_secret(bridge: FakeBridge) -> None:
    client = create_app(bridge, Limits(requests_per_minute=3)).test_client()
    ben, cleo = Door(client, bridge.ben), Door(client, bridge.cleo)
    assert [ben.get("/v1/whoami").status_code for _ in range(3)] == [200] * 3
    looked_up = bridge.access.lookups
    response = ben.get("/v1/whoami")
    assert_canonical_error(response, 429, "3 requests")
    assert 1 <= int(response.headers["Retry-After"]) <= 20
    assert bridge.access.lookups == looked_up
    assert cleo.get("/v1/whoami").status_code == 200


def test_failed_authentications_are_limited_but_lock_nobody_out(app: Flask, ben: Door) -> None:
    client = app.test_client()
    statuses = [
        Door(client, new_secret(SecretKind.API)).get("/v1/whoami").status_code for _ in range(400)
    ]
    assert statuses[:300] == [401] * 300
    assert 429 in statuses[300:]
    assert ben.get("/v1/whoami").status_code == 200
    elsewhere = client.get("/v1/whoami", environ_overrides={"REMOTE_ADDR": "127.0.0.9"})
    assert_canonical_error(elsewhere, 401)
