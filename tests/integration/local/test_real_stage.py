"""The real stage program and the embedded storage under the local connector."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from bridge import process, resources
from bridge.embedded import EmbeddedS3
from bridge.models.attempt import Cause, Handle, Observed
from tests.support.docker import docker
from tests.support.local import LocalNode, command_lines
from tests.support.needs import IMAGE
from tests.support.poll import eventually, free_port


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    made = EmbeddedS3(tmp_path_factory.mktemp("s3"), f"127.0.0.1:{free_port()}")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def s3(storage: EmbeddedS3) -> Iterator[Any]:
    made = boto3.client(
        "s3",
        endpoint_url=storage.server,
        aws_access_key_id=storage.keys.access,
        aws_secret_access_key=storage.keys.secret,
        region_name="us-east-1",
    )
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, storage: EmbeddedS3) -> Iterator[LocalNode]:
    made = LocalNode(tmp_path, stage=resources.path("node-setup/bin/stage"))
    conf = made.node_home / "etc" / "s3.conf"
    conf.parent.mkdir(parents=True)
    conf.touch(mode=0o600)
    keys = storage.keys
    conf.write_text(
        f"S3_SERVER={storage.server}\nS3_ACCESS={keys.access}\nS3_SECRET={keys.secret}\n"
    )
    yield made
    made.close()


def submit(node: LocalNode, s3: Any, script: str, **changes: Any) -> Handle:
    """A bucket with run.tgz, and the attempt that uses it."""
    spec = node.spec(None, **changes)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("run.sh")
        member.size = len(script.encode())
        tar.addfile(member, io.BytesIO(script.encode()))
    s3.create_bucket(Bucket=str(spec.bucket_id))
    s3.put_object(Bucket=str(spec.bucket_id), Key="run.tgz", Body=archive.getvalue())
    node.connector.submit(spec)
    return spec.handle


def content(node: LocalNode, s3: Any, handle: Handle, key: str) -> bytes:
    bucket = str(node._specs[handle].bucket_id)
    return bytes(s3.get_object(Bucket=bucket, Key=key)["Body"].read())


def test_a_folder_goes_in_and_comes_back(node: LocalNode, s3: Any) -> None:
    handle = submit(node, s3, "echo hello; mkdir -p out/deep; echo 42 >'out/deep/é.txt'; exit 3")
    seen = node.wait(handle)
    log = node.folder(handle).stage_log.read_text()
    assert (seen.cause, seen.exit_code) == (Cause.EXIT, 3), log
    assert content(node, s3, handle, "joblog.txt") == b"hello\n"
    assert content(node, s3, handle, "out/deep/é.txt") == b"42\n"


def test_a_trivial_job_costs_some_starts_of_rclone(node: LocalNode, s3: Any, rclone: str) -> None:
    """0.5 s on two idle cores. Other tests run at the same time, so it is counted
    in what one start of rclone takes meanwhile, and the first one without trouble counts.
    """

    def ratio() -> float:
        begun = time.monotonic()
        process.run([rclone, "version"], timeout=60)
        one_start = time.monotonic() - begun
        handle = submit(node, s3, "true")
        handed_over = node.folder(handle).spec.stat().st_mtime
        seen = node.wait(handle)
        assert seen.cause is None and seen.ended_at is not None
        return (seen.ended_at - handed_over) / one_start

    assert any(ratio() <= 15 for _ in range(10))


@pytest.mark.needs("docker")
def test_an_image_of_the_groups_own(node: LocalNode, s3: Any) -> None:
    name = f"test-{uuid.uuid4().hex}"
    code_bucket = f"code-{name}"
    s3.create_bucket(Bucket=code_bucket)
    archive = node.home / "image.tar"
    docker("save", "-o", str(archive), IMAGE)
    s3.put_object(
        Bucket=code_bucket, Key=f"{name}-1.tgz", Body=gzip.compress(archive.read_bytes(), 1)
    )
    host = os.environ.get("DOCKER_HOST", "")
    node.connector = replace(node.connector, runtime="docker", docker_host=host)
    handle = submit(node, s3, "pwd", image=f"{name}:1", code_bucket=code_bucket)
    try:
        seen = node.wait(handle)
        assert seen.cause is None, node.folder(handle).stage_log.read_text()
        assert content(node, s3, handle, "joblog.txt") == b"/rundir\n"
    finally:
        docker("rmi", f"bridge.invalid/{name}:1")


@pytest.mark.needs("docker")
def test_an_image_nobody_published(node: LocalNode, s3: Any) -> None:
    host = os.environ.get("DOCKER_HOST", "")
    node.connector = replace(node.connector, runtime="docker", docker_host=host)
    code_bucket = f"code-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=code_bucket)
    handle = submit(node, s3, "true", image="test-missing:1", code_bucket=code_bucket)
    seen = node.wait(handle)
    assert (seen.cause, seen.started_at) == (Cause.IMAGE_MISSING, None)
    assert seen.reason is not None and "test-missing:1" in seen.reason


def test_without_a_bucket(node: LocalNode) -> None:
    seen = node.wait(node.submit(None))
    assert (seen.cause, seen.reason) == (Cause.INPUT_MISSING, "Input files missing")


def test_canceled_with_partial_results(node: LocalNode, s3: Any) -> None:
    handle = submit(node, s3, "echo partial >part.txt; exec sleep 600")
    node.wait(handle, Observed.RUNNING)
    eventually((node.folder(handle).rundir / "part.txt").exists)
    node.connector.cancel(handle)
    assert node.wait(handle).cause is Cause.CANCELED
    assert content(node, s3, handle, "part.txt") == b"partial\n"


def test_two_attempts_of_one_job(node: LocalNode, s3: Any) -> None:
    """The second one supersedes the first while that still runs."""
    first = submit(node, s3, "while [ ! -e go ]; do sleep 0.02; done; echo first >who.txt")
    node.wait(first, Observed.RUNNING)
    spec = node._specs[first]
    second = node.spec(
        None,
        job_id=spec.job_id,
        bucket_id=spec.bucket_id,
        number=2,
        handle=Handle(spec.handle.native_id[:-1] + "2"),
    )
    node.connector.submit(second)
    node.wait(second.handle, Observed.RUNNING)
    (node.folder(first).rundir / "go").touch()
    assert node.wait(first).cause is Cause.WITHDRAWN
    (node.folder(second.handle).rundir / "go").touch()
    assert node.wait(second.handle).cause is None


def test_nothing_secret_in_command_lines_or_records(
    node: LocalNode, s3: Any, storage: EmbeddedS3
) -> None:
    handle = submit(node, s3, "sleep 0.2; echo done >done.txt")
    secrets = (str(node._specs[handle].bucket_id), storage.keys.secret)
    while node.look(handle).state is not Observed.ENDED:
        seen = command_lines()
        assert not any(secret in seen for secret in secrets)
    assert node.look(handle).cause is None
    home = node.folder(handle)
    for path in (home.steps, home.stage_log, home.supervisor_log):
        assert not any(secret in path.read_text() for secret in secrets)
