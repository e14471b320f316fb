from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import bridge
from bridge.client import handle, submission
from bridge.client.storage import Storage
from bridge.errors import (
    Conflict,
    FolderError,
    Forbidden,
    InvalidRequest,
    OverQuota,
    Unreachable,
)
from tests.support.fake_service import SECRET, FakeService
from tests.support.poll import free_port
from tests.support.s3 import S3


def _folders(root: Path, count: int) -> Iterator[Path]:
    for number in range(count):
        path = root / f"job{number:04}"
        path.mkdir()
        (path / "in").write_text(str(number))
        yield path


def test_data_is_there_before_the_job_and_the_handle_says_which(
    client: bridge.Client, fake: FakeService, storage: Storage, folder: Path
) -> None:
    job = client.submit(
        folder, "psi4:1.5", ["psi4", "a b"], cores=2, memory_mb=100, set="s", oom_retry_mb=300
    )
    assert (folder / "leruli.job").read_text() == f"{job.id}\n"
    bucket = (folder / "leruli.bucket").read_text().strip()
    asked = next(body for method, path, body in fake.requests if path == "/v1/jobs")
    assert asked["bucket_id"] == bucket
    assert (asked["image"], asked["cores"], asked["memory_mb"]) == ("psi4:1.5", 2, 100)
    assert (asked["name"], asked["set"], asked["oom_retry_mb"]) == ("water", "s", 300)
    data = storage.read(bucket, "run.tgz")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["in.xyz", "run.sh"]


def test_the_bucket_handle_is_private(client: bridge.Client, folder: Path) -> None:
    client.submit(folder, "a:1", "true")
    assert (folder / "leruli.bucket").stat().st_mode & 0o077 == 0


def test_submitting_again_is_a_conflict_or_a_new_job(
    client: bridge.Client, fake: FakeService, folder: Path
) -> None:
    first = client.submit(folder, "a:1", "true")
    with pytest.raises(Conflict, match=first.id):
        client.submit(folder, "a:1", "true")
    second = client.submit(folder, "a:1", "true", again=True)
    assert second.id != first.id
    assert len(fake.jobs) == 2


