"""Shell scripts: what shellcheck says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge import process

ROOT = Path(__file__).resolve().parents[2]
SHEBANGS = ("#!/bin/sh", "#!/usr/bin/env bash", "#!/bin/bash", "#!/usr/bin/env bats")
FOLDERS = (".ci", "bench", "examples", "node-setup", "nomad-jobs", "tests")


def _scripts() -> list[str]:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".py":
                with path.open("rb") as file:
                    first = file.readline(100).decode(errors="replace").strip()
                if first.startswith(SHEBANGS):
                    found.append(str(path.relative_to(ROOT)))
    return found


@pytest.mark.needs("shellcheck")
@pytest.mark.parametrize("script", _scripts())
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    done = process.run(["shellcheck", "-x", script], timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
