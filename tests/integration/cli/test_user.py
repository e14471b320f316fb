from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.client import handle
from tests.integration.cli.conftest import Run
from tests.support.fake_service import NOW, FakeService
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
        ["submit", "--cores", "0", "a:1", "--", "true"],
        ["submit", "--priority", "-5", "a:1", "--", "true"],
        ["list", "--state", "runing"],
        ["list", "--limit", "0"],
        ["list", "--limit", "-3"],
        ["activity", "--limit", "0"],
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
    few = run("list", "--limit", "3")
    assert len(few.stdout.splitlines()) == 3
    assert few.stderr == "There are more: --limit 30\n"
    as_json = run("list", "--limit", "3", "--json")
    assert len(json.loads(as_json.stdout)) == 3
    assert "more" in json.loads(as_json.stderr)["note"]
    assert run("list", "--limit", "5").stderr == ""


def test_a_set_that_is_not_there_is_not_an_empty_list(run: Run, fake: FakeService) -> None:
    fake.take({"bucket_id": "1", "image": "a:1", "name": "n", "set": "s"})
    none = run("list", "--set", "s", "--state", "failed")
    assert (none.exit_code, none.output) == (0, "")
    assert run("list", "--set", "other").exit_code == 4


_VERBS = ["status", "wait", "get", "cancel", "hold", "release", "retry", "prune", "explain"]


@pytest.fixture(name="three")
def _three(run: Run) -> list[str]:
    """The ids of f/m1 and f/m3; f/m2 was never submitted."""
    Path("f").mkdir()
    for name in ("m1", "m2", "m3"):
        _folder(f"f/{name}")
    done = run("submit", "--dirs", "f/m[13]", "--json", "a:1", "--", "true")
    return [row["job"] for row in json.loads(done.stdout)]


@pytest.mark.parametrize("verb", [*_VERBS, "attempts"])
def test_a_folder_that_was_not_submitted_stops_no_other(
    run: Run, fake: FakeService, three: list[str], verb: str
) -> None:
    for job in three:
        fake.end(job, "canceled")
        fake.attempts[job] = [{"number": 1, "state": "ended"}]
    done = run(verb, "--dirs", "f/*", "--json")
    assert done.exit_code == 4
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert "f/m2 was not submitted" in told[0]["detail"]
    assert [(one["job"], one["folder"]) for one in told] == [(None, "f/m2")]
    assert [one.get("id") or one["job"] for one in json.loads(done.stdout)] == three
    alone = run(verb, "f/m2")
    assert (alone.exit_code, alone.stdout) == (4, "")


def test_errors_of_several_jobs_name_them(run: Run, fake: FakeService, three: list[str]) -> None:
    stranger = "01a00000-0000-7000-8000-000000000000"
    fake.end(three[0])
    done = run("prune", "f/m1", "f/m3", stranger)
    assert done.exit_code == 4
    assert f"Error: {stranger}: No such job or not your job." in done.stderr
    assert f"Error: f/m3 ({three[1]}): The job has not ended." in done.stderr
    (told,) = map(json.loads, run("prune", "--dir", "f/m3", "--json").stderr.splitlines())
    assert told["detail"] == "The job has not ended."
    assert (told["job"], told["folder"]) == (three[1], "f/m3")
    (told,) = map(json.loads, run("status", stranger, "--json").stderr.splitlines())
    assert (told["job"], told["folder"]) == (stranger, None)


def test_waiting_leaves_out_what_is_not_there(
    run: Run, fake: FakeService, three: list[str]
) -> None:
    for job in three:
        fake.end(job)
    del fake.jobs[three[0]]
    done = run("wait", "--dirs", "f/*")
    assert done.exit_code == 4
    assert f"f/m1 ({three[0]}): No such job" in done.stderr
    assert done.stdout.startswith(three[1])


def test_an_error_that_concerns_all_ends_it_and_shows_what_is_known(
    run: Run, fake: FakeService, three: list[str]
) -> None:
    body = {"error": "over_quota", "detail": "Over the limit of ada."}
    for job in three:
        fake.end(job, "failed")
    fake.script("POST", f"/v1/jobs/{three[1]}/retry", 429, body, Retry_After="60")
    done = run("retry", "f/m1", "f/m3", "f/m1")
    assert done.exit_code == 5
    assert done.stdout.startswith(three[0])
    assert "1 more job not tried." in done.stderr


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        (["f/typo"], "Error: f/typo is neither a folder nor a job id\n"),
        (["--dir", "f/typo"], "Error: there is no folder f/typo\n"),
    ],
)
@pytest.mark.parametrize("verb", _VERBS)
def test_a_mistyped_folder_is_called_that(
    run: Run, verb: str, named: list[str], sentence: str
) -> None:
    done = run(verb, *named)
    assert done.exit_code == 4
    assert done.stderr.startswith(sentence)


def test_wrong_fields_are_called_by_their_options(run: Run, fake: FakeService) -> None:
    _folder("water")
    refused = {"error": "invalid_request", "detail": "$.memory_mb: 3 is too small."}
    fake.script("POST", "/v1/jobs", 422, refused)
    done = run("submit", "--dir", "water", "a:1", "--", "true")
    assert (done.exit_code, done.stderr) == (2, "Error: --memory: 3 is too small.\n")
    refused["detail"] = "$[0].oom_retry_mb: 3 is not more than memory_mb, 4."
    fake.script("POST", "/v1/jobs", 200, [refused | {"status": 422}])
    done = run("submit", "--dirs", "water", "a:1", "--", "true")
    assert done.stderr == "Error: --oom-retry: 3 is not more than --memory, 4.\n"


def test_over_a_quota_the_rows_are_kept(run: Run, fake: FakeService) -> None:
    Path("f").mkdir()
    for number in range(10):
        _folder(f"f/m{number}")
    fake.quota = 4
    done = run("submit", "--dirs", "f/*", "a:1", "--", "true")
    assert done.exit_code == 5
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [
        f"f/m{number}" for number in range(4)
    ]
    assert done.stderr.startswith("4 of 10 folders submitted; the same command goes on")
    assert done.stderr.endswith("Error: Over the limit of ada.\n")
    fake.quota = 0
    again = run("submit", "--dirs", "f/*", "--json", "a:1", "--", "true")
    assert again.exit_code == 0
    assert len(fake.jobs) == 10


def test_a_rate_limit_is_waited_for_in_words(run: Run, fake: FakeService) -> None:
    fake.script("GET", "/v1/whoami", 429, {"error": "too_many"}, Retry_After="1")
    done = run("whoami")
    assert (done.exit_code, done.stderr) == (0, "Asked to slow down, going on in 1 s.\n")


def test_a_job_that_is_asked_to_stop_says_so(run: Run, fake: FakeService) -> None:
    job = fake.take({"bucket_id": "1", "image": "a:1", "name": "n"})["id"]
    fake.end(job, "running", cancel_requested_at=NOW, reason="retried", phase="executing")
    assert run("status", job).output.endswith("\tasked to stop\n")
    fake.end(job, "canceled", reason="stopped")
    assert run("status", job).output.endswith("\tstopped\n")


def test_whoami_and_members(run: Run) -> None:
    assert run("whoami").output == "ada (member) of group lab\n"
    assert run("users", "list").output.startswith("ada\tadmin")
    assert run("users", "add", "bob").output.startswith("nbapi_")
    assert run("compute-secret", "rotate").output.startswith("nbcompute_")
