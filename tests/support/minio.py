"""A MinIO server of the tests' own, by the start script that operators use."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import urllib3

from bridge import process, resources
from bridge.client.credentials import read_file
from tests.support.poll import eventually, free_port


class Minio(NamedTuple):
    """Where the server is, and the key of its administrator."""

    endpoint: str
    access: str
    secret: str


@contextlib.contextmanager
def server(home: Path) -> Iterator[Minio]:
    """Run a server below ``home`` until the end."""
    address = f"127.0.0.1:{free_port()}"
    with open(home / "minio.log", "wb") as log:
        child = subprocess.Popen(
            [resources.path("node-setup/minio/start-minio")],
            env=process.clean_environment({"MINIO_HOME": str(home), "MINIO_ADDRESS": address}),
            stdout=log,
            stderr=log,
        )
    try:
        eventually(lambda: _answers(child, address, home / "minio.log"), timeout=60)
        key = read_file(home / "etc" / "minio.conf")
        yield Minio(f"http://{address}", key["MINIO_ROOT_USER"], key["MINIO_ROOT_PASSWORD"])
    finally:
        child.terminate()
        child.wait(timeout=20)


def _answers(child: subprocess.Popen[bytes], address: str, log: Path) -> bool:
    assert child.poll() is None, log.read_text()
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        url = f"http://{address}/minio/health/live"
        answer = urllib3.request("GET", url, retries=False, timeout=5)
        # Alive, it may not take part yet: this header says so.
        return answer.status == 200 and "x-minio-server-status" not in answer.headers
    return False
