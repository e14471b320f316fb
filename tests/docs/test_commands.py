"""Every command block of README and docs is run, in order, against a real service.

A block is fenced as ``console`` (lines with ``$`` are commands, the others what
they print) or ``python``. A word behind ``console`` says that a block needs more:

    make     the targets exist; they are not run from within the tests
    docker   leruli   run where that is there
    root     site     not run: they need root, or a place of one's own
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.embedded import EmbeddedS3
from tests.support import leruli
from tests.support.poll import free_port
from tests.support.service import running

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
MARKS = {"", "make", "docker", "leruli", "root", "site"}

_BLOCK = re.compile(r"^```([a-z]+)(?: ([a-z]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its mark and its text."""

    language: str
    mark: str
    text: str


def _blocks(page: Path) -> list[Block]:
    return [Block(*(part or "" for part in found)) for found in _BLOCK.findall(page.read_text())]


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    """Commands and what they are said to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


def _runnable() -> Iterator[object]:
    for page in PAGES:
        marks = {block.mark for block in _blocks(page) if block.language in {"console", "python"}}
        if "" in marks:
            yield pytest.param(page, "", id=page.name)
        for mark in sorted(marks & {"docker", "leruli"}):
            yield pytest.param(page, mark, id=f"{page.name}-{mark}", marks=pytest.mark.needs(mark))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_marked_in_known_ways(page: Path) -> None:
    assert {block.mark for block in _blocks(page)} <= MARKS
    fences = re.findall(r"^```", page.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(_blocks(page))


def test_make_targets_exist() -> None:
    for page in PAGES:
        for block in _blocks(page):
            for command, _ in _commands(block) if block.mark == "make" else ():
                subprocess.run(
                    [*command.split(), "--dry-run"],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                    timeout=60,
                )


@pytest.mark.parametrize(("page", "extra"), list(_runnable()))
def test_commands(page: Path, extra: str, tmp_path: Path) -> None:
    blocks = [
        block
        for block in _blocks(page)
        if block.language in {"console", "python"} and block.mark in {"", extra}
    ]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    storage_bind = f"127.0.0.1:{free_port()}"
    ports = (f"127.0.0.1:{free_port()}", storage_bind)
    if any("nomad-bridge init" in block.text for block in blocks):
        try:
            _run(blocks, tmp_path, ports)
        finally:
            EmbeddedS3(tmp_path / "my-bridge" / "s3", storage_bind).stop()
            if extra == "docker":  # the name that the page gives to an image
                subprocess.run(["docker", "rmi", "chem:1"], check=False, capture_output=True)
    else:
        (tmp_path / "molecules").symlink_to(tmp_path / "copy")
        subprocess.run(["cp", "-r", ROOT / "examples/molecules", tmp_path / "copy"], check=True)
        with running(tmp_path / "my-bridge", "--runtime", "process"):
            _run(blocks, tmp_path, ports)


def _run(blocks: list[Block], home: Path, ports: tuple[str, str]) -> None:
    script, expected = _script(blocks, home, *ports)
    env = {
        "PATH": f"{_programs(home)}:{leruli.PROGRAM.parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for number, printed in expected.items():
        for line in printed.splitlines():
            assert line in (home / f"printed.{number}").read_text(), line


def _script(blocks: list[Block], home: Path, bind: str, s3_bind: str) -> tuple[str, dict[int, str]]:
    # -x: when a command fails, the report says which.
    lines = ["set -euxo pipefail", "trap 'kill $(jobs -p) || :; wait' EXIT"]
    expected: dict[int, str] = {}
    for block in blocks:
        for command, printed in _commands(block) if block.language == "console" else ():
            own = command.replace("127.0.0.1:8080", bind).replace(
                "init my-bridge", f"init my-bridge --bind {bind} --s3-bind {s3_bind}"
            )
            # In this shell, not one of its own: `cd` and `export` must last.
            end = "" if own.endswith("&") else ";"
            lines.append(f"{{ {own}{end} }} > {home}/printed.{len(expected)}")
            expected[len(expected)] = printed
    python = "\n".join(block.text for block in blocks if block.language == "python")
    if python:
        (home / "page.py").write_text(python)
        credentials = home / "my-bridge" / "credentials.env"
        lines.append(f"cd {home} && BRIDGE_CREDENTIALS={credentials} python page.py")
    return "\n".join(lines), expected


def _programs(home: Path) -> Path:
    """A folder with the programs that an installation brings."""
    programs = home / ".programs"
    programs.mkdir()
    for name, start in {
        "nomad-bridge": f"{sys.executable} -m bridge.cli.main",
        "python": f"{sys.executable} -W error",
        "rclone": str(Path(sys.executable).with_name("rclone")),
    }.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        program.chmod(0o755)
    return programs
