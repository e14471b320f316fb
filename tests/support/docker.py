"""Images and a Docker engine that tests can take away and bring back."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tarfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from bridge import process
from tests.support.needs import IMAGE
from tests.support.service import RunningService


def docker(*arguments: str, data: bytes | None = None) -> str:
    """Ask the engine; its answer."""
    names = ("DOCKER_HOST", "XDG_RUNTIME_DIR")
    env = process.clean_environment({n: os.environ[n] for n in names if n in os.environ})
    done = process.run(["docker", *arguments], timeout=60, env=env, input=data)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextlib.contextmanager
def own_image() -> Iterator[str]:
    """``name:version`` of an image as stage-in would have loaded it."""
    image = f"test-{uuid.uuid4().hex}:1"
    docker("tag", IMAGE, f"bridge.invalid/{image}")
    try:
        yield image
    finally:
        docker("rmi", f"bridge.invalid/{image}")


@contextlib.contextmanager
def published(service: RunningService) -> Iterator[str]:
    """An image that the engine has only because a member of the group published it."""
    name = f"test-{uuid.uuid4().hex}:1"
    docker("tag", IMAGE, name)
    try:
        done = service.command("codes", "publish", name)
        assert done.returncode == 0, done.stderr
    finally:
        docker("rmi", name)
    try:
        yield name
    finally:
        docker("rmi", f"bridge.invalid/{name}")


@contextlib.contextmanager
def empty_image() -> Iterator[str]:
    """``name:version`` of an image with nothing in it."""
    image = f"test-{uuid.uuid4().hex}:1"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("nothing"))
    docker("import", "-", f"bridge.invalid/{image}", data=archive.getvalue())
    try:
        yield image
    finally:
        docker("rmi", f"bridge.invalid/{image}")


class EngineDoor:
    """A socket that leads to the engine while it is open."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "engine.sock"
        self._engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def host(self) -> str:
        """The DOCKER_HOST that goes through this door."""
        return f"unix://{self._path}"

    def open(self) -> None:
        """Let calls through."""
        if self._listener is not None:
            return
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse calls and cut those under way, as an engine that ends does."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            self._path.unlink(missing_ok=True)
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._engine.removeprefix("unix://"))
            with self._lock:
                if self._listener is not listener:  # closed meanwhile
                    near.close()
                    far.close()
                    return
                self._connections += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
