from __future__ import annotations

import io
import uuid

import pytest

from bridge.client import storage as storage_module
from bridge.client.proxies import proxy_for
from bridge.client.storage import Storage
from bridge.errors import Forbidden, NotFound, Unreachable
from tests.support.poll import free_port
from tests.support.s3 import S3


@pytest.fixture(name="bucket")
def _bucket(storage: Storage) -> str:
    name = str(uuid.uuid4())
    storage.make_bucket(name)
    return name


def test_round_trip_and_listing(storage: Storage, bucket: str) -> None:
    storage.put(bucket, "out/a ü.txt", io.BytesIO(b"hello"))
    assert storage.read(bucket, "out/a ü.txt") == b"hello"
    assert [(item.key, item.size) for item in storage.objects(bucket)] == [("out/a ü.txt", 5)]


def test_making_a_bucket_twice_is_fine(storage: Storage, bucket: str) -> None:
    storage.make_bucket(bucket)


def test_large_streams_go_up_in_parts(
    storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.RawIOBase):
        left = 40 << 20

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            count = min(self.left, size if size >= 0 else self.left)
            self.left -= count
            return b"x" * count

    sent: list[int] = []
    storage.put(bucket, "big", Stream(), progress=sent.append)  # type: ignore[arg-type]
    assert sum(sent) == 40 << 20
    found = storage.head(bucket, "big")
    assert found is not None
    assert found.size == 40 << 20


def test_stream_goes_on_from_an_offset_and_past_the_end(storage: Storage, bucket: str) -> None:
    storage.put(bucket, "k", io.BytesIO(b"0123456789"))
    assert b"".join(storage.stream(bucket, "k", 7)) == b"789"
    assert b"".join(storage.stream(bucket, "k", 10)) == b""
    assert b"".join(storage.stream(bucket, "k", 11)) == b""


def test_delete_bucket_is_thorough_and_repeatable(storage: Storage, bucket: str, s3: S3) -> None:
    for number in range(30):
        storage.put(bucket, f"d/{number}", io.BytesIO(b"x"))
    storage.delete_bucket(bucket)
    assert not (s3.folder / bucket).exists()
    storage.delete_bucket(bucket)


def test_missing_things(storage: Storage, bucket: str) -> None:
    assert storage.head(bucket, "nothing") is None
    assert storage.head(str(uuid.uuid4()), "nothing") is None
    with pytest.raises(NotFound):
        storage.read(bucket, "nothing")
    with pytest.raises(NotFound):
        list(storage.objects(str(uuid.uuid4())))


def test_errors_do_not_repeat_the_bucket(storage: Storage) -> None:
    bucket = str(uuid.uuid4())
    with pytest.raises(NotFound) as caught:
        storage.read(bucket, "k")
    assert bucket not in str(caught.value) + caught.value.hint


def test_wrong_key_names_the_variables(s3: S3) -> None:
    with pytest.raises(Forbidden) as caught:
        Storage(s3.endpoint, s3.access, "wrong").make_bucket(str(uuid.uuid4()))
    assert "BRIDGE_S3_SECRET" in caught.value.hint


def test_storage_away() -> None:
    storage = Storage(f"http://127.0.0.1:{free_port()}", "access", "secret")
    with pytest.raises(Unreachable, match="cannot be reached"):
        storage.head(str(uuid.uuid4()), "k")
    with pytest.raises(Unreachable):
        storage.put(str(uuid.uuid4()), "k", io.BytesIO(b"x"))


def test_settings_for_other_tools_do_not_count(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "somebody-elses")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    assert Storage(s3.endpoint, s3.access, s3.secret).head(bucket, "k") is None


def test_proxies_are_for_other_machines(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Storage(s3.endpoint, s3.access, s3.secret).head(bucket, "k") is None
    with pytest.raises(Unreachable):
        Storage("http://storage.example", "aaa", "b").head(bucket, "k")
    assert proxy_for("http://storage.example") == "http://127.0.0.1:9"
    monkeypatch.setenv("no_proxy", "storage.example")
    assert proxy_for("http://storage.example") is None


def test_parts_are_small_enough_for_large_images() -> None:
    assert storage_module._PART * 10_000 > 100 << 30
