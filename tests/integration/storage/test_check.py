from __future__ import annotations

import http.server
import io
import re
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.client.minio_store import Store
from bridge.client.storage import Storage
from bridge.client.storage_check import Check, Result
from bridge.errors import Forbidden, Unavailable
from tests.support import nginx
from tests.support.poll import free_port
from tests.support.s3 import S3


def _wrong(check: Check) -> dict[str, Result]:
    return {result.what: result for result in check.run() if not result.ok}


def _of(s3: S3, **more: Any) -> Check:
    return Check(s3.endpoint, s3.access, s3.secret, **more)


def test_stores_list_their_buckets_and_it_says_so(store: S3) -> None:
    wrong = _wrong(_of(store))
    assert list(wrong) == ["no list of all buckets"]
    listed = wrong["no list of all buckets"]
    assert listed.open_list
    assert re.search(r"lists \d+ buckets .* read and delete the data of every job", listed.detail)
    assert "proxy" in listed.remedy


def test_nothing_is_left_behind(s3: S3) -> None:
    before = set(s3.folder.iterdir())
    list(_of(s3).run())
    assert set(s3.folder.iterdir()) == before


def test_behind_the_proxy_all_is_well(store: S3, front: nginx.Front) -> None:
    check = Check(front.url, store.access, store.secret, ca_file=front.ca_file)
    assert _wrong(check) == {}


def test_another_proxy_may_refuse_in_html() -> None:
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>no</html>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Forbidden, match="proxy"):
            Store(f"http://127.0.0.1:{server.server_port}", "access", "secret").buckets()
        server.shutdown()


def test_the_bucket_of_the_images(s3: S3) -> None:
    bucket = f"code-{uuid.uuid4().hex}"
    absent = _wrong(_of(s3, code_bucket=bucket))["the bucket of the images"]
    assert "storage setup" in absent.remedy
    Storage(s3.endpoint, s3.access, s3.secret).make_bucket(bucket)
    assert "the bucket of the images" not in _wrong(_of(s3, code_bucket=bucket))
    assert list((s3.folder / bucket).iterdir()) == []


def test_a_wrong_key(s3: S3) -> None:
    wrong = _wrong(Check(s3.endpoint, s3.access, "wrong"))
    assert list(wrong) == ["make a bucket"]
    assert "BRIDGE_S3_SECRET" in wrong["make a bucket"].remedy


def test_no_server() -> None:
    wrong = _wrong(Check(f"http://127.0.0.1:{free_port()}", "access", "secret"))
    assert list(wrong) == ["reach the server", "make a bucket"]


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("put", {"put and get a file", "a file of 0 bytes", "list the files of a bucket"}),
        ("read", {"put and get a file", "overwrite it", "a file in parts (17 MiB)"}),
        ("objects", {"list the files of a bucket"}),
        ("delete", {"delete a file", "delete the bucket"}),
    ],
)
def test_each_operation_is_really_looked_at(
    s3: S3, monkeypatch: pytest.MonkeyPatch, method: str, wrong: set[str]
) -> None:
    # A store that takes the call and does nothing.
    monkeypatch.setattr(Storage, method, lambda *_, **__: b"" if method == "read" else iter(()))
    assert wrong <= _wrong(_of(s3)).keys()


def test_a_store_that_anybody_can_read(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "plain_get", lambda *_: (200, b""))
    assert {"no file without a key", "fetch by a signed URL"} <= _wrong(_of(s3)).keys()


def test_another_time(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "clock", lambda _: "Sat, 01 Jan 2000 00:00:00 GMT")
    assert "NTP" in _wrong(_of(s3))["clocks agree"].remedy


def test_lists_that_fail_otherwise_are_no_proof(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Store) -> Iterator[str]:
        raise Unavailable("answered 503")

    monkeypatch.setattr(Store, "buckets", away)
    result = _wrong(_of(s3))["no list of all buckets"]
    assert not result.open_list


def test_the_large_file_goes_in_parts(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    put = Storage.put

    def watched(self: Storage, bucket: str, key: str, file: io.BytesIO) -> None:
        sizes.append(len(file.getbuffer()))
        put(self, bucket, key, file)

    monkeypatch.setattr(Storage, "put", watched)
    list(_of(s3).run())
    assert max(sizes) > 16 << 20
