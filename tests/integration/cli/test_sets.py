from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.cli import output
from tests.integration.cli.conftest import Run
from tests.support.fake_service import FakeService


@pytest.fixture(name="jobs")
def _jobs(run: Run) -> list[str]:
    """Three jobs of the set "s / 1"."""
    for name in ("m1", "m2", "m3"):
        Path(name).mkdir()
        (Path(name) / "in").write_text(name)
    done = run("submit", "--dirs", "m*", "--set", "s / 1", "--json", "a:1", "--", "true")
    return [row["job"] for row in json.loads(done.stdout)]


def test_sets_are_listed_with_counts(run: Run, fake: FakeService, jobs: list[str]) -> None:
    fake.end(jobs[0], "failed")
    name, total, *counts, _ = run("sets").output.rstrip("\n").split("\t")
    assert (name, total) == ("s / 1", "3")
    assert counts == ["2", "", "", "", "1", ""]
    (shown,) = json.loads(run("sets", "--json").stdout)
    assert shown["jobs"] == {"failed": 1, "received": 2}


def test_a_set_is_steered_by_one_request(run: Run, fake: FakeService, jobs: list[str]) -> None:
    fake.end(jobs[0], "failed")
    fake.requests.clear()
    for verb, changed in (("hold", 3), ("release", 3), ("retry", 1), ("cancel", 3)):
        done = run(verb, "--set", "s / 1", "--json")
        assert json.loads(done.stdout) == {"set": "s / 1", "changed": changed}
    assert [path for _, path, _ in fake.requests] == [
        f"/v1/sets/s%20%2F%201/{verb}" for verb in ("hold", "release", "retry", "cancel")
    ]
    assert run("cancel", "--set", "s / 1").output == (
        "0 jobs of set 's / 1' canceled: all have ended or were asked to stop before\n"
    )


@pytest.mark.parametrize(
    ("verb", "why"),
    [
        ("release", "released: none is held"),
        ("retry", "put back: none has failed and kept its data; canceled ones are put back one"),
    ],
)
def test_a_verb_that_changes_nothing_says_why(
    run: Run, jobs: list[str], verb: str, why: str
) -> None:
    done = run(verb, "--set", "s / 1")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"0 jobs of set 's / 1' {why}")


def test_retry_of_a_set_over_a_quota_says_so_at_once(
    run: Run, fake: FakeService, jobs: list[str]
) -> None:
    body = {"error": "over_quota", "detail": "Over the limit of ada.", "hint": "Later."}
    fake.script("POST", "/v1/sets/s%20%2F%201/retry", 429, body, Retry_After="60")
    done = run("retry", "--set", "s / 1")
    assert (done.exit_code, done.stderr) == (5, "Error: Over the limit of ada.\nLater.\n")


@pytest.mark.parametrize(
    "verb", ["cancel", "hold", "release", "retry", "prune", "wait", "get", "explain", "attempts"]
)
def test_a_set_is_named_alone_and_must_be_there(run: Run, fake: FakeService, verb: str) -> None:
    assert run(verb, "--set", "s", "some-job").exit_code == 2
    assert run(verb, "--set", "s", "--dir", ".").exit_code == 2
    assert run(verb, "--set", "").exit_code == 2
    assert not fake.requests
    assert run(verb, "--set", "unknown").exit_code == 4
    assert run(verb, "--set", "..").exit_code == 4


def test_held_jobs_of_a_set_are_mentioned(run: Run, fake: FakeService, jobs: list[str]) -> None:
    for job in jobs[:2]:
        run("hold", job)
    done = run("wait", "--set", "s / 1", "--timeout", "0")
    assert done.stderr.startswith("2 of 3 jobs are held and will wait until released")
    assert "3 of 3 jobs have not ended after 0 s; 2 of them held" in done.stderr
    noted, over = map(
        json.loads, run("wait", "--set", "s / 1", "--timeout", "0", "--json").stderr.splitlines()
    )
    assert "2 of 3 jobs are held" in noted["note"] and "held" in over["detail"]


