from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.client import handle
from tests.integration.cli.conftest import Run
from tests.support.fake_service import FakeService
from tests.support.s3 import S3


def _folder(name: str) -> Path:
    path = Path(name)
    path.mkdir()
    (path / "in").write_text(name)
    return path


def test_submit_prints_the_id(run: Run, fake: FakeService) -> None:
    _folder("water")
    done = run("submit", "--dir", "water", "--time", "90m", "--memory", "2GiB", "a:1", "--", "true")
    assert done.exit_code == 0
    assert fake.jobs[done.output.strip()]["time_limit_s"] == 5400
    assert fake.jobs[done.output.strip()]["memory_mb"] == 2048


def test_command_options_are_the_jobs_own(run: Run, storage_script: Callable[[], str]) -> None:
    _folder("water")
    assert run("submit", "--dir", "water", "a:1", "--", "ls", "--json", "--", "a b").exit_code == 0
    assert storage_script() == "#!/bin/bash\nls --json -- 'a b'\n"


def test_one_word_is_a_shell_line(run: Run, storage_script: Callable[[], str]) -> None:
    _folder("water")
    assert run("submit", "--dir", "water", "a:1", "--", "sort < in > out").exit_code == 0
    assert storage_script() == "#!/bin/bash\nsort < in > out\n"


@pytest.fixture(name="storage_script")
def _storage_script(s3: S3) -> Callable[[], str]:
    def read() -> str:
        import io
        import tarfile

        from bridge.client.storage import Storage

        bucket = handle.bucket_id(Path("water")) or ""
        data = Storage(s3.endpoint, s3.access, s3.secret).read(bucket, "run.tgz")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            file = tar.extractfile("run.sh")
            assert file is not None
            return file.read().decode()

    return read


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "a:1"],
        ["submit", "a:1", "--"],
        ["submit", "a:1", "extra", "--", "true"],
        ["submit", "--dir", "x", "--dirs", "*", "a:1", "--", "true"],
        ["submit", "--dirs", "none*", "a:1", "--", "true"],
        ["submit", "--time", "soon", "a:1", "--", "true"],
        ["submit", "--cores", "many", "a:1", "--", "true"],
        ["submit", "--dir", "missing", "a:1", "--", "true"],
        ["nonsense"],
    ],
)
def test_usage(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_batch_by_pattern_expanded_by_us_or_by_the_shell(run: Run, fake: FakeService) -> None:
    for name in ("m1", "m2", "m3"):
        _folder(name)
    Path("m-file").write_text("not a folder")
    done = run("submit", "--dirs", "m*", "a:1", "--", "true")
    assert done.exit_code == 0
    assert [line.split("\t")[1] for line in done.output.splitlines()] == ["m1", "m2", "m3"]
    again = run("submit", "--dirs", "m1", "m2", "m3", "a:1", "--", "true")
    assert again.exit_code == 0
    assert again.output.count("submitted before") == 3
    assert len(fake.jobs) == 3


def test_batch_from_a_list_with_a_bad_folder(run: Run) -> None:
    _folder("good")
    done = run("submit", "--list", "-", "--json", "a:1", "--", "true", input="good\nbad\n")
    assert done.exit_code == 2
    good, bad = json.loads(done.stdout)
    assert good["job"]
    assert "bad" in bad["error"]


def test_folder_names_its_job(run: Run, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder("water")
    job = run("submit", "--dir", "water", "a:1", "--", "true").output.strip()
    fake.end(job, "failed", reason="Input files missing")
    monkeypatch.chdir("water")
    done = run("status")
    assert done.exit_code == 1
    assert done.output.split("\t")[0] == job
    assert done.output.rstrip().endswith("Input files missing")


def test_a_word_may_be_a_folder_but_an_id_is_an_id(run: Run, fake: FakeService) -> None:
    _folder("water")
    job = run("submit", "--dir", "water", "a:1", "--", "true").output.strip()
    _folder(job)
    for word in ("water", "./water/", job):
        assert run("status", word).output.startswith(job)
    assert run("status", "elsewhere/water").exit_code == 4


def test_exit_codes_of_wait(run: Run, fake: FakeService) -> None:
    _folder("water")
    job = run("submit", "--dir", "water", "a:1", "--", "true").output.strip()
    assert run("wait", job, "--timeout", "1s").exit_code == 1
    fake.end(job)
    assert run("wait", job).exit_code == 0
    fake.end(job, "canceled")
    assert run("wait", job).exit_code == 1


def test_json_and_errors_as_json(run: Run, fake: FakeService) -> None:
    _folder("water")
    job = json.loads(run("submit", "--dir", "water", "--json", "a:1", "--", "true").stdout)
    assert json.loads(run("status", "--json", job["id"]).stdout)["state"] == "received"
    assert [item["id"] for item in json.loads(run("list", "--json").stdout)] == [job["id"]]
    lost = run("status", "--json", "nothing")
    assert lost.exit_code == 4
    assert json.loads(lost.stderr)["error"] == "not_found"


def test_not_allowed_and_not_reachable(run: Run, fake: FakeService) -> None:
    fake.script("GET", "/v1/whoami", 403, {"error": "forbidden", "detail": "No."})
    assert run("whoami").exit_code == 3
    Path("away.env").write_text("BRIDGE_URL=http://127.0.0.1:9\nBRIDGE_API_SECRET=x\n")
    done = run("--credentials", "away.env", "whoami")
    assert done.exit_code == 5
    assert "127.0.0.1:9" in done.stderr


def test_no_credentials_says_what_to_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRIDGE_CREDENTIALS")
    done = run("list")
    assert done.exit_code == 2
    assert "BRIDGE_URL" in done.stderr


def test_steering_several_goes_on_after_an_error(run: Run, fake: FakeService) -> None:
    _folder("water")
    job = run("submit", "--dir", "water", "--hold", "a:1", "--", "true").output.strip()
    assert fake.jobs[job]["hold"] is True
    assert run("release", "unknown", job).exit_code == 4
    assert fake.jobs[job]["hold"] is False
    assert run("hold", job).exit_code == 0
    assert run("prune", job).exit_code == 2
    assert run("cancel", job).exit_code == 0
    assert run("prune", job).exit_code == 0
    assert run("prune", job).exit_code == 0
    assert fake.jobs[job]["pruned_at"]


def test_list_reads_pages_and_stops_at_the_limit(run: Run, fake: FakeService) -> None:
    fake.page = 2
    for number in range(5):
        fake.take({"bucket_id": str(number), "image": "a:1", "name": "n", "set": "s"})
    assert len(run("list").output.splitlines()) == 5
    assert len(run("list", "--limit", "3").output.splitlines()) == 3
    assert run("list", "--set", "other").output == ""


def test_whoami_and_members(run: Run) -> None:
    assert run("whoami").output == "ada (member) of group lab\n"
    assert run("users", "list").output.startswith("ada\tadmin")
    assert run("users", "add", "bob").output.startswith("nbapi_")
    assert run("compute-secret", "rotate").output.startswith("nbcompute_")
