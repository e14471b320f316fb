"""When the storage is not what it should be: for the node, and for the member."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import archive, bucket_of, hand_in, storage
from tests.support.poll import free_port
from tests.support.service import RunningService

ENDED = ("completed", "failed", "canceled")


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose nodes lose patience soon."""
    service = RunningService(tmp_path_factory.mktemp("storage") / "home")
    service.init("--runtime", "process")
    service.configure(
        local={"cores": 4},
        queue={"retries": 0, "stage_in_limit_s": 10, "upload_patience_s": 2},
    )
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture
def keys(hasty: RunningService) -> Iterator[Path]:
    """The node's file with the keys, as it was afterwards."""
    path = hasty.home / "node" / "etc" / "s3.conf"
    before = path.read_text()
    yield path
    path.write_text(before)


def end_of(service: RunningService, job: str) -> tuple[str, str, str]:
    seen = service.wait_for(job, ENDED)
    return seen["state"], seen["cause"], seen["reason"]


def test_there_is_no_bucket_or_nothing_in_it(hasty: RunningService) -> None:
    missing = hand_in(hasty, None)[0]
    emptied = hand_in(hasty, archive([]), hold=True)[0]
    bucket = bucket_of(hasty, emptied).name
    storage(hasty).delete_bucket(bucket)
    storage(hasty).make_bucket(bucket)
    hasty.post(f"/v1/jobs/{emptied}/release", {})
    for job in (missing, emptied):
        assert end_of(hasty, job) == ("failed", "input_missing", "Input files missing")


def test_the_node_finds_nobody_or_is_refused(hasty: RunningService, keys: Path) -> None:
    server = f"S3_SERVER={hasty.credentials['BRIDGE_S3_SERVER']}"
    text = keys.read_text()
    keys.write_text(text.replace(server, f"S3_SERVER=http://127.0.0.1:{free_port()}"))
    state, cause, reason = end_of(hasty, hand_in(hasty, archive([]))[0])
    assert (state, cause) == ("failed", "storage")
    assert reason == "The storage did not answer for as long as we wait"
    keys.write_text(text.replace("S3_SECRET=", "S3_SECRET=x"))
    assert end_of(hasty, hand_in(hasty, archive([]))[0]) == (
        "failed",
        "input_missing",
        "Input files missing",
    )


def test_keys_that_others_can_read_are_not_used(hasty: RunningService, keys: Path) -> None:
    keys.chmod(0o644)
    try:
        state, cause, reason = end_of(hasty, hand_in(hasty, archive([]))[0])
    finally:
        keys.chmod(0o600)
    assert (state, cause) == ("failed", "internal")
    assert "chmod 600" in reason


def test_the_bucket_goes_under_the_job(hasty: RunningService, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = hand_in(hasty, archive([], f"until [ -e {go} ]; do sleep 0.05; done"))[0]
    hasty.wait_for(job, ["running"])
    bucket = bucket_of(hasty, job)
    storage(hasty).delete_bucket(bucket.name)
    go.touch()
    state, _, reason = end_of(hasty, job)
    assert state == "failed", reason
    assert not bucket.exists(), "nobody makes it again"


def test_an_upload_outlasts_an_absence_of_the_storage(
    hasty: RunningService, tmp_path: Path
) -> None:
    """The service starts the storage again, and the results arrive."""
    go = tmp_path / "go"
    script = f"echo fine; until [ -e {go} ]; do sleep 0.05; done"
    hasty.stop()
    hasty.configure(queue={"upload_patience_s": 60})
    hasty.start()
    job = hand_in(hasty, archive([], script))[0]
    hasty.wait_for(job, ["running"])
    pid = int(json.loads((hasty.home / "s3" / "server.pid").read_text())["pid"])
    os.kill(pid, signal.SIGKILL)
    go.touch()
    assert hasty.wait_for(job, ENDED)["state"] == "completed"
    assert (bucket_of(hasty, job) / "joblog.txt").read_text() == "fine\n"


def test_the_member_is_told(hasty: RunningService, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    before = len(hasty.get("/v1/jobs").body["jobs"])
    for changes, code, says in (
        ({"BRIDGE_S3_SERVER": f"http://127.0.0.1:{free_port()}"}, 5, "cannot be reached"),
        ({"BRIDGE_S3_SECRET": "wrong"}, 3, "BRIDGE_S3_SECRET"),
        ({"BRIDGE_URL": f"http://127.0.0.1:{free_port()}"}, 5, "BRIDGE_URL"),
        ({"BRIDGE_API_SECRET": "nbapi_wrong"}, 3, "not known"),
    ):
        file = tmp_path / "other.env"
        known = hasty.credentials | changes
        file.write_text("".join(f"{name}={value}\n" for name, value in known.items()))
        done = hasty.command(
            "--credentials", str(file), "submit", "--dir", str(tmp_path), "any:1", "--", "true"
        )
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert len(hasty.get("/v1/jobs").body["jobs"]) == before


def test_a_result_that_was_cut_is_not_taken_for_whole(
    hasty: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    done = hasty.command("submit", "any:1", "--", "seq 1000 >numbers", cwd=tmp_path)
    job = done.stdout.strip()
    assert hasty.wait_for(job, ENDED)["state"] == "completed"
    bucket = bucket_of(hasty, job)
    whole = (bucket / "numbers").read_bytes()
    storage(hasty).put(bucket.name, "numbers", io.BytesIO(whole[:100]))
    refused = hasty.command("get", cwd=tmp_path)
    assert refused.returncode != 0
    assert "100 of 3893 bytes" in refused.stderr
    assert not (tmp_path / "numbers").exists()
    storage(hasty).put(bucket.name, "numbers", io.BytesIO(whole))
    assert hasty.command("get", cwd=tmp_path).returncode == 0
    assert (tmp_path / "numbers").read_bytes() == whole
