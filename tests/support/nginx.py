"""The front of ``node-setup/minio``: a real nginx with the shipped configuration."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from bridge import process, resources
from tests.support.certificates import Authority
from tests.support.poll import eventually, free_port


class Front(NamedTuple):
    """Its URL, and the certificate authority it is to be trusted by."""

    url: str
    ca_file: str
    access_log: Path


@contextlib.contextmanager
def front(upstream: str, home: Path) -> Iterator[Front]:
    """Run nginx with TLS in front of an S3 server, below ``home``, until the end."""
    authority = Authority(home, "front")
    port = free_port()
    conf = _configuration(urlsplit(upstream).netloc, port, home, authority)
    command = ["nginx", "-p", str(home), "-e", str(home / "error.log"), "-c", str(conf)]
    subprocess.run([*command, "-t"], check=True, capture_output=True, timeout=20)
    with open(home / "nginx.log", "wb") as log:
        child = subprocess.Popen(command, env=process.clean_environment({}), stdout=log, stderr=log)
    try:
        # Written when it listens; the test of the configuration leaves an empty one.
        eventually(lambda: (home / "nginx.pid").read_text() or child.poll() is not None)
        assert child.poll() is None, (home / "nginx.log").read_text()
        yield Front(f"https://127.0.0.1:{port}", str(authority.ca_file), home / "s3.log")
    finally:
        child.terminate()
        child.wait(timeout=20)


def _configuration(upstream: str, port: int, home: Path, authority: Authority) -> Path:
    pair = authority.issue("s3.example")
    shipped = resources.path("node-setup/minio/s3-front.conf").read_text()
    rules = resources.path("node-setup/minio/s3-rules.conf")
    # What README.md tells an operator to change.
    for line, ours in (
        (r"server 127\.0\.0\.1:9000;", f"server {upstream};"),
        (r"listen 9443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"listen \[::\]:9443 ssl;", ""),
        (r"/etc/nginx/s3\.pem", str(pair.cert)),
        (r"/etc/nginx/s3\.key", str(pair.key)),
        (r"/var/log/nginx/s3\.log", str(home / "s3.log")),
        (r"/var/log/nginx/s3-error\.log", str(home / "s3-error.log")),
        (r"include /etc/nginx/s3-rules\.conf;", f"include {rules};"),
    ):
        shipped, count = re.subn(line, ours, shipped)
        assert count == 1, line
    temporary = "".join(
        f"{name}_temp_path {home / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    conf = home / "nginx.conf"
    conf.write_text(
        f"{user}daemon off;\npid {home / 'nginx.pid'};\nerror_log {home / 'error.log'};\n"
        f"events {{}}\nhttp {{\n{temporary}{shipped}}}\n"
    )
    return conf
