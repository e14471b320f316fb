from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.client import storage_setup
from bridge.client.credentials import read_file
from tests.support import minio, needs, nginx
from tests.support.s3 import S3

TOKEN = "grouptokenoftests"


@pytest.fixture(name="minio", scope="session")
def _minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[minio.Minio]:
    """A running MinIO server."""
    needs.need("minio")
    with minio.server(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="session")
def group_key(minio: minio.Minio, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The key of a group that was set up at the MinIO server."""
    key_file = tmp_path_factory.mktemp("group") / "key"
    plan = storage_setup.Plan(
        server=minio.endpoint, direct=minio.endpoint, group_token=TOKEN, key_file=key_file
    )
    storage_setup.set_up(plan, (minio.access, minio.secret), None)
    lines = read_file(key_file)
    return lines["S3_ACCESS"], lines["S3_SECRET"]


@pytest.fixture(name="store", params=["rclone", "minio"])
def _store(request: pytest.FixtureRequest) -> S3:
    """An S3 server with the key of a group, once rclone and once MinIO; buckets are no folders."""
    if request.param == "rclone":
        found = request.getfixturevalue("s3")
        assert isinstance(found, S3)
        return found
    access, secret = request.getfixturevalue("group_key")
    return S3(request.getfixturevalue("minio").endpoint, access, secret, Path(os.devnull))


@pytest.fixture
def front(store: S3, tmp_path: Path) -> Iterator[nginx.Front]:
    """nginx as it is shipped, in front of that server."""
    needs.need("nginx")
    home = tmp_path / secrets.token_hex(4)
    home.mkdir()
    with nginx.front(store.endpoint, home) as running:
        yield running
