"""An S3 server of the tests' own: ``rclone serve s3`` on a folder."""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bridge import process
from tests.support.poll import eventually


class S3(NamedTuple):
    """Where the server is, its keys, and the folder with one sub-folder per bucket."""

    endpoint: str
    access: str
    secret: str
    folder: Path


@contextlib.contextmanager
def server(rclone: str, home: Path) -> Iterator[S3]:
    """Run a server with random keys below ``home`` until the end."""
    access, secret = secrets.token_hex(10), secrets.token_hex(20)
    folder, log_file = home / "buckets", home / "s3.log"
    folder.mkdir()
    with open(log_file, "wb") as log:
        child = subprocess.Popen(
            [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--config", "/dev/null", folder],
            # The value is read as CSV: quoted, it is one pair and not two.
            env=process.clean_environment({"RCLONE_AUTH_KEY": f'"{access},{secret}"'}),
            stdout=log,
            stderr=log,
        )
    try:
        endpoint = eventually(lambda: _endpoint(child, log_file), timeout=20) or ""
        yield S3(endpoint, access, secret, folder)
    finally:
        child.terminate()
        child.wait(timeout=20)


def _endpoint(child: subprocess.Popen[bytes], log_file: Path) -> str | None:
    text = log_file.read_text()
    assert child.poll() is None, text
    found = re.search(r"http://127\.0\.0\.1:\d+", text)
    return found.group() if found else None
