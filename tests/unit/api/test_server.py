"""The real server on a real socket: what waitress does before and after Flask."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from bridge import server
from bridge.errors import ConfigError
from bridge.server import HttpServer, create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge
from tests.support.http import assert_canonical_body, submission
from tests.support.poll import eventually


@pytest.fixture
def running(bridge: FakeBridge) -> Iterator[HttpServer]:
    http = HttpServer(create_app(bridge, Limits(body_bytes=10_000)), "127.0.0.1:0", 2)
    http.start()
    yield http
    http.close()


def connect(http: HttpServer) -> HTTPConnection:
    return HTTPConnection(http.address, timeout=10)


def raw(http: HttpServer, data: bytes) -> HTTPResponse:
    host, port = http.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        response = HTTPResponse(sock)
        response.begin()
        response.length = int(response.headers["Content-Length"])
        return _read(response)


def _read(response: HTTPResponse) -> HTTPResponse:
    response.told = json.loads(response.read())  # type: ignore[attr-defined]
    response.close()
    return response


def told(response: HTTPResponse) -> dict[str, Any]:
    body: dict[str, Any] = response.told  # type: ignore[attr-defined]
    return body


def test_a_request_that_blocks_does_not_keep_others_waiting(bridge: FakeBridge) -> None:
    app, go_on = create_app(bridge, Limits()), threading.Event()

    @app.get("/blocked")
    def blocked() -> str:
        go_on.wait(20)
        return ""

    http = HttpServer(app, "127.0.0.1:0", 4)
    http.start()
    late = [connect(http) for _ in range(2)]
    for connection in late:
        connection.request("GET", "/blocked")
    try:
        for _ in range(5):
            quick = connect(http)
            quick.request("GET", "/healthz")
            assert quick.getresponse().status == 200
            quick.close()
    finally:
        go_on.set()
    for connection in late:
        assert connection.getresponse().status == 200
        connection.close()
    http.close()


def test_a_free_port_is_found_and_the_server_does_not_name_itself(running: HttpServer) -> None:
    connection = connect(running)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    assert json.loads(response.read()) == {"status": "ok"}
    assert response.headers["Server"] is None
    connection.close()


def test_a_body_of_the_largest_size_is_read(running: HttpServer, bridge: FakeBridge) -> None:
    connection = connect(running)
    body = json.dumps(submission()).encode().ljust(10_000)
    connection.request("POST", "/v1/jobs", body, {"Authorization": f"Bearer {bridge.ben}"})
    assert connection.getresponse().status == 201
    connection.close()


@pytest.mark.parametrize("size", [10_001, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_larger_body_is_refused_and_its_sender_hears_why(
    running: HttpServer, bridge: FakeBridge, size: int, chunked: bool
) -> None:
    connection = connect(running)
    piece = b"x" * 1000
    body = (piece for _ in range(size // 1000 + 1)) if chunked else b"x" * size
    connection.request("POST", "/v1/jobs", body, encode_chunked=chunked)
    response = _read(connection.getresponse())
    assert response.status == 413
    assert response.headers["Cache-Control"] == "no-store"
    assert_canonical_body(told(response), 413, "10000 bytes")
    assert bridge.access.lookups == 0
    connection.close()


def test_a_dialects_client_hears_it_in_its_own_shape(running: HttpServer) -> None:
    connection = connect(running)
    connection.request("POST", "/v22_1/task-cancel", b"x" * 20_000)
    assert set(told(_read(connection.getresponse()))) == {"status", "reason", "detail"}
    connection.close()


def test_who_sends_without_end_is_cut_off(
    running: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_DISCARD_BYTES", 100_000)
    host, port = running.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        with pytest.raises(ConnectionError):
            send_without_end(sock)


def send_without_end(sock: socket.socket) -> None:
    for _ in range(900):  # in pieces: the time limit is for each call
        sock.sendall(b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    ],
)
def test_malformed_http_is_answered_in_json(
    running: HttpServer, request_: bytes, status: int
) -> None:
    response = raw(running, request_)
    assert response.status == status
    assert set(told(response)) == {"error", "detail", "hint"}
    assert "waitress" not in str(told(response)) + str(response.headers)


def test_closing_answers_what_was_received(
    running: HttpServer, bridge: FakeBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_THREADS_S", 0.0)
    bridge.jobs.gate.clear()
    connection = connect(running)
    body = json.dumps(submission())
    connection.request("POST", "/v1/jobs", body, {"Authorization": f"Bearer {bridge.ben}"})
    assert bridge.jobs.arrived.wait(10)
    closing = threading.Thread(target=running.close)
    closing.start()
    eventually(lambda: _refused(running))
    assert closing.is_alive()
    bridge.jobs.gate.set()
    assert connection.getresponse().status == 201
    closing.join(10)
    assert not closing.is_alive()
    connection.close()


def _refused(http: HttpServer) -> bool:
    host, port = http.address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except ConnectionError:
        return True
    except TimeoutError:
        return False  # not yet
    return False


def test_close_is_quick_may_be_repeated_and_needs_no_start(
    running: HttpServer, bridge: FakeBridge
) -> None:
    idle = connect(running)
    idle.request("GET", "/healthz")
    idle.getresponse().read()
    running.close()
    running.close()
    assert _refused(running)
    idle.close()
    never = HttpServer(create_app(bridge, Limits()), "127.0.0.1:0", 1)
    never.close()
    assert _refused(never)


@pytest.mark.parametrize("bind", ["127.0.0.1:99999", "127.0.0.1:http", "127.0.0.1", "192.0.2.1:80"])
def test_an_address_that_cannot_be_had(bridge: FakeBridge, bind: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen") as refused:
        HttpServer(create_app(bridge, Limits()), bind, 1)
    assert refused.value.hint


def test_a_taken_port(running: HttpServer, bridge: FakeBridge) -> None:
    with pytest.raises(ConfigError, match="in use"):
        HttpServer(create_app(bridge, Limits()), running.address, 1)


def test_many_at_once(running: HttpServer, bridge: FakeBridge) -> None:
    def one(_: int) -> int:
        connection = connect(running)
        headers = {"Authorization": f"Bearer {bridge.ben}"}
        connection.request("POST", "/v1/jobs", json.dumps(submission()), headers)
        status = connection.getresponse().status
        connection.close()
        return status

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(one, range(100))) == {201}
    assert len(bridge.jobs.jobs) == 100
