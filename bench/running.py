"""A service of a benchmark's own."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.embedded import EmbeddedS3

HERE = Path(__file__).parent


class Service(NamedTuple):
    """A running service: where it listens, a user's secret, its database file (unless the
    settings name another), its process, and how many seconds it took to be ready.
    """

    address: str
    secret: str
    database: Path
    pid: int
    ready_s: float


@contextlib.contextmanager
def child(arguments: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python program that is ended afterwards."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], text=True, cwd=HERE.parent, **options
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def service(
    folder: Path, *, storage: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A new service in ``folder``, as ``init`` and ``serve`` make it, without a rate limit.

    The embedded storage is started only if ``storage`` says so, and ended too.
    ``settings`` are environment variables of ``serve``.
    """
    binds = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    command = ["-m", "bridge.cli.main"]
    init = ["init", folder, "--group", "lab", "--admin", "root", "--user", "ada"]
    places = ["--bind", binds[0], "--s3-bind", binds[1], "--runtime", "process"]
    subprocess.run(
        [sys.executable, *command, *map(str, init), *places],
        check=True,
        cwd=HERE.parent,
        stdout=subprocess.DEVNULL,
    )
    lines = (folder / "credentials.env").read_text().splitlines()
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    environment = os.environ | {
        "NOMAD_BRIDGE_LIMITS_REQUESTS_PER_MINUTE": "100000000",
        "NOMAD_BRIDGE_STORAGE_EMBEDDED": str(storage).lower(),
        **(settings or {}),
    }
    serve = [*command, "serve", "--config", folder / "config.yaml"]
    began = time.perf_counter()
    with (
        (folder / "serve.log").open("w") as log,
        child(serve, env=environment, stderr=log) as process,
    ):
        wait_for(binds[0])
        ready_s = time.perf_counter() - began
        secret, database = known["BRIDGE_API_SECRET"], folder / "bridge.db"
        try:
            yield Service(binds[0], secret, database, process.pid, ready_s)
        finally:
            if storage:
                EmbeddedS3(folder / "s3", binds[1]).stop()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str) -> None:
    """Until the service there says that it is ready."""
    deadline = time.monotonic() + 60
    while not is_ready(address):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing is ready at {address}")
        time.sleep(0.01)


def is_ready(address: str) -> bool:
    """Whether ``/readyz`` answers 200."""
    host, port = address.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
