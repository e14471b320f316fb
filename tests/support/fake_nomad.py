"""A stand-in for Nomad's HTTP API, for answers that a real agent does not give on demand."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.stand_in import listening


class Request(NamedTuple):
    """What was asked; ``raw_path`` as it stood on the wire."""

    method: str
    path: str
    raw_path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Answer(NamedTuple):
    """Status, body (bytes and text as they are, anything else as JSON), headers."""

    status: int = 200
    body: object = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


Route = Callable[[Request], Answer]


class FakeNomad:
    """Answers by ``routes`` (method and path), else as Nomad does to an unknown path."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.routes: dict[tuple[str, str], Answer | Route] = {}

    def respond(self, request: Request) -> Answer:
        """The answer to a request, which is kept in ``requests``."""
        self.requests.append(request)
        route = self.routes.get((request.method, request.path), Answer(404, "Invalid URL path"))
        return route if isinstance(route, Answer) else route(request)


@contextlib.contextmanager
def serving(stand_in: FakeNomad | None = None) -> Iterator[FakeNomad]:
    """A stand-in that listens on 127.0.0.1 until the end."""
    fake = stand_in or FakeNomad()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            url = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            answer = fake.respond(
                Request(
                    self.command,
                    unquote(url.path),
                    url.path,
                    {name: values[0] for name, values in parse_qs(url.query).items()},
                    dict(self.headers),
                    json.loads(self.rfile.read(length)) if length else None,
                )
            )
            body = answer.body
            data = body.encode() if isinstance(body, str) else body
            if not isinstance(data, bytes):
                data = json.dumps(data).encode()
            # The other side may have given up.
            with contextlib.suppress(ConnectionError):
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = handle_one  # noqa: N815 - named by http.server

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at ``requests`` instead."""

    with listening(Handler) as fake.url:
        yield fake
