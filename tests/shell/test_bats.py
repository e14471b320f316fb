"""Runs the bats files of this folder, so that bare pytest covers the shell too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge import process

HERE = Path(__file__).resolve().parent
_DEADLINE_S = 600
_BATS = ("bats",)
# What else a file needs: where it is missing, its own tests skip, which nobody sees here.
_NEEDS = {"image.bats": ("bats", "docker")}
_PASSED_ON = ("DOCKER_HOST", "XDG_RUNTIME_DIR")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=pytest.mark.needs(*_NEEDS.get(path.name, _BATS)))
        for path in sorted(HERE.glob("*.bats"))
    ],
)
def test_bats(path: Path, rclone: str) -> None:
    extra = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    extra["PATH"] = f"{Path(rclone).parent}{os.pathsep}{os.environ['PATH']}"
    env = process.clean_environment(extra)
    done = process.run(["bats", path], timeout=_DEADLINE_S, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
