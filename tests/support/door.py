"""A TCP port that leads to another one while it is open: a service that goes away and is back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.support.poll import free_port


class Door:
    """Start with ``door()``. Closed, it refuses connections and cuts those under way."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._to = to
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = free_port()
        self.open()

    def open(self) -> None:
        """Let connections through, at the same port as before."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Nobody is there any more."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near, listener), daemon=True).start()

    def _serve(self, near: socket.socket, listener: socket.socket) -> None:
        with near, contextlib.ExitStack() as opened:
            try:
                far = opened.enter_context(socket.create_connection(self._to, timeout=20))
            except OSError:
                return  # nobody is there
            far.settimeout(None)
            with self._lock:
                if self._listener is not listener:
                    return  # closed meanwhile
                self._connections += [near, far]
            back = threading.Thread(target=_pass_on, args=(far, near), daemon=True)
            back.start()
            _pass_on(near, far)
            back.join()
            with self._lock:
                self._connections = [one for one in self._connections if one not in (near, far)]


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def door(host: str, port: int) -> Iterator[Door]:
    """A door to a port, until the end."""
    made = Door((host, port))
    try:
        yield made
    finally:
        made.close()
