"""A front door without a network, and what every error of ours must look like."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import uuid4

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

KINDS: Final = {
    400: {"not_json", "bad_request"},
    401: {"unauthenticated"},
    403: {"forbidden"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    409: {"conflict"},
    412: {"not_ready"},
    413: {"too_large"},
    422: {"invalid_request"},
    429: {"too_many", "over_quota"},
    500: {"internal"},
    503: {"unavailable"},
}


class Door:
    """Requests with one secret to an application."""

    def __init__(self, client: FlaskClient, secret: str | None) -> None:
        self._client = client
        self._headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}

    def get(self, path: str) -> TestResponse:
        return self._client.get(path, headers=self._headers)

    def post(self, path: str, body: object = None) -> TestResponse:
        """POST bytes as they are, anything else as JSON."""
        if body is None or isinstance(body, bytes):
            return self._client.post(path, data=body, headers=self._headers)
        return self._client.post(path, json=body, headers=self._headers)

    def delete(self, path: str) -> TestResponse:
        return self._client.delete(path, headers=self._headers)


def submission(**changes: object) -> dict[str, Any]:
    """The body of a valid ``POST /v1/jobs``; a change to ``...`` leaves the key out."""
    sent = {"bucket_id": str(uuid4()), "image": "psi4:1.5", **changes}
    return {name: value for name, value in sent.items() if value is not ...}


def assert_canonical_error(response: TestResponse, status: int, says: str = "") -> dict[str, str]:
    """The one error shape, with ``says`` somewhere in it; returns the body."""
    told = response.get_data(as_text=True)
    assert response.status_code == status, told
    assert response.mimetype == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    body = response.get_json()
    assert set(body) == {"error", "detail", "hint"}
    assert_canonical_body(body, status, says)
    return body  # type: ignore[no-any-return]


def assert_canonical_body(body: dict[str, Any], status: int, says: str = "") -> None:
    """The fields of the error shape, wherever they stand."""
    assert body["error"] in KINDS[status]
    assert re.match(r"\S.*[.]$", body["detail"], re.DOTALL), body
    assert isinstance(body["hint"], str)
    assert len(body["detail"]) < 400
    assert says in f"{body['detail']} {body['hint']}", body
    assert "Traceback" not in body["detail"]
    assert "nbapi_" not in body["detail"]