def test_crash_before_the_answer_was_written_down_is_one_job(
    client: bridge.Client, fake: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(handle, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            client.submit(folder, "a:1", "true")
    assert len(fake.jobs) == 1
    job = client.submit(folder, "a:1", "true")
    assert list(fake.jobs) == [job.id]


def test_changed_folder_does_not_overwrite_what_a_job_may_read(
    client: bridge.Client, fake: FakeService, folder: Path
) -> None:
    fake.script("POST", "/v1/jobs", 500, b"crash")
    with pytest.raises(Unreachable):
        client.submit(folder, "a:1", "true")
    (folder / "in.xyz").write_text("other\n")
    with pytest.raises(Conflict, match="changed after a submission"):
        client.submit(folder, "a:1", "true")
    client.submit(folder, "a:1", "true", again=True)
    assert len(fake.jobs) == 1


def test_refused_job_leaves_no_data_behind(
    client: bridge.Client, fake: FakeService, folder: Path, s3: S3
) -> None:
    before = set(s3.folder.iterdir())
    fake.script("POST", "/v1/jobs", 422, {"error": "invalid_request", "detail": "No such image."})
    with pytest.raises(InvalidRequest, match="No such image"):
        client.submit(folder, "a:1", "true")
    assert set(s3.folder.iterdir()) == before
    assert not (folder / "leruli.bucket").exists()


def test_bad_secret_is_found_before_anything_is_uploaded(
    fake: FakeService, s3: S3, folder: Path
) -> None:
    before = set(s3.folder.iterdir())
    stranger = bridge.Client(fake.url, "nbapi_wrong", s3=(s3.endpoint, s3.access, s3.secret))
    with pytest.raises(bridge.errors.Unauthenticated):
        stranger.submit(folder, "a:1", "true")
    assert set(s3.folder.iterdir()) == before


def test_storage_away_or_wrong_key(fake: FakeService, s3: S3, folder: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable):
        bridge.Client(fake.url, SECRET, s3=(away, "aaa", "b")).submit(folder, "a:1", "true")
    with pytest.raises(Forbidden):
        bridge.Client(fake.url, SECRET, s3=(s3.endpoint, s3.access, "b")).submit(
            folder, "a:1", "true"
        )
    assert not fake.jobs


def test_many_in_arrays_in_order_with_outcomes(
    client: bridge.Client, fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_ARRAY", 10)
    folders = list(_folders(tmp_path, 25))
    (folders[3] / "run.sh").write_text("mine")
    outcomes = list(client.submit_many([*folders, folders[0], tmp_path / "none"], "a:1", "true"))
    assert len(outcomes) == 26
    failed = {outcome.folder.name: outcome.error for outcome in outcomes if outcome.error}
    assert set(failed) == {"job0003", "none"}
    assert all(isinstance(error, FolderError) for error in failed.values())
    arrays = [len(body) for _, path, body in fake.requests if path == "/v1/jobs"]
    assert arrays == [1, 10, 10, 3]
    for outcome in outcomes:
        if outcome.job_id:
            assert handle.job_id(outcome.folder) == outcome.job_id


def test_many_broken_off_and_repeated_submits_nothing_twice(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    folders = list(_folders(tmp_path, 12))
    stream = client.submit_many(folders, "a:1", "true")
    first = next(stream)
    stream.close()  # type: ignore[attr-defined]
    again = list(client.submit_many(folders, "a:1", "true"))
    assert [outcome.folder for outcome in again if not outcome.new] == [first.folder]
    assert len(fake.jobs) == 12


def test_many_what_is_wrong_with_the_request_ends_it_early(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    refused = [{"status": 422, "error": "invalid_request", "detail": "cores: too many"}]
    fake.script("POST", "/v1/jobs", 200, refused)
    with pytest.raises(InvalidRequest, match="cores"):
        list(client.submit_many(_folders(tmp_path, 40), "a:1", "true"))
    assert fake.count("POST", "/v1/jobs") == 1


def test_many_one_refused_item_is_its_own(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    folders = list(_folders(tmp_path, 2))
    next(iter(client.submit_many(folders[:1], "a:1", "true")))
    taken = {"status": 409, "error": "conflict", "detail": "Another member's bucket."}
    fake.script("POST", "/v1/jobs", 200, [taken])
    (outcome,) = client.submit_many(folders[1:], "a:1", "true")
    assert isinstance(outcome.error, Conflict)
    assert (folders[1] / "leruli.bucket").exists()


def test_many_postponed_items_are_sent_again(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    fake.script("POST", "/v1/jobs", 200, [{"status": 429, "error": "too_many"}])
    (outcome,) = client.submit_many(_folders(tmp_path, 1), "a:1", "true")
    assert outcome.new


def test_many_too_large_an_array_is_halved(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    folders = list(_folders(tmp_path, 5))
    stream = client.submit_many(folders, "a:1", "true")
    next(stream)
    fake.script("POST", "/v1/jobs", 413, {"error": "too_large", "detail": "4 MB at most"})
    assert all(outcome.new for outcome in stream)
    assert [len(b) for _, p, b in fake.requests if p == "/v1/jobs"] == [1, 4, 2, 2]


def test_many_a_quota_is_filled_and_then_said(
    client: bridge.Client, fake: FakeService, tmp_path: Path, s3: S3
) -> None:
    folders = list(_folders(tmp_path, 20))
    fake.quota = 7
    stream = client.submit_many(folders, "a:1", "true")
    assert [outcome.folder for outcome in islice(stream, 7)] == folders[:7]
    with pytest.raises(OverQuota, match="limit of ada"):
        next(stream)
    assert len(fake.jobs) == 7
    # What did not fit goes on with the next call, in the buckets that it has.
    fake.quota = 0
    uploaded = (folders[7] / "leruli.bucket").read_text()
    again = list(client.submit_many(folders, "a:1", "true"))
    assert sum(outcome.new for outcome in again) == 13
    assert (folders[7] / "leruli.bucket").read_text() == uploaded


def test_one_over_a_quota_is_refused_at_once_and_finished_later(
    client: bridge.Client, fake: FakeService, tmp_path: Path
) -> None:
    first, second = _folders(tmp_path, 2)
    fake.quota = 1
    job = client.submit(first, "a:1", "true")
    with pytest.raises(OverQuota):
        client.submit(second, "a:1", "true")
    assert fake.count("POST", "/v1/jobs") == 2
    fake.end(job.id)
    assert client.submit(second, "a:1", "true").id in fake.jobs


def test_unwritable_folder_is_named(
    client: bridge.Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(FolderError, match="cannot be written"):
        client.submit(folder, "a:1", "true")


def test_handles_with_other_content_are_not_trusted(folder: Path) -> None:
    (folder / "leruli.job").write_text("../../x\n")
    with pytest.raises(FolderError, match="does not hold an id"):
        handle.job_id(folder)


def test_two_at_once_share_the_bucket_id(folder: Path) -> None:
    assert handle.begin(folder) == handle.begin(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["in.xyz", "leruli.bucket"]
