"""A registry of container images with one image, ``tool:1``, behind a password.

As a program (``python -P``): ``registry.py ARCHIVE`` serves what ``docker save`` wrote,
prints its address, and writes a line for each request to standard error.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER, PASSWORD = "node", "right"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry(http.server.ThreadingHTTPServer):
    """Serves one image on a free port of this machine."""

    daemon_threads = True

    def __init__(self, archive: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        with tarfile.open(archive) as saved:
            manifest = json.loads(_member(saved, "manifest.json"))[0]
            layers = [gzip.compress(_member(saved, name), 1) for name in manifest["Layers"]]
            config = _member(saved, manifest["Config"])
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(config, _CONFIG),
            "layers": [self._blob(layer, _LAYER) for layer in layers],
        }
        self.manifest = json.dumps(document).encode()

    @property
    def digest(self) -> str:
        """Of the image's manifest."""
        return _digest(self.manifest)

    @property
    def host(self) -> str:
        """As it stands in a reference."""
        return f"127.0.0.1:{self.server_port}"

    def _blob(self, data: bytes, kind: str) -> dict[str, Any]:
        digest = _digest(data)
        self.blobs[digest] = data
        return {"mediaType": kind, "size": len(data), "digest": digest}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        manifest = self.server.manifest
        names = {"tool", "library/tool"}
        path = self.path.removeprefix("/v2/")
        name, _, rest = path.partition("/manifests/")
        if given != wanted:
            self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', "application/json")
        elif path == "":
            self._answer(200, b"{}", "application/json")
        elif name in names and rest in {"1", self.server.digest}:
            self._answer(200, manifest, _MANIFEST, self.server.digest)
        elif (digest := path.partition("/blobs/")[2]) in self.server.blobs:
            self._answer(200, self.server.blobs[digest], "application/octet-stream", digest)
        else:
            missing = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            self._answer(404, missing, "application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, kind: str, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        self.server.requests.append(format % args)
        print(format % args, file=sys.stderr, flush=True)


@contextmanager
def registry(archive: Path) -> Iterator[Registry]:
    """Serve until the end."""
    with Registry(archive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    assert found is not None, name
    return found.read()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


if __name__ == "__main__":
    with Registry(Path(sys.argv[1])) as running:
        print(running.host, flush=True)
        running.serve_forever()
