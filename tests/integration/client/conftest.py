from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import bridge
from bridge.client.storage import Storage
from tests.support.fake_service import SECRET, FakeService, serving
from tests.support.s3 import S3


@pytest.fixture
def fake() -> Iterator[FakeService]:
    """A stand-in for the service."""
    with serving() as running:
        yield running


@pytest.fixture
def storage(s3: S3) -> Storage:
    """The client's view of a real S3 server."""
    return Storage(s3.endpoint, s3.access, s3.secret)


@pytest.fixture
def client(fake: FakeService, s3: S3) -> bridge.Client:
    """A client of the stand-in and of a real S3 server."""
    return bridge.Client(fake.url, SECRET, s3=(s3.endpoint, s3.access, s3.secret))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job folder."""
    path = tmp_path / "water"
    path.mkdir()
    (path / "in.xyz").write_text("3\n")
    return path
