from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bridge
from bridge.client import results
from bridge.client.storage import Storage
from bridge.errors import Conflict, FolderError, NotFound, ResultsError, Unreachable
from tests.support.fake_service import FakeService


class Ended:
    """An ended job with its bucket, filled as a node would."""

    def __init__(self, fake: FakeService, storage: Storage) -> None:
        self.bucket = str(uuid.uuid4())
        self.storage = storage
        self.listed: dict[str, bytes] = {}
        storage.make_bucket(self.bucket)
        self.put("run.tgz", b"input")
        self.put(".bridge/owner", b"1 alloc")
        self.id: str = fake.take({"bucket_id": self.bucket, "image": "a:1"})["id"]
        fake.end(self.id)

    def put(self, key: str, data: bytes) -> None:
        """An object, nothing more."""
        self.storage.put(self.bucket, key, io.BytesIO(data))

    def result(self, key: str, data: bytes) -> None:
        """An object that will be in the manifest."""
        self.put(key, data)
        self.listed[key] = data

    def finish(self, **more: Any) -> None:
        """Write the manifest."""
        files = [
            {"key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for key, data in self.listed.items()
        ]
        manifest = {"version": 1, "attempt": 1, "alloc": "x", "files": files} | more
        self.put(".bridge/manifest", json.dumps(manifest).encode())


@pytest.fixture(name="job")
def _job(fake: FakeService, storage: Storage) -> Iterator[Ended]:
    ended = Ended(fake, storage)
    yield ended
    storage.delete_bucket(ended.bucket)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_results_without_input_and_records(
    client: bridge.Client, job: Ended, tmp_path: Path
) -> None:
    job.result("joblog.txt", b"")
    job.result("out/deep/ü x.txt", b"result" * 1000)
    job.put("leruli.job", b"a handle of somebody's")
    job.finish()
    counted: list[int] = []
    fetched = client.get(job.id, tmp_path / "new" / "dest", progress=counted.append)
    assert fetched.verified
    assert sorted(fetched.files) == ["joblog.txt", "out/deep/ü x.txt"]
    assert _tree(tmp_path / "new" / "dest") == job.listed
    assert not (tmp_path / "new" / "dest" / ".bridge").exists()
    assert sum(counted) == 6000


def test_what_is_there_and_right_is_not_fetched_again(
    client: bridge.Client, job: Ended, tmp_path: Path
) -> None:
    job.result("a", b"aaa")
    job.result("b", b"bbb")
    job.finish()
    client.get(job.id, tmp_path)
    before = (tmp_path / "a").stat()
    (tmp_path / "b").write_bytes(b"xxx")
    fetched = client.get(job.id, tmp_path)
    assert fetched.already_there == 1
    assert (tmp_path / "a").stat().st_ino == before.st_ino
    assert (tmp_path / "b").read_bytes() == b"bbb"


def test_a_broken_fetch_goes_on_where_it_stopped(
    client: bridge.Client, job: Ended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 20_000
    job.result("big", data)
    job.finish()
    stream = Storage.stream
    starts: list[int] = []

    def breaking(self: Storage, bucket: str, key: str, start: int = 0) -> Iterator[bytes]:
        if key == "big":
            starts.append(start)
            yield next(stream(self, bucket, key, start))[:100_000]
            raise Unreachable("connection broken")
        yield from stream(self, bucket, key, start)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "stream", breaking)
        with pytest.raises(Unreachable):
            client.get(job.id, tmp_path)
    assert not (tmp_path / "big").exists()
    assert starts == [100_000 * tried for tried in range(results._TRIES)]
    counted: list[int] = []
    client.get(job.id, tmp_path, progress=counted.append)
    assert (tmp_path / "big").read_bytes() == data
    assert counted[0] == 100_000 * results._TRIES


def test_a_part_of_something_else_is_started_over(
    client: bridge.Client, job: Ended, tmp_path: Path
) -> None:
    job.result("a", b"0123456789")
    job.finish()
    part = tmp_path / ".bridge" / (hashlib.sha256(b"a").hexdigest() + ".part")
    part.parent.mkdir()
    part.write_bytes(b"xxxx")
    client.get(job.id, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    part.parent.mkdir(exist_ok=True)
    (tmp_path / "a").unlink()
    part.write_bytes(b"x" * 50)
    client.get(job.id, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (b"0123", "arrived with 4 of 10 bytes"),
        (b"012345678x", "checksum differs"),
        (b"0123456789ten more", "checksum differs"),
        (None, "missing from the bucket"),
    ],
)
def test_damaged_results_are_said_and_not_kept(
    client: bridge.Client, job: Ended, tmp_path: Path, stored: bytes | None, words: str
) -> None:
    job.listed["a"] = b"0123456789"
    if stored is not None:
        job.put("a", stored)
    job.finish()
    for _ in range(2):  # also when it is tried again
        with pytest.raises(ResultsError, match=words):
            client.get(job.id, tmp_path)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "a//b", "./x", "a/", "x\0y"])
def test_keys_that_leave_are_refused_before_anything_is_fetched(
    client: bridge.Client, job: Ended, tmp_path: Path, key: str
) -> None:
    job.result("fine", b"x")
    job.listed[key] = b"x"
    job.finish()
    dest = tmp_path / "dest"
    with pytest.raises(ResultsError, match="would leave its folder"):
        client.get(job.id, dest)
    assert not dest.exists()


