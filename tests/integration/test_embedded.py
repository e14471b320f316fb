"""The embedded S3 server, as real S3 clients and a dying bridge meet it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from bridge import process
from bridge.embedded import EmbeddedS3
from bridge.errors import ConfigError
from tests.support.local import alive, command_lines
from tests.support.poll import eventually, free_port

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


@pytest.fixture
def bind() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def storage(tmp_path: Path, bind: str) -> Iterator[EmbeddedS3]:
    made = EmbeddedS3(tmp_path / "s3", bind)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    made = EmbeddedS3(tmp_path_factory.mktemp("s3"), f"127.0.0.1:{free_port()}")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def s3(running: EmbeddedS3) -> Iterator[Any]:
    made = client(running)
    yield made
    made.close()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = "b-" + re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    s3.create_bucket(Bucket=name)
    return name


def client(storage: EmbeddedS3, *, secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=storage.server,
        aws_access_key_id=storage.keys.access,
        aws_secret_access_key=secret or storage.keys.secret,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


def keys_in(s3: Any, bucket: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def pid_of(storage: EmbeddedS3) -> int:
    return int(json.loads((storage._home / "server.pid").read_text())["pid"])


# What clients do


@pytest.mark.parametrize(
    "key", ["plain", "a/b/c.txt", "ü/é 1.txt", "日本/値", "sp ace+plus&amp;%41", "x" * 200]
)
def test_names_and_contents_come_back(s3: Any, running: EmbeddedS3, key: str) -> None:
    bucket = f"names-{abs(hash(key)) % 10**9}"
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=b"content")
    assert keys_in(s3, bucket) == [key]
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"content"


def test_an_empty_object(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    answer = s3.head_object(Bucket=bucket, Key="empty")
    assert answer["ContentLength"] == 0
    assert s3.get_object(Bucket=bucket, Key="empty")["Body"].read() == b""


def test_multipart(s3: Any, bucket: str) -> None:
    data = os.urandom(20 * MIB + 17)
    s3.upload_fileobj(io.BytesIO(data), bucket, "large")
    assert s3.get_object(Bucket=bucket, Key="large")["Body"].read() == data
    part = s3.get_object(Bucket=bucket, Key="large", Range=f"bytes={9 * MIB}-{9 * MIB + 9}")
    assert part["Body"].read() == data[9 * MIB : 9 * MIB + 10]


def test_an_unfinished_multipart_upload_shows_nothing(s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="half")["UploadId"]
    part = b"x" * (5 * MIB)
    s3.upload_part(Bucket=bucket, Key="half", UploadId=upload, PartNumber=1, Body=part)
    assert keys_in(s3, bucket) == []
    s3.abort_multipart_upload(Bucket=bucket, Key="half", UploadId=upload)
    s3.delete_bucket(Bucket=bucket)


def test_overwriting(s3: Any, bucket: str) -> None:
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"long before")
    second = s3.put_object(Bucket=bucket, Key="k", Body=b"after")
    assert first["ETag"] != second["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"after"
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == second["ETag"]


def test_a_bucket_goes_with_its_last_object_gone(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a/b/c", Body=b"1")
    with pytest.raises(ClientError, match="BucketNotEmpty"):
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="a/b/c")
    s3.delete_object(Bucket=bucket, Key="a/b/c")
    s3.delete_bucket(Bucket=bucket)
    for ask in (s3.list_objects_v2, s3.delete_bucket):
        with pytest.raises(ClientError, match="NoSuchBucket"):
            ask(Bucket=bucket)


def test_nothing_makes_a_bucket_by_accident(s3: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.put_object(Bucket="never-made", Key="k", Body=b"")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        s3.get_object(Bucket="never-made", Key="k")


@pytest.mark.parametrize("key", ["../escape", "a/../../escape", "a//b", "./a"])
def test_keys_cannot_leave_their_bucket(
    s3: Any, bucket: str, running: EmbeddedS3, key: str
) -> None:
    with pytest.raises(ClientError):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    assert not list(running._home.rglob("escape"))


def test_another_key_is_refused(running: EmbeddedS3) -> None:
    stranger = client(running, secret="x" * 40)
    with pytest.raises(ClientError) as refused:
        stranger.list_buckets()
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    stranger.close()


def test_listings_longer_than_a_page(s3: Any, bucket: str) -> None:
    for number in range(1005):
        s3.put_object(Bucket=bucket, Key=f"{number % 7}/{number:04}", Body=b"")
    assert len(keys_in(s3, bucket)) == 1005


# Keys


def test_keys_are_made_once_and_private(tmp_path: Path, bind: str) -> None:
    first = EmbeddedS3(tmp_path / "s3", bind).keys
    assert re.fullmatch(r"[A-Za-z0-9]{20}", first.access)
    assert re.fullmatch(r"[A-Za-z0-9]{40}", first.secret)
    assert EmbeddedS3(tmp_path / "s3", bind).keys == first
    assert EmbeddedS3(tmp_path / "other", bind).keys != first
    assert stat.S_IMODE((tmp_path / "s3" / "keys").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "s3").stat().st_mode) == 0o700


def test_damaged_keys_are_named(tmp_path: Path, bind: str) -> None:
    (tmp_path / "keys").write_text("half\n")
    with pytest.raises(ConfigError, match="keys does not hold two keys"):
        EmbeddedS3(tmp_path, bind).start()


def test_keys_are_in_no_command_line_and_no_log(running: EmbeddedS3) -> None:
    seen = command_lines() + (running._home / "server.log").read_text()
    assert running.keys.secret not in seen
    assert running.keys.access not in seen


# Life and death


def test_it_is_adopted_not_started_twice(storage: EmbeddedS3, tmp_path: Path, bind: str) -> None:
    storage.start()
    pid = pid_of(storage)
    storage.start()
    EmbeddedS3(tmp_path / "s3", bind).start()
    storage.ensure()
    assert pid_of(storage) == pid


def test_it_outlives_the_process_that_started_it(
    storage: EmbeddedS3, tmp_path: Path, bind: str
) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from bridge.embedded import EmbeddedS3\n"
        "EmbeddedS3(Path(sys.argv[2]), sys.argv[3]).start()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "s3"), bind]
    assert process.run(argv, timeout=30).returncode == -signal.SIGKILL
    pid = pid_of(storage)
    assert alive(pid)
    storage.start()
    assert pid_of(storage) == pid


def test_it_is_started_again_when_it_died(storage: EmbeddedS3) -> None:
    storage.start()
    s3 = client(storage)
    s3.create_bucket(Bucket="kept")
    s3.put_object(Bucket="kept", Key="k", Body=b"still here")
    pid = pid_of(storage)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))
    storage.ensure()
    assert pid_of(storage) != pid
    assert s3.get_object(Bucket="kept", Key="k")["Body"].read() == b"still here"
    s3.close()


def test_stop_ends_it_and_can_be_repeated(storage: EmbeddedS3) -> None:
    storage.start()
    pid = pid_of(storage)
    storage.stop()
    assert not alive(pid)
    storage.stop()


def test_a_new_address_moves_it(storage: EmbeddedS3, tmp_path: Path) -> None:
    storage.start()
    pid = pid_of(storage)
    moved = EmbeddedS3(tmp_path / "s3", f"127.0.0.1:{free_port()}")
    moved.start()
    assert not alive(pid) and pid_of(moved) != pid
    s3 = client(moved)
    assert s3.list_buckets()["Buckets"] == []
    s3.close()


def test_a_pid_that_is_somebody_elses_is_left_alone(storage: EmbeddedS3) -> None:
    storage.start()
    storage.stop()
    record = {
        "pid": os.getpid(),
        "start": "1",
        "boot": process.boot_id(),
        "bind": storage.server.removeprefix("http://"),
    }
    (storage._home / "server.pid").write_text(json.dumps(record))
    storage.stop()
    storage.start()
    assert pid_of(storage) != os.getpid()


def test_a_server_that_does_not_take_our_keys_is_replaced(storage: EmbeddedS3) -> None:
    storage.start()
    pid = pid_of(storage)
    (storage._home / "keys").write_text("A" * 20 + " " + "B" * 40)
    storage.start()
    assert not alive(pid)
    s3 = client(storage)
    s3.list_buckets()
    s3.close()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_pid_file_is_no_server(tmp_path: Path, bind: str, damage: str) -> None:
    storage = EmbeddedS3(tmp_path / "s3", bind)
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "server.pid").write_text(damage)
    storage.start()
    assert alive(pid_of(storage))
    storage.stop()


def test_a_taken_port_is_named_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=re.escape(bind)) as refused:
            EmbeddedS3(tmp_path / "s3", bind).start()
    assert "storage.bind" in refused.value.hint
    assert not (tmp_path / "s3" / "server.pid").exists()


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("0.0.0.0:9000", "http://127.0.0.1:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("localhost:9000", "http://localhost:9000"),
    ],
)
def test_the_url_for_clients_here(tmp_path: Path, bind: str, url: str) -> None:
    assert EmbeddedS3(tmp_path, bind).server == url
