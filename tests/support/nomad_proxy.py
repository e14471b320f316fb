"""A door before a real Nomad server that a test can close, or answer through itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import requests
import urllib3

from tests.support.fake_events import Refuse
from tests.support.nomad_cluster import NomadCluster
from tests.support.stand_in import listening

_STREAM = "/v1/event/stream"


class NomadProxy:
    """Passes everything on, unless ``away``, ``streamless`` or ``refusal`` are set."""

    def __init__(self, nomad: NomadCluster) -> None:
        self.url = ""
        self.away = False  # connections are closed without an answer
        self.streamless = False  # those that ask for events are
        self.refusal: Refuse | None = None  # the answer to every request that it is for
        self.refused: Callable[[str, str], bool] = lambda method, path: True
        self.streams: set[urllib3.BaseHTTPResponse] = set()
        self._connection = nomad.connection()

    def cut(self) -> None:
        """End the event streams that are open."""
        for stream in list(self.streams):
            stream.shutdown()

    def ask(self, method: str, path: str, token: str, body: bytes, *, stream: bool) -> Any:
        """The server's own answer."""
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                method,
                self._connection.address + path,
                data=body,
                headers={"X-Nomad-Token": token, "Accept-Encoding": "identity"},
                verify=str(self._connection.ca_file),
                cert=(str(self._connection.client_cert), str(self._connection.client_key)),
                stream=stream,
                timeout=30,
            )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: NomadProxy

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        with contextlib.suppress(OSError, requests.RequestException):
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        proxy = self.proxy
        is_stream = self.path.startswith(_STREAM)
        if proxy.away or (is_stream and proxy.streamless):
            self.close_connection = True
            return
        if proxy.refusal is not None and proxy.refused(self.command, self.path):
            refusal = proxy.refusal
            self._send(refusal.status, refusal.text.encode(), refusal.headers)
            return
        token = self.headers.get("X-Nomad-Token", "")
        answer = proxy.ask(self.command, self.path, token, body, stream=is_stream)
        if is_stream:
            self._pass_on(answer)
            return
        kept = {k: v for k, v in answer.headers.items() if k.startswith("X-Nomad-")}
        self._send(answer.status_code, answer.content, kept)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _pass_on(self, answer: requests.Response) -> None:
        self.close_connection = True
        self.send_response(answer.status_code)
        self.send_header("Connection", "close")
        self.end_headers()
        with answer:
            self.proxy.streams.add(answer.raw)
            try:
                while data := answer.raw.read1(65536):
                    self.wfile.write(data)
            except (urllib3.exceptions.HTTPError, ValueError, AttributeError):
                return
            finally:
                self.proxy.streams.discard(answer.raw)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815 - named by http.server

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def before(nomad: NomadCluster) -> Iterator[NomadProxy]:
    """A door that listens on 127.0.0.1, without TLS, until the end."""
    proxy = NomadProxy(nomad)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    with listening(handler) as proxy.url:
        try:
            yield proxy
        finally:
            proxy.cut()
