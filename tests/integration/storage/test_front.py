"""Real clients through the shipped nginx configuration, in front of real S3 servers."""

from __future__ import annotations

import http.server
import io
import os
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException

from bridge import process
from bridge.client.minio_store import Store
from bridge.client.proxies import pool
from bridge.client.storage import Storage
from bridge.client.storage_check import Check
from bridge.errors import Forbidden
from tests.support import minio, nginx
from tests.support.s3 import S3

pytestmark = pytest.mark.needs("nginx")


def test_everything_that_jobs_do_passes(front: nginx.Front, store: S3) -> None:
    results = list(Check(front.url, store.access, store.secret, ca_file=front.ca_file).run())
    assert [one for one in results if not one.ok] == []
    assert len(results) > 10


def test_boto3(front: nginx.Front, store: S3) -> None:
    storage = Storage(front.url, store.access, store.secret, ca_file=front.ca_file)
    bucket, data = str(uuid.uuid4()), os.urandom(33 << 20)
    storage.make_bucket(bucket)
    storage.put(bucket, "large", io.BytesIO(data))
    storage.put(bucket, "out/a b+c%20ü", io.BytesIO(b"x"))
    assert storage.read(bucket, "large") == data
    assert {item.key for item in storage.objects(bucket)} == {"large", "out/a b+c%20ü"}
    with pytest.raises(Forbidden), storage._errors():
        storage._s3.list_buckets()
    storage.delete_bucket(bucket)


def test_minio_package(front: nginx.Front, store: S3) -> None:
    client = Store(front.url, store.access, store.secret, ca_file=front.ca_file)
    bucket = str(uuid.uuid4())
    client.make_bucket(bucket)
    client._s3.put_object(bucket, "large", io.BytesIO(bytes(11 << 20)), 11 << 20, part_size=5 << 20)
    status, body = client.plain_get(client.signed_url(bucket, "large", timedelta(minutes=1)))
    assert (status, len(body)) == (200, 11 << 20)
    with pytest.raises(Forbidden, match="AccessDenied"):
        client.buckets()


def test_rclone(front: nginx.Front, store: S3, rclone: str, tmp_path: Path) -> None:
    bucket = str(uuid.uuid4())
    Store(store.endpoint, store.access, store.secret).make_bucket(bucket)
    tree = tmp_path / "tree"
    (tree / "sub ü").mkdir(parents=True)
    (tree / "sub ü" / "a +%&").write_text("text")
    (tree / "empty").touch()
    (tree / "large").write_bytes(os.urandom(7 << 20))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CA_CERT": front.ca_file,
            "RCLONE_RETRIES": "1",
            "RCLONE_CONFIG_S3_TYPE": "s3",
            "RCLONE_CONFIG_S3_PROVIDER": "Other",
            "RCLONE_CONFIG_S3_ENDPOINT": front.url,
            "RCLONE_CONFIG_S3_ACCESS_KEY_ID": store.access,
            "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": store.secret,
            "RCLONE_CONFIG_S3_NO_CHECK_BUCKET": "true",
            "RCLONE_S3_UPLOAD_CUTOFF": "5Mi",
        }
        return subprocess.run(
            [rclone, *arguments],
            env=process.clean_environment(env),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    copied = run("copy", str(tree), f"s3:{bucket}")
    assert copied.returncode == 0, copied.stderr
    checked = run("check", "--download", str(tree), f"s3:{bucket}")
    assert checked.returncode == 0, checked.stderr
    listed = run("lsd", "s3:")
    assert listed.returncode != 0
    assert bucket not in listed.stdout + listed.stderr


@pytest.mark.needs("minio")
def test_the_other_list_of_minio_is_behind_it(
    minio: minio.Minio, group_key: tuple[str, str], tmp_path: Path
) -> None:
    # Every key may ask for its account: with the buckets it can use.
    def account(url: str, ca_file: str) -> str:
        admin = MinioAdmin(
            endpoint=urlsplit(url).netloc,
            credentials=StaticProvider(*group_key),
            secure=url.startswith("https"),
            http_client=pool(url, ca_file),
        )
        return str(admin.account_info())

    bucket = str(uuid.uuid4())
    Store(minio.endpoint, *group_key).make_bucket(bucket)
    assert bucket in account(minio.endpoint, "")
    with nginx.front(minio.endpoint, tmp_path) as front:
        with pytest.raises(MinioAdminException, match="403"):
            account(front.url, front.ca_file)
        assert bucket not in front.access_log.read_text()


BUCKET = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
PASSED = [
    f"/{BUCKET}",
    f"/{BUCKET}/",
    f"/{BUCKET}?list-type=2&prefix=",
    f"/{BUCKET}/a//b/%2e/c%2Fd%20+",
    f"/{BUCKET}/minio/admin",
    f"/{BUCKET}/x/../y",
    "/code-abc/psi4-1.5.tgz",
]
REFUSED = [
    "/",
    "//",
    "/./",
    "/?x-id=ListBuckets",
    "/?",
    "/%2F",
    "/%2e/",
    f"/{BUCKET}/..",
    f"/{BUCKET}/../",
    f"/{BUCKET}/%2e%2e/",
    f"/{BUCKET}/..%2f",
    f"/{BUCKET}/%2e%2e/minio/admin/v3/accountinfo",
    f"/{BUCKET}x/file",
    f"/x/{BUCKET}/file",
    "/minio/admin/v3/accountinfo",
    "//minio/admin/v3/accountinfo",
    "/minio%2Fadmin/v3/accountinfo",
    "/minio/health/live",
    "/swift/v1",
    "/admin/bucket",
    "/other-bucket/file",
    "http://s3.example/",
    "https://s3.example//",
]


@pytest.fixture(name="raw", scope="module")
def _raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[nginx.Front, list[str]]]:
    """The front of a server that takes everything, and the paths that reached it."""
    reached: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(f"{self.headers['Host']} {self.path}")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        upstream = f"http://127.0.0.1:{server.server_port}"
        with nginx.front(upstream, tmp_path_factory.mktemp("front")) as front:
            yield front, reached
        server.shutdown()


@pytest.mark.parametrize("path", PASSED)
def test_what_passes_passes_as_it_came(raw: tuple[nginx.Front, list[str]], path: str) -> None:
    front, reached = raw
    assert _status(front, path) == 200
    assert reached[-1] == f"s3.example:1234 {path}"


@pytest.mark.parametrize("path", REFUSED)
def test_all_else_is_refused(raw: tuple[nginx.Front, list[str]], path: str) -> None:
    front, reached = raw
    before = len(reached)
    assert _status(front, path) in {400, 403}
    assert len(reached) == before


def _status(front: nginx.Front, path: str) -> int:
    # No client library: they tidy paths up.
    context = ssl.create_default_context(cafile=front.ca_file)
    address = urlsplit(front.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: s3.example:1234\r\nConnection: close\r\n\r\n".encode()
        )
        return int(connection.makefile("rb").readline().split()[1])
