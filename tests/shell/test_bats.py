"""Runs the bats files of this folder, so that bare pytest covers the shell too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bridge import process

HERE = Path(__file__).resolve().parent
_DEADLINE_S = 600


@pytest.mark.needs("bats")
@pytest.mark.parametrize("path", sorted(HERE.glob("*.bats")), ids=lambda path: path.name)
def test_bats(path: Path, rclone: str) -> None:
    folders = f"{Path(rclone).parent}{os.pathsep}{os.environ['PATH']}"
    env = process.clean_environment({"PATH": folders})
    done = process.run(["bats", path], timeout=_DEADLINE_S, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
