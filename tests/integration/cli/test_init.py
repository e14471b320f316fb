from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import initialise
from bridge.cli.main import cli
from bridge.client.credentials import read_file
from bridge.embedded import EmbeddedS3
from tests.support.poll import eventually, free_port

Run = Callable[..., Result]


@pytest.fixture(name="init")
def _init(tmp_path: Path) -> Run:
    def init(*more: str, folder: Path = tmp_path / "svc") -> Result:
        return CliRunner().invoke(
            cli,
            [
                *("init", str(folder), "--group", "lab", "--admin", "grace", "--user", "ada"),
                *("--bind", f"127.0.0.1:{free_port()}"),
                *("--s3-bind", f"127.0.0.1:{free_port()}", "--runtime", "process", *more),
            ],
            catch_exceptions=False,
        )

    return init


def test_everything_is_there_and_private(init: Run, tmp_path: Path) -> None:
    assert init().exit_code == 0
    home = tmp_path / "svc"
    known = read_file(home / "credentials.env")
    assert list(known)[:8] == [
        "BRIDGE_URL",
        "BRIDGE_GROUP_TOKEN",
        "BRIDGE_API_SECRET",
        "BRIDGE_ADMIN_SECRET",
        "BRIDGE_COMPUTE_SECRET",
        "BRIDGE_S3_SERVER",
        "BRIDGE_S3_ACCESS",
        "BRIDGE_S3_SECRET",
    ]
    assert known["LERULI_API_SECRET"] == known["BRIDGE_API_SECRET"]
    assert known["LERULI_BASEURL"] == known["BRIDGE_URL"]
    assert known["BRIDGE_API_SECRET"] != known["BRIDGE_ADMIN_SECRET"]
    assert all(known.values())
    store = read_file(home / "node" / "etc" / "s3.conf")
    assert store == {
        "S3_SERVER": known["BRIDGE_S3_SERVER"],
        "S3_ACCESS": known["BRIDGE_S3_ACCESS"],
        "S3_SECRET": known["BRIDGE_S3_SECRET"],
    }
    for secret in (home / "credentials.env", home / "node" / "etc" / "s3.conf"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (home / "s3" / "buckets" / f"code-{known['BRIDGE_GROUP_TOKEN']}").is_dir()
    # It went to its place whole, and nothing was left running.
    assert [path.name for path in tmp_path.iterdir()] == ["svc"]
    assert not (home / "s3" / "server.pid").exists()


def test_it_never_overwrites(init: Run, tmp_path: Path) -> None:
    assert init().exit_code == 0
    before = (tmp_path / "svc" / "credentials.env").read_bytes()
    done = init()
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "svc" / "credentials.env").read_bytes() == before


def test_an_empty_folder_will_do(init: Run, tmp_path: Path) -> None:
    (tmp_path / "svc").mkdir()
    assert init().exit_code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bind", "0.0.0.0:1"], "local.runtime"),
        (["--bind", "nonsense"], "server.bind"),
        (["--s3-bind", "x"], "storage.bind"),
        (["--group", "../x"], "group"),
        (["--user", "grace"], "grace"),
        (["--runtime", "vm"], "--runtime"),
    ],
)
def test_bad_options_leave_nothing(
    init: Run, tmp_path: Path, options: list[str], words: str
) -> None:
    done = init(*options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert ".svc." not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_leaves_nothing(init: Run, tmp_path: Path) -> None:
    home = tmp_path / "other"
    other = EmbeddedS3(home, f"127.0.0.1:{free_port()}")
    other.start()
    try:
        done = init("--s3-bind", other.server.removeprefix("http://"))
    finally:
        other.stop()
    assert done.exit_code == 2
    assert "--s3-bind" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_file_in_the_way(init: Run, tmp_path: Path) -> None:
    (tmp_path / "svc").write_text("")
    assert init().exit_code == 2
    assert init(folder=tmp_path / "svc" / "below").exit_code == 2


def test_runtime_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert initialise.best_runtime() == "process"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    assert initialise.best_runtime() == "process"
    program.write_text("#!/bin/sh\necho 27.1\n")
    assert initialise.best_runtime() == "docker"


def test_groups_and_lost_secrets_on_the_host(init: Run, tmp_path: Path) -> None:
    assert init().exit_code == 0
    config = str(tmp_path / "svc" / "config.yaml")

    def run(*words: str) -> Result:
        return CliRunner().invoke(cli, [*words, "--config", config], catch_exceptions=False)

    made = json.loads(run("groups", "add", "physics", "--admin", "marie", "--json").stdout)
    assert made["admin_secret"].startswith("nbapi_")
    assert made["code_bucket"] == f"code-{made['group_token']}"
    assert run("groups", "add", "physics", "--admin", "marie").exit_code == 2
    assert run("groups", "add", "x", "--admin", "y", "--connector", "slurm").exit_code == 2
    moved = run("groups", "move", "physics", "--connector", "local")
    assert (moved.exit_code, "namespace g-physics" in moved.stderr) == (0, True)
    assert run("groups", "move", "nobody", "--connector", "local").exit_code == 4
    assert run("groups", "move", "physics", "--connector", "slurm").exit_code == 2
    listed = json.loads(run("groups", "list", "--json").stdout)
    assert {row["name"]: row["compute_secret"] for row in listed} == {"lab": True, "physics": False}
    reset = run("users", "reset-secret", "--group", "physics", "marie").output.strip()
    assert reset.startswith("nbapi_")
    assert reset != made["admin_secret"]
    assert run("users", "reset-secret", "--group", "physics", "nobody").exit_code == 4


def test_serve_without_a_configuration_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["serve", "--config", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2
    assert "none.yaml" in done.stderr


def test_bind_flag_wins_over_the_file(init: Run, tmp_path: Path) -> None:
    assert init().exit_code == 0
    bind = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    config = ("--config", str(tmp_path / "svc" / "config.yaml"))
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli.main", "serve", "--bind", bind, *config],
            cwd=Path(__file__).resolve().parents[3],
            stdout=output,
            stderr=output,
        )
    try:
        eventually(lambda: f"Listening on http://{bind}" in log.read_text(), timeout=30)
    finally:
        child.terminate()
        code = child.wait(timeout=30)
        store = read_file(tmp_path / "svc" / "credentials.env")["BRIDGE_S3_SERVER"]
        EmbeddedS3(tmp_path / "svc" / "s3", store.removeprefix("http://")).stop()
    assert code == 0
