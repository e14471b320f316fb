from __future__ import annotations

import logging
import re

import pytest
from flask import Flask

from bridge.api.errors import problem_of
from bridge.errors import BridgeError, ConnectorUnavailable, JobRejected, Refused, Unavailable
from tests.support.fake_core import FakeBridge
from tests.support.http import Door, assert_canonical_error, submission


def test_every_refusal_has_a_status() -> None:
    def descendants(kind: type[BridgeError]) -> list[type[BridgeError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in descendants(sub))]

    for kind in [*descendants(Refused)[1:], Unavailable, ConnectorUnavailable]:
        assert 400 <= problem_of(kind()).status < 600
        assert problem_of(kind()).status != 500, kind


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nothing", "/favicon.ico", "/v1//jobs"])
def test_unknown_paths(ben: Door, path: str) -> None:
    assert_canonical_error(ben.get(path), 404, "/v1/")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("PUT", "/v1/users/ben", {"DELETE", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_wrong_method(app: Flask, method: str, path: str, allowed: set[str]) -> None:
    response = app.test_client().open(path, method=method)
    assert_canonical_error(response, 405, "takes")
    assert set(response.headers["Allow"].split(", ")) == allowed


def test_a_fault_of_ours_tells_a_number_and_logs_the_rest(
    ben: Door, bridge: FakeBridge, caplog: pytest.LogCaptureFixture
) -> None:
    bridge.jobs.fault = RuntimeError("inner detail")
    for response in (ben.get("/v1/jobs"), ben.post("/v1/jobs", submission())):
        body = assert_canonical_error(response, 500)
        assert b"inner detail" not in response.data
        found = re.search(r"incident ([0-9a-f]{8})", body["detail"])
        assert found
        record = next(item for item in caplog.records if found[1] in item.getMessage())
        assert record.levelno == logging.ERROR
        assert record.exc_info and "inner detail" in str(record.exc_info[1])


def test_an_error_no_caller_can_cause_is_a_fault_of_ours(ben: Door, bridge: FakeBridge) -> None:
    bridge.jobs.fault = JobRejected("inner detail")
    assert "inner" not in assert_canonical_error(ben.get("/v1/jobs"), 500)["detail"]


def test_unavailable_says_when_to_come_back(ben: Door, bridge: FakeBridge) -> None:
    bridge.jobs.fault = Unavailable("The database does not answer.", retry_after=2.5)
    response = ben.post("/v1/jobs", submission())
    assert_canonical_error(response, 503, "database")
    assert response.headers["Retry-After"] == "3"


def test_the_log_has_the_route_and_nothing_of_the_request(
    ben: Door, bridge: FakeBridge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bridge")
    sent = submission(name="private-name")
    job = ben.post("/v1/jobs", sent).get_json()
    ben.get(f"/v1/jobs/{job['id']}?x=private-query")
    ben.get("/private/path")
    ben.get("/healthz")
    lines = [item.getMessage() for item in caplog.records]
    assert [re.sub(r"ms=[0-9.]+", "ms=_", line) for line in lines] == [
        "action=request method=POST route=/v1/jobs status=201 ms=_",
        "action=request method=GET route=/v1/jobs/<job_id> status=200 ms=_",
        "action=request method=GET route=- status=404 ms=_",
        "action=request method=GET route=/healthz status=200 ms=_",
    ]
    assert caplog.records[-1].levelno == logging.DEBUG
    for hidden in ("private", sent["bucket_id"], bridge.ben):
        assert hidden not in caplog.text


def test_every_answer_is_not_to_be_stored(ben: Door) -> None:
    for path in ("/healthz", "/v1/whoami", "/nothing"):
        headers = ben.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
