from __future__ import annotations

import json

import pytest

from tests.integration.cli.conftest import Run
from tests.support.s3 import S3


def test_setup_then_check(run: Run, s3: S3) -> None:
    done = run("storage", "setup")
    assert done.exit_code == 0, done.output
    assert "bucket code-abc\t" in done.output
    checked = run("storage", "check")
    assert checked.exit_code == 1
    assert "FAIL  no list of all buckets" in checked.output
    assert "ok    the bucket of the images" in checked.output
    trusting = run("storage", "check", "--allow-listing", "--json")
    assert trusting.exit_code == 0
    assert [one["what"] for one in json.loads(trusting.output) if not one["ok"]] == [
        "no list of all buckets"
    ]


def test_no_secret_is_printed(run: Run, s3: S3) -> None:
    for command in (("setup",), ("setup", "--json"), ("check",), ("check", "--json")):
        output = run("storage", *command).output
        assert s3.secret not in output
        assert s3.access not in output


def test_policy(run: Run) -> None:
    document = json.loads(run("storage", "setup", "--policy").output)
    assert "arn:aws:s3:::code-abc" in json.dumps(document)


def test_what_is_missing_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRIDGE_CREDENTIALS")
    assert "BRIDGE_GROUP_TOKEN" in run("storage", "setup").output
    assert "BRIDGE_S3_SERVER" in run("storage", "check").output
