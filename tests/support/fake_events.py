"""A stand-in for Nomad's event stream that does, connection by connection, what a test says."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.support.stand_in import listening

BEAT: Final = b"{}\n"


class Refuse(NamedTuple):
    """Answer a connection with this status."""

    status: int
    text: str = ""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Send(NamedTuple):
    """Answer 200, send this, and then keep the connection open or close it."""

    data: bytes = b""
    close: bool = False


class FakeEvents:
    """``scripts``: one per connection, in order; then the stream is open and silent."""

    def __init__(self) -> None:
        self.url = ""
        self.scripts: queue.SimpleQueue[Send | Refuse] = queue.SimpleQueue()
        self.asked: list[dict[str, str]] = []
        self.probe = Refuse(404, "job not found")  # the answer to every other request
        self.ended = threading.Event()

    @property
    def indexes(self) -> list[int]:
        """From where each connection wanted to begin."""
        return [int(one["index"]) for one in self.asked]

    def say(self, *scripts: Send | Refuse) -> None:
        """What happens with the next connections."""
        for script in scripts:
            self.scripts.put(script)


def line(index: int, *jobs: str) -> bytes:
    """A transaction in which allocations of these jobs changed."""
    events = [{"Topic": "Allocation", "FilterKeys": [job, ""], "Payload": {}} for job in jobs]
    return json.dumps({"Index": index, "Events": events}).encode() + b"\n"


@contextlib.contextmanager
def serving() -> Iterator[FakeEvents]:
    """A stand-in that listens on 127.0.0.1 until the end."""
    fake = FakeEvents()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # named by http.server
            url = urlsplit(self.path)
            with contextlib.suppress(ConnectionError):
                if url.path != "/v1/event/stream":
                    self._refuse(fake.probe)
                    return
                query = parse_qs(url.query)
                fake.asked.append({name: values[0] for name, values in query.items()})
                self._stream(_next(fake))

        def _refuse(self, answer: Refuse) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.text.encode())

        def _stream(self, script: Send | Refuse) -> None:
            if isinstance(script, Refuse):
                self._refuse(script)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(script.data)
            if not script.close:
                fake.ended.wait(timeout=60)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at ``asked`` instead."""

    with listening(Handler) as fake.url:
        try:
            yield fake
        finally:
            fake.ended.set()


def _next(fake: FakeEvents) -> Send | Refuse:
    try:
        return fake.scripts.get_nowait()
    except queue.Empty:
        return Send()
