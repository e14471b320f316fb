"""Secrets stay where they belong: not in ``ps``, logs, errors, records or the job itself."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.buckets import archive, bucket_of, hand_in
from tests.support.poll import eventually
from tests.support.service import COMMAND, RunningService

NAMES = (
    "BRIDGE_API_SECRET",
    "BRIDGE_ADMIN_SECRET",
    "BRIDGE_COMPUTE_SECRET",
    "BRIDGE_S3_ACCESS",
    "BRIDGE_S3_SECRET",
)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that logs all it ever logs."""
    service = RunningService(tmp_path_factory.mktemp("secrets") / "home")
    service.init("--runtime", "process")
    service.configure(log={"level": "debug"})
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture
def secrets(talkative: RunningService) -> list[str]:
    known = talkative.credentials
    return [known[name] for name in NAMES]


def found(secrets: list[str], text: str) -> list[str]:
    """The first letters of those that stand in a text."""
    return [secret[:8] for secret in secrets if secret in text]


def command_lines() -> str:
    """What ``ps`` shows of every process."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace"))
        except OSError:
            continue  # it ended
    return "\n".join(lines)


def test_what_init_wrote_is_private(talkative: RunningService) -> None:
    home = talkative.home
    assert home.stat().st_mode & 0o777 == 0o700
    for name in ("credentials.env", "bridge.db", "node/etc/s3.conf", "s3/keys"):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name


def test_only_hashes_are_stored(talkative: RunningService, secrets: list[str]) -> None:
    files = list(talkative.home.glob("bridge.db*"))
    stored = b"".join(path.read_bytes() for path in files)
    assert files
    assert not [secret[:8] for secret in secrets if secret.encode() in stored]


def test_a_jobs_whole_life(talkative: RunningService, secrets: list[str], tmp_path: Path) -> None:
    """In no command line while it runs, in no log or record, and not in its own environment."""
    go = tmp_path / "go"
    script = f"env; cat /proc/self/cmdline; until [ -e {go} ]; do sleep 0.05; done"
    job = hand_in(talkative, archive([], script))[0]
    folder = bucket_of(talkative, job)
    lines = []

    def is_in(state: str) -> bool:
        lines.append(command_lines())
        return bool(talkative.get(f"/v1/jobs/{job}").body["state"] == state)

    eventually(lambda: is_in("running"), every=0.001, timeout=60)
    go.touch()
    eventually(lambda: is_in("completed"), every=0.001, timeout=60)
    seen = "".join(lines)
    assert "supervisor" in seen and "stage" in seen and "rclone" in seen
    assert found([*secrets, folder.name], seen) == []
    said = (folder / "joblog.txt").read_text()
    assert found([*secrets, folder.name], said) == []
    # It goes after the end, and must not go while we look.
    eventually(lambda: not list(talkative.home.glob("local/attempts/*/rundir")))
    for path in [*talkative.home.rglob("*.log"), *talkative.home.rglob("steps.jsonl")]:
        assert found([*secrets, folder.name], path.read_text(errors="replace")) == [], path
    for path in talkative.home.rglob("spec.json"):
        # It names the bucket, for the stage program, and only we can read it.
        assert found(secrets, path.read_text()) == []
        assert path.stat().st_mode & 0o077 == 0


def test_the_command_line_keeps_them_to_itself(
    talkative: RunningService, secrets: list[str], tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    lines = []
    for arguments in (("submit", "any:1", "--", "true"), ("wait",), ("get",), ("status",)):
        running = subprocess.Popen(
            [*COMMAND, "--credentials", talkative.home / "credentials.env", *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while running.poll() is None:
            lines.append(command_lines())
        said, _ = running.communicate()
        assert running.returncode == 0, said
        lines.append(said)
    bucket = (tmp_path / "leruli.bucket").read_text().strip()
    assert found([*secrets, bucket], "".join(lines)) == []


def test_errors_and_addresses(talkative: RunningService, secrets: list[str]) -> None:
    """Whatever is sent where it does not belong does not come back, nor into the log."""
    for secret in secrets:
        for path, body in (
            (f"/v1/jobs?secret={secret}", None),
            (f"/v1/jobs/{secret}", None),
            (f"/{secret}", None),
            ("/v1/jobs", {"bucket_id": secret, "image": secret, secret: secret}),
            ("/v1/users", {"name": [secret]}),
            ("/v22_1/task-submit", {"secret": secret, "bucketid": secret}),
            (f"/v22_1/task-status?secret={secret}", {"secret": secret, "jobid": secret}),
            ("/v22_1/group-create-user", {"adminsecret": secret, "name": [secret]}),
        ):
            for bearer in (secrets[0], secret, f"{secret} {secret}"):
                request = urllib.request.Request(
                    talkative.url + path,
                    data=None if body is None else json.dumps(body).encode(),
                    headers={"Authorization": f"Bearer {bearer}"},
                )
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(request, timeout=30)
                with refused.value as answer:
                    text = answer.read().decode() + str(answer.headers)
                assert 400 <= answer.code < 500, (path, answer.code)
                assert found(secrets, text) == [], (path, text)
    assert found(secrets, (talkative.home / "serve.log").read_text()) == []
