"""Whatever python-nomad and requests raise becomes one of our two errors."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import msgspec
import pytest
import requests
from nomad.api import exceptions as nomad_errors

from bridge.connectors.nomad.faults import FAULTS, denial_hint, is_denial, translated
from bridge.errors import ConnectorUnavailable, JobRejected


def exceptions_of(module: ModuleType) -> list[type[Exception]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        # Only its own: requests.exceptions also imports one of urllib3, which it wraps.
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
        if not issubclass(kind, Warning)
    ]


def answer(status: int, text: str = "", **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = text.encode()
    response.headers.update(headers)
    return response


def of_nomad(status: int, text: str, **headers: str) -> Exception:
    fault: Exception = nomad_errors.BaseNomadException(answer(status, text, **headers))
    return fault


def test_there_is_something_to_translate() -> None:
    assert len(exceptions_of(nomad_errors)) >= 7
    assert len(exceptions_of(requests.exceptions)) >= 20


@pytest.mark.parametrize("kind", exceptions_of(nomad_errors), ids=lambda kind: kind.__name__)
def test_every_exception_of_python_nomad(kind: type[Exception]) -> None:
    assert issubclass(kind, FAULTS)
    for inner in (answer(500, "rpc error"), requests.ConnectionError("refused"), "text"):
        for registers in (False, True):
            error = translated(kind(inner), "ask", registers=registers)
            assert isinstance(error, ConnectorUnavailable)
            assert error.retry_after > 0 and error.hint


@pytest.mark.parametrize("kind", exceptions_of(requests.exceptions), ids=lambda kind: kind.__name__)
def test_every_exception_of_requests(kind: Any) -> None:
    assert issubclass(kind, FAULTS)
    fault = kind.__new__(kind)  # their constructors differ
    error = translated(fault, "ask", registers=True)
    assert isinstance(error, ConnectorUnavailable)
    assert error.retry_after > 0 and error.hint


@pytest.mark.parametrize(
    "fault",
    [msgspec.ValidationError("x"), msgspec.DecodeError("x"), ValueError("x"), OSError("x")],
)
def test_answers_that_are_not_nomads(fault: Exception) -> None:
    assert isinstance(fault, FAULTS)
    assert "cannot be read" in translated(fault, "ask").message


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (requests.ConnectTimeout(), "did not answer in time"),
        (requests.ReadTimeout(), "did not answer in time"),
        (requests.exceptions.SSLError("bad certificate"), "TLS failed (bad certificate)"),
        (requests.ConnectionError("refused"), "no connection (refused)"),
        (nomad_errors.BaseNomadException(requests.ReadTimeout()), "did not answer in time"),
    ],
)
def test_what_is_wrong_with_the_connection_is_said(fault: Exception, words: str) -> None:
    assert words in translated(fault, "ask").message


def test_403_names_the_capabilities_that_may_be_missing() -> None:
    error = translated(of_nomad(403, "Permission denied"), "stop the job x")
    assert "stop the job x: Permission denied" in error.message
    for capability in ("register-job", "purge-job", "read-job", "parse-job", "node read"):
        assert capability in error.hint


@pytest.mark.parametrize(
    ("token_fault", "hint"),
    [
        (None, "lacks deregister-job"),
        (of_nomad(500, "ACL token expired"), "has expired"),
        (of_nomad(403, "Permission denied"), "does not know the token"),
        (requests.ReadTimeout(), "may be unknown or expired, or lack"),
    ],
)
def test_a_denial_is_the_tokens_or_a_capabilitys(token_fault: Exception | None, hint: str) -> None:
    assert is_denial(of_nomad(403, "Permission denied"))
    assert hint in denial_hint("deregister-job", token_fault)


def test_not_every_403_is_a_denial() -> None:
    assert not is_denial(of_nomad(403, "job registration is disabled"))
    assert not is_denial(of_nomad(500, "Permission denied"))


def test_an_expired_token_is_a_500_where_it_is_asked_about() -> None:
    assert "has expired" in translated(of_nomad(500, "ACL token expired"), "describe").hint


def test_403_of_a_cluster_that_takes_no_jobs() -> None:
    error = translated(of_nomad(403, "job registration is disabled by …"), "x", registers=True)
    assert "reject_job_registration" in error.hint


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0", 1.0), ("soon", 5.0)])
def test_429_waits_as_long_as_nomad_says(header: str, seconds: float) -> None:
    error = translated(of_nomad(429, "", **{"Retry-After": header}), "x", registers=True)
    assert isinstance(error, ConnectorUnavailable)
    assert error.retry_after == seconds
    assert "http_max_conns_per_client" in error.hint


@pytest.mark.parametrize(
    "text", ["No cluster leader", "rpc error: EOF", "Enforcing job modify index 5: job exists", ""]
)
def test_500_is_retried(text: str) -> None:
    assert isinstance(translated(of_nomad(500, text), "x", registers=True), ConnectorUnavailable)


REFUSED = [
    (500, "1 error occurred:\n\t* Task group job validation failed"),
    (400, "Job validation failed: bad"),
]


@pytest.mark.parametrize(("status", "text"), REFUSED)
def test_a_job_that_nomad_finds_invalid_is_rejected(status: int, text: str) -> None:
    error = translated(of_nomad(status, text), "take the job x", registers=True)
    assert isinstance(error, JobRejected)
    assert "\n" not in error.message


@pytest.mark.parametrize(("status", "text"), REFUSED)
def test_only_registering_rejects_jobs(status: int, text: str) -> None:
    assert isinstance(translated(of_nomad(status, text), "show"), ConnectorUnavailable)


@pytest.mark.parametrize("place", ["namespace", "node pool"])
def test_a_missing_place_is_no_fault_of_the_job(place: str) -> None:
    text = f'1 error occurred:\n\t* job "x" is in nonexistent {place} "g"'
    error = translated(of_nomad(500, text), "x", registers=True)
    assert isinstance(error, ConnectorUnavailable)
    assert place in error.hint


def test_messages_stay_short() -> None:
    assert len(translated(of_nomad(500, "x" * 10_000), "ask").message) < 500


@pytest.mark.parametrize(
    ("fault", "narrow"),
    [
        (of_nomad(403, "Permission denied"), True),
        (of_nomad(500, 'job is in nonexistent node pool "g-lab"'), True),
        (of_nomad(400, "bad request"), True),
        (of_nomad(429, ""), False),
        (of_nomad(500, "No cluster leader"), False),
        (of_nomad(500, "ACL token expired"), False),
        (of_nomad(404, "a proxy"), False),
        (requests.ConnectionError("refused"), False),
        (requests.ReadTimeout(), False),
    ],
    ids=str,
)
def test_what_is_refused_in_one_place_may_go_well_in_another(
    fault: Exception, narrow: bool
) -> None:
    found = translated(fault, "act")
    assert isinstance(found, ConnectorUnavailable)
    assert found.narrow is narrow


def test_a_refusal_is_in_words_that_can_be_stored() -> None:
    response = answer(500, "validation failed: a\0b")
    response.encoding = "utf-8"  # as Nomad says; else it is guessed
    fault = nomad_errors.BaseNomadException(response)
    error = translated(fault, "take it", registers=True)
    assert type(error) is JobRejected
    assert error.message == "Nomad refuses to take it: validation failed: a\ufffdb"
