from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import process
from tests.support.poll import eventually

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-m", "bridge.cli.main", "demo"]


@pytest.fixture(name="env")
def _env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment of its own, with a folder for temporary files that must end empty."""
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    yield process.clean_environment({"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)})
    assert list(scratch.iterdir()) == []
    eventually(lambda: not _running_below(tmp_path), timeout=30)


def _running_below(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "pytest" not in line.split(str(folder))[0]:
            found.append(line)
    return found


def test_twice_in_a_row_in_time(env: dict[str, str], tmp_path: Path) -> None:
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(
            COMMAND, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - began < 60
        table = done.stdout.split("MOLECULE")[1]
        assert "9.1950" in next(line for line in table.splitlines() if line.startswith("water"))
        assert sum(line[0:1].islower() for line in table.splitlines()) == 12


def test_kept_in_a_folder(env: dict[str, str], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    subprocess.run(
        [*COMMAND, "--dir", str(kept)],
        env=env,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=180,
    )
    assert (kept / "results" / "water" / "energy.txt").read_text() == "9.194969\n"
    again = subprocess.run(
        [*COMMAND, "--dir", str(kept)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert again.returncode == 2
    assert "is not empty" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["Starting", "received"])
def test_interrupted_it_leaves_nothing(
    env: dict[str, str], tmp_path: Path, number: int, moment: str
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            COMMAND,
            env=env | {"PYTHONUNBUFFERED": "1"},
            cwd=tmp_path,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    eventually(lambda: moment in log.read_text(), timeout=60)
    os.kill(child.pid, number)
    assert child.wait(timeout=60) in {130, 143}, log.read_text()
