from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import bridge
from bridge.client.storage import Storage
from bridge.errors import ClientError, Conflict, InvalidRequest
from tests.support.fake_service import FakeService

# What `docker image inspect` and `docker image save` do, as far as publishing needs it.
_DOCKER = """#!/bin/sh
case "$1 $2" in
"image inspect")
    [ "$5" != missing:1 ] || { echo "No such image: $5" >&2; exit 1; }
    echo sha256:abc
    ;;
"image save") printf 'the image %s' "$5" >"$4" ;;
*) exit 2 ;;
esac
"""


@pytest.fixture(name="bucket", autouse=True)
def _bucket(fake: FakeService, storage: Storage, tmp_path: Path) -> Iterator[str]:
    fake.code_bucket = f"code-{os.urandom(8).hex()}"
    storage.make_bucket(fake.code_bucket)
    yield fake.code_bucket
    storage.delete_bucket(fake.code_bucket)


@pytest.fixture(autouse=True)
def _docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(_DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_publish_is_a_gzip_of_docker_save(
    client: bridge.Client, storage: Storage, bucket: str
) -> None:
    code = client.publish("psi4:1.5")
    assert code.image == "psi4:1.5"
    assert gzip.decompress(storage.read(bucket, "psi4-1.5.tgz")) == b"the image psi4:1.5"


def test_versions_are_not_replaced_by_accident(client: bridge.Client) -> None:
    client.publish("psi4:1.5")
    with pytest.raises(Conflict, match=r"psi4:1\.5"):
        client.publish("psi4:1.5")
    client.publish("psi4:1.5", replace=True)


@pytest.mark.parametrize("image", ["Psi4:1.5", "psi4", "a/b:1", "psi4:", ":1", "psi4:1 5"])
def test_bad_names(client: bridge.Client, image: str) -> None:
    with pytest.raises(InvalidRequest, match="code:version"):
        client.publish(image)


def test_docker_says_no(client: bridge.Client, storage: Storage, bucket: str) -> None:
    with pytest.raises(ClientError, match="No such image: missing:1"):
        client.publish("missing:1")
    assert list(storage.objects(bucket)) == []


def test_names_with_dashes_are_listed_as_published(
    client: bridge.Client, storage: Storage, bucket: str
) -> None:
    client.publish("my-tool:2-rc1")
    client.publish("tool-2:rc1")  # nobody could guess where its version begins
    # As the public client publishes: no metadata.
    storage.put(bucket, "crest-2.11.2-rc1.tgz", io.BytesIO(b"x"))
    storage.put(bucket, "notes.txt", io.BytesIO(b"x"))
    assert [code.image for code in client.codes()] == [
        "crest:2.11.2-rc1",
        "my-tool:2-rc1",
        "tool-2:rc1",
    ]