def test_links_in_the_destination_are_not_followed_out(
    client: bridge.Client, job: Ended, tmp_path: Path
) -> None:
    job.result("sub/a", b"aaa")
    job.result("b", b"bbb")
    job.finish()
    outside, dest = tmp_path / "outside", tmp_path / "dest"
    outside.mkdir()
    dest.mkdir()
    (outside / "victim").write_text("kept")
    (dest / "b").symlink_to(outside / "victim")
    (dest / "sub").symlink_to(outside)
    with pytest.raises(ResultsError, match="leads out"):
        client.get(job.id, dest)
    (dest / "sub").unlink()
    client.get(job.id, dest)
    assert (outside / "victim").read_text() == "kept"
    assert (dest / "b").read_bytes() == b"bbb"
    assert list(outside.iterdir()) == [outside / "victim"]


def test_a_name_that_is_file_and_folder_at_once(
    client: bridge.Client, job: Ended, tmp_path: Path
) -> None:
    job.listed |= {"a": b"x", "a/b": b"x"}
    job.finish()
    with pytest.raises(ResultsError, match="'a' and 'a/b'"):
        client.get(job.id, tmp_path)


def test_a_folder_in_the_way_is_named(client: bridge.Client, job: Ended, tmp_path: Path) -> None:
    job.result("a", b"x")
    job.finish()
    (tmp_path / "a").mkdir()
    with pytest.raises(FolderError, match="is a folder"):
        client.get(job.id, tmp_path)


def test_completed_without_manifest_is_an_error_failed_is_not(
    client: bridge.Client, fake: FakeService, job: Ended, tmp_path: Path
) -> None:
    job.put("joblog.txt", b"so far")
    with pytest.raises(ResultsError, match="not in the bucket"):
        client.get(job.id, tmp_path)
    fake.end(job.id, "failed")
    fetched = client.get(job.id, tmp_path)
    assert not fetched.verified
    assert _tree(tmp_path) == {"joblog.txt": b"so far"}


@pytest.mark.parametrize("manifest", [b"", b"{", b'{"version": 1}', b'{"version": 9, "files": []}'])
def test_damaged_manifest(
    client: bridge.Client, job: Ended, tmp_path: Path, manifest: bytes
) -> None:
    job.put(".bridge/manifest", manifest)
    with pytest.raises(ResultsError, match="list of results"):
        client.get(job.id, tmp_path)


def test_live_pruned_foreign_and_gone(
    client: bridge.Client, fake: FakeService, job: Ended, tmp_path: Path
) -> None:
    fake.end(job.id, "running")
    with pytest.raises(Conflict, match="running"):
        client.get(job.id, tmp_path)
    fake.end(job.id, "completed")
    job.storage.delete_bucket(job.bucket)
    with pytest.raises(ResultsError):
        client.get(job.id, tmp_path)
    fake.end(job.id, "failed")
    with pytest.raises(NotFound):
        client.get(job.id, tmp_path)
    client.prune(job.id)
    with pytest.raises(NotFound, match="pruned"):
        client.get(job.id, tmp_path)


def test_prune_deletes_the_bucket_and_confirms(
    client: bridge.Client, fake: FakeService, job: Ended, storage: Storage
) -> None:
    job.result("a", b"x")
    assert client.prune(job.id).pruned_at is not None
    assert storage.head(job.bucket, "a") is None
    assert client.prune(job.id).pruned_at is not None


def test_prune_of_a_live_job_deletes_nothing(
    client: bridge.Client, fake: FakeService, job: Ended, storage: Storage
) -> None:
    fake.end(job.id, "running")
    with pytest.raises(Conflict):
        client.prune(job.id)
    assert storage.head(job.bucket, "run.tgz") is not None


def test_prune_of_a_set_deletes_the_data_of_what_ended(
    client: bridge.Client, fake: FakeService, job: Ended, storage: Storage, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    (live / "in").write_text("x")
    waiting = client.submit(live, "a:1", "true", set="both")
    fake.jobs[job.id]["set"] = "both"
    heard: list[str] = []
    assert client.sets.prune("both", report=lambda gone: heard.append(gone.id)) == 1
    assert heard == [job.id]
    assert client.status(job.id).pruned_at is not None
    assert storage.head(job.bucket, "run.tgz") is None
    assert storage.head(waiting.bucket_id or "", "run.tgz") is not None
    assert client.sets.prune("both") == 0


@pytest.mark.parametrize("path", ["jobs/{}/retry", "sets/both/retry"])
def test_retry_is_sent_once(
    client: bridge.Client, fake: FakeService, job: Ended, path: str
) -> None:
    fake.end(job.id, "failed", set="both")
    url = f"/v1/{path.format(job.id)}"
    fake.script("POST", url, 0)
    retry = client.retry if "jobs" in path else client.sets.retry
    with pytest.raises(Unreachable):
        retry(job.id if "jobs" in path else "both")
    assert fake.count("POST", url) == 1
    assert fake.jobs[job.id]["state"] == "failed"
