"""The HTTP service: every front door in one Flask application, served by waitress."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from typing import Any, Final

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask

from bridge import turns
from bridge.api import errors, health, request_log, services
from bridge.api.leruli import routes as leruli
from bridge.api.leruli.translate import shape as leruli_shape
from bridge.api.limits import Limits, RateLimit
from bridge.api.v1 import nodes as v1_nodes
from bridge.api.v1 import routes as v1
from bridge.config import host_port
from bridge.errors import ConfigError

# Generous for a script with an old secret, useless for guessing.
_FAILURES_PER_MINUTE: Final = 300
_ENROLMENTS_PER_MINUTE: Final = 30
_SHAPES: Final = {f"{prefix}/": leruli_shape for prefix in leruli.PREFIXES}

_HEADER_BYTES: Final = 32_768
_RECEIVED_AT_ONCE_BYTES: Final = 65_536
_CONNECTIONS: Final = 1000
# How long, and for how many bytes, a refused body is read and thrown away.
_DISCARD_S: Final = 10.0
_DISCARD_BYTES: Final = 64_000_000
# How long a stopping server waits for answers under way, then for its idle threads.
_DRAIN_S: Final = 10.0
_THREADS_S: Final = 1.0
_WAITRESS_KINDS: Final = {431: "headers_too_large", 500: "internal", 501: "not_implemented"}


def create_app(
    bridge: services.Bridge, limits: Limits, enrolments_per_minute: int = _ENROLMENTS_PER_MINUTE
) -> Flask:
    """The WSGI application of ``/v1``, the dialects and the health checks."""
    app = Flask("bridge", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.body_bytes
    # A redirect would be one more answer that is not JSON.
    app.url_map.merge_slashes = False
    services.install(
        app,
        services.Services(
            bridge=bridge,
            limits=limits,
            requests=RateLimit(limits.requests_per_minute),
            failures=RateLimit(_FAILURES_PER_MINUTE),
            machines=RateLimit(enrolments_per_minute),
        ),
    )
    errors.install(app, _SHAPES)
    request_log.install(app)
    app.register_blueprint(health.blueprint(health.KeptFindings(bridge.ready)))
    app.register_blueprint(v1.blueprint)
    app.register_blueprint(v1_nodes.blueprint)
    for prefix in leruli.PREFIXES:
        app.register_blueprint(leruli.blueprint, url_prefix=prefix, name=prefix.strip("/"))
    return app


class HttpServer:
    """Waitress in a thread of its own, and with an end: what was received is answered."""

    def __init__(self, app: Flask, bind: str, threads: int) -> None:
        """Listen on ``bind`` (``HOST:PORT``, port 0 for a free one); answers come after ``start``.

        Raises ConfigError when the address cannot be had.
        """
        listener = _listen(bind)
        self.address: str = _address(listener)
        self._closing = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._sockets: dict[int, Any] = {}
        self._server = create_server(
            app,
            map=self._sockets,
            sockets=[listener],
            threads=threads,
            # Waitress refuses from this size on, Flask above its own.
            max_request_body_size=app.config["MAX_CONTENT_LENGTH"] + 1,
            max_request_header_size=_HEADER_BYTES,
            recv_bytes=_RECEIVED_AT_ONCE_BYTES,
            connection_limit=_CONNECTIONS,
            asyncore_use_poll=True,
            ident=None,
            clear_untrusted_proxy_headers=True,
        )
        self._server.channel_class = _Channel
        self._server.add_task = self._add_task
        self._heard: list[Any] = []
        # A warning for every request that waits for a thread would add to the load it reports.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)

    def start(self) -> None:
        """Answer requests from now on."""
        self._thread.start()

    def close(self) -> None:
        """Take no more connections, answer what was received, stop. May be repeated."""
        with self._closing:
            if self._stopping.is_set():
                return
            self._stopping.set()
            if self._thread.ident is not None:
                self._server.pull_trigger()
                self._thread.join()
            self._server.task_dispatcher.shutdown(timeout=_THREADS_S)
            wasyncore.close_all(self._sockets)

    def _run(self) -> None:
        with turns.taken(watch=True):
            self._serve()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._step(1.0)
        # Nobody new; who was heard gets an answer.
        self._server.del_channel()
        self._server.socket.close()
        deadline = time.monotonic() + _DRAIN_S
        while self._busy() and time.monotonic() < deadline:
            self._step(0.1)

    def _step(self, timeout: float) -> None:
        """One round of ``wasyncore.poll2``, in turn with the threads that answer.

        No turn may last too long, so who waits for one is not left alone with it.
        """
        poll = select.poll()
        for number, channel in self._sockets.copy().items():
            poll.register(number, _wanted(channel))
        if self._heard or turns.wanted():
            timeout = min(timeout, turns.LONGEST_S)
        with turns.given(watch=True):
            for channel in self._heard:
                self._server.task_dispatcher.add_task(channel)
            self._heard.clear()
            ready = poll.poll(timeout * 1000)
        for number, events in ready:
            if number in self._sockets:
                wasyncore.readwrite(self._sockets[number], events)

    def _add_task(self, channel: Any) -> None:
        """Wake a thread to answer, but not while it would only wait for our turn to end."""
        if threading.current_thread() is self._thread:
            self._heard.append(channel)
        else:
            self._server.task_dispatcher.add_task(channel)

    def _busy(self) -> bool:
        channels = self._server.active_channels.values()
        return any(channel.requests or channel.total_outbufs_len for channel in channels)


def _wanted(channel: Any) -> int:
    """The events that a socket is to be asked for."""
    wanted = select.POLLIN | select.POLLPRI if channel.readable() else 0
    if channel.writable() and not channel.accepting:
        wanted |= select.POLLOUT
    return wanted


def _listen(bind: str) -> socket.socket:
    try:
        host, port = host_port(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"server.bind: cannot listen on {bind}: {error}",
            "Give HOST:PORT of this machine that no other program uses.",
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _ErrorTask(ErrorTask):  # type: ignore[misc]  # waitress is not typed
    """What waitress itself refuses (size, malformed HTTP), told as everything else is."""

    def execute(self) -> None:
        error = self.request.error
        kind = _WAITRESS_KINDS.get(error.code, "bad_request")
        problem = errors.Problem(status=error.code, kind=kind, detail=f"{error.reason}.")
        if error.code == 413:
            limit = self.channel.adj.max_request_body_size - 1
            problem = errors.problem_of(errors.too_large(limit))
        status, body = errors.tell(problem, getattr(self.request, "path", ""), _SHAPES)
        self.status = f"{status} {error.reason}"
        self.response_headers += [("Content-Type", "application/json")]
        self.response_headers += list(request_log.SECURITY_HEADERS.items())
        self.channel.refused = True
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress is not typed
    """A connection whose refused request is heard out.

    Closing a socket with unread bytes resets the connection, and a client that
    still sends its body would never see why it was refused. So the answer is
    sent, our side shut, and what still comes is thrown away for a while.
    """

    error_task_class = _ErrorTask
    will_close: bool
    close_when_flushed: bool
    refused = False
    _discarded = 0
    _patience = 0.0

    def service(self) -> None:
        with turns.taken():
            super().service()

    def handle_write(self) -> None:
        if self.will_close or not (self.refused and self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if not self.total_outbufs_len:
            self.close_when_flushed = False
            self._patience = time.monotonic() + _DISCARD_S
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.will_close = True  # the other side has gone

    def received(self, data: bytes) -> bool:
        if not self.refused:
            return bool(super().received(data))
        self._discarded += len(data)
        if self._discarded > _DISCARD_BYTES or time.monotonic() > self._patience:
            self.will_close = True
        return False
