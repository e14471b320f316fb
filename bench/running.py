"""A service of a benchmark's own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.embedded import EmbeddedS3

HERE = Path(__file__).parent


class Service(NamedTuple):
    """A running service: where it listens, a user's secret, its database file."""

    address: str
    secret: str
    database: Path


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
def service(folder: Path, *, storage: bool = False) -> Iterator[Service]:
    """A new service in ``folder``, as ``init`` and ``serve`` make it, without a rate limit.

    The embedded storage is started only if ``storage`` says so, and ended too.
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
    }
    serve = [*command, "serve", "--config", folder / "config.yaml"]
    with (folder / "serve.log").open("w") as log, child(serve, env=environment, stderr=log):
        wait_for(binds[0])
        try:
            yield Service(binds[0], known["BRIDGE_API_SECRET"], folder / "bridge.db")
        finally:
            if storage:
                EmbeddedS3(folder / "s3", binds[1]).stop()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str) -> None:
    """Until something listens."""
    host, port = address.split(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, int(port))).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
