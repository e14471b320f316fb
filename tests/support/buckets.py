"""Jobs by hand: an archive of a test's own making, put into its bucket and handed in."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridge.client.storage import Storage
from tests.support.service import RunningService


def storage(service: RunningService) -> Storage:
    """The service's embedded storage, with the keys of a member."""
    known = service.credentials
    return Storage(known["BRIDGE_S3_SERVER"], known["BRIDGE_S3_ACCESS"], known["BRIDGE_S3_SECRET"])


def member(name: str, text: str = "", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of an archive: a file with ``text``, or what ``fields`` of TarInfo say."""
    data = text.encode()
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]], run: str = "true") -> bytes:
    """A run.tgz of ``members`` and a run.sh."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for info, data in [*members, member("run.sh", run)]:
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def fill(service: RunningService, content: bytes) -> str:
    """A new bucket that holds ``content`` as run.tgz."""
    bucket = str(uuid.uuid4())
    store = storage(service)
    store.make_bucket(bucket)
    store.put(bucket, "run.tgz", io.BytesIO(content))
    return bucket


def hand_in(service: RunningService, *archives: bytes | None, **fields: object) -> list[str]:
    """A job for each archive, whose bucket holds it; None: there is no bucket."""
    items: list[dict[str, object]] = []
    for content in archives:
        bucket = str(uuid.uuid4()) if content is None else fill(service, content)
        items.append({"bucket_id": bucket, "image": "any:1", "memory_mb": 64} | fields)
    answer = service.post("/v1/jobs", items)
    assert [item["status"] for item in answer.body] == [201] * len(items), answer
    return [item["id"] for item in answer.body]


def bucket_of(service: RunningService, job: str) -> Path:
    """The folder in which the embedded storage keeps a job's objects."""
    bucket: str = service.get(f"/v1/jobs/{job}").body["bucket_id"]
    return service.home / "s3" / "buckets" / bucket