def test_waiting_for_a_set(run: Run, fake: FakeService, jobs: list[str]) -> None:
    assert run("wait", "--set", "s / 1", "--timeout", "1s").exit_code == 1
    for job in jobs:
        fake.end(job)
    done = run("wait", "--set", "s / 1")
    assert (done.exit_code, done.output.split("\t")[:2]) == (0, ["s / 1", "3"])
    fake.end(jobs[1], "failed")
    failed = run("wait", "--set", "s / 1", "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["jobs"] == {"completed": 2, "failed": 1}


def test_fetching_what_there_is_of_a_set(run: Run, fake: FakeService, jobs: list[str]) -> None:
    fake.end(jobs[0], "canceled")
    fake.end(jobs[1], "completed")
    done = run("get", "--set", "s / 1", "--to", "results", "--json")
    assert done.exit_code == 1
    live, missing = map(json.loads, done.stderr.splitlines())
    assert "1 of 3 jobs have not ended" in live["detail"]
    # The stand-in's jobs leave no results, which a completed one must have.
    assert jobs[1] in missing["detail"]
    (fetched,) = json.loads(done.stdout)
    assert (fetched["job"], fetched["folder"]) == (jobs[0], f"results/{jobs[0]}")


def test_pruning_a_set_deletes_every_bucket(run: Run, fake: FakeService, jobs: list[str]) -> None:
    for job in jobs[:2]:
        fake.end(job)
    assert run("prune", "--set", "s / 1").output == "2 jobs of set 's / 1' pruned\n"
    assert [bool(fake.jobs[job].get("pruned_at")) for job in jobs] == [True, True, False]
    assert run("prune", "--set", "s / 1").output == (
        "0 jobs of set 's / 1' pruned: none has ended whose data is still there\n"
    )
    assert run("get", "--set", "s / 1").exit_code == 1  # one has not ended
    fake.end(jobs[2])
    assert run("prune", "--set", "s / 1").output == "1 job of set 's / 1' pruned\n"
    assert run("get", "--set", "s / 1").exit_code == 4


def test_pruning_that_was_broken_off_is_finished_by_the_next(
    run: Run, fake: FakeService, jobs: list[str]
) -> None:
    for job in jobs:
        fake.end(job)
    fake.jobs[jobs[0]]["prune_requested_at"] = "2026-01-31T12:00:00.000Z"
    assert json.loads(run("prune", "--set", "s / 1", "--json").stdout)["changed"] == 3
    assert all(fake.jobs[job]["pruned_at"] for job in jobs)


def test_retry_of_single_jobs(run: Run, fake: FakeService, jobs: list[str]) -> None:
    fake.end(jobs[0], "failed")
    assert run("retry", jobs[1], jobs[0]).exit_code == 2
    assert fake.jobs[jobs[0]]["state"] == "received"


def test_explain_is_a_sentence(run: Run, jobs: list[str]) -> None:
    assert run("explain", jobs[0]).output == "2 jobs of bob are ahead.\n"
    assert run("explain", "--dir", "m1").output == "2 jobs of bob are ahead.\n"
    assert run("explain", *jobs[:2]).output.splitlines() == [
        f"{job}\t2 jobs of bob are ahead." for job in jobs[:2]
    ]
    assert json.loads(run("explain", jobs[0], "--json").stdout) == {
        "job": jobs[0],
        "explanation": "2 jobs of bob are ahead.",
        "ahead": 2,
        "details": {"bob": 2},
    }
    assert run("explain", "unknown").exit_code == 4


def test_attempts(run: Run, fake: FakeService, jobs: list[str]) -> None:
    fake.attempts[jobs[0]] = [
        {
            "number": 1,
            "state": "ended",
            "node": "n1",
            "claimed_at": "2026-01-31T12:00:00.000Z",
            "started_at": "2026-01-31T12:00:00.000Z",
            "ended_at": "2026-01-31T12:05:00.000Z",
            "exit_code": 137,
            "cause": "oom",
            "reason": "out of memory",
        },
        {"number": 2, "state": "claimed", "claimed_at": "2026-01-31T12:06:00.000Z"},
    ]
    first, second = (line.split("\t") for line in run("attempts", jobs[0]).output.splitlines())
    assert first[:4] == [jobs[0], "1", "ended", "n1"]
    assert first[5:] == ["5 min", "137", "oom", "out of memory"]
    assert second[1:4] + second[5:] == ["2", "claimed", "", "", "", "", ""]
    assert run("attempts", jobs[1]).output == ""
    (shown,) = json.loads(run("attempts", jobs[0], "--json").stdout)
    assert [item["cause"] for item in shown["attempts"]] == ["oom", None]


def test_explain_of_a_set(run: Run, jobs: list[str]) -> None:
    assert run("explain", "--set", "s / 1").output == "Of 3 jobs 3 are received.\n"
    assert json.loads(run("explain", "--set", "s / 1", "--json").stdout) == {
        "set": "s / 1",
        "explanation": "Of 3 jobs 3 are received.",
        "ahead": 2,
        "details": {"bob": 2},
    }


def test_attempts_of_a_set(run: Run, fake: FakeService, jobs: list[str]) -> None:
    started = {"state": "ended", "claimed_at": "2026-01-31T12:00:00.000Z"}
    fake.attempts[jobs[0]] = [started | {"number": 1}]
    fake.attempts[jobs[2]] = [started | {"number": 1}, started | {"number": 2}]
    lines = [line.split("\t") for line in run("attempts", "--set", "s / 1").output.splitlines()]
    assert [line[:2] for line in lines] == [[jobs[2], "1"], [jobs[2], "2"], [jobs[0], "1"]]
    shown = json.loads(run("attempts", "--set", "s / 1", "--json").stdout)
    assert [(one["job"], len(one["attempts"])) for one in shown] == [(jobs[2], 2), (jobs[0], 1)]


def test_usage_of_the_group_is_one_line_a_month(run: Run) -> None:
    assert run("usage", "--group").output == "2026-01\t3\t1.50\t0.00\n"
    (line,) = json.loads(run("usage", "--group", "--json").stdout)
    assert "user" not in line


def test_sets_are_read_page_by_page(run: Run, fake: FakeService, jobs: list[str]) -> None:
    for number, job in enumerate(jobs):
        fake.jobs[job]["set"] = f"s{number}"
    fake.page = 2
    lines = run("sets").output.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["s0", "s1", "s2"]


def test_no_usage_is_said(run: Run, fake: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "at_terminal", lambda: True)
    fake.script("GET", "/v1/usage", 200, {"usage": []})
    assert run("usage").output == "Nothing was used yet.\n"


def test_usage_is_in_core_hours(run: Run) -> None:
    assert run("usage").output == "2026-01\tada\t3\t1.50\t0.00\n"
    (line,) = json.loads(run("usage", "--json").stdout)
    assert line["core_seconds"] == 5400.0


def test_more_memory_after_an_oom_is_asked_for(run: Run, fake: FakeService) -> None:
    Path("water").mkdir()
    (Path("water") / "in").write_text("x")
    done = run("submit", "--dir", "water", "--oom-retry", "8GiB", "a:1", "--", "true")
    assert fake.jobs[done.output.strip()]["oom_retry_mb"] == 8192
