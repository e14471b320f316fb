"""How the connector is told that something happened."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.connectors.local.bell import Bell, ring
from bridge.connectors.local.steps import Mark
from tests.support.local import LocalNode
from tests.support.poll import eventually


@contextlib.contextmanager
def watched(node: LocalNode) -> Iterator[list[str | None]]:
    """What the connector tells until the end."""
    told: list[str | None] = []
    stopped = threading.Event()
    watcher = threading.Thread(target=node.connector.watch, args=(list, told.append, stopped))
    watcher.start()
    try:
        eventually(lambda: None in told)  # it listens
        yield told
    finally:
        stopped.set()
        watcher.join(timeout=10)
    assert not watcher.is_alive()


def test_the_start_and_the_end_of_a_program_are_told(node: LocalNode) -> None:
    with watched(node) as told:
        handle = node.submit("true")
        eventually(lambda: told.count(handle.native_id) == 2)
        assert node.step(handle, Mark.DONE)


def test_a_killed_supervisor_is_not_overlooked(node: LocalNode) -> None:
    with watched(node) as told:
        handle = node.submit("sleep 600")
        eventually(lambda: handle.native_id in told)
        os.kill(node.step(handle, Mark.SUPERVISED).pid or 0, signal.SIGKILL)
        told.clear()
        eventually(lambda: None in told)


def test_where_nobody_can_listen_everything_is_looked_at(node: LocalNode) -> None:
    (node.data_dir / "bell").mkdir(parents=True)
    with watched(node) as told:
        node.wait(node.submit("true"))
        told.clear()
        eventually(lambda: None in told)


def test_a_bell_tells_in_order_and_once(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    with Bell(path) as bell:
        for name in ("a-1", "b-1", "a-1"):
            ring(path, name)
        assert bell.heard(5) == ["a-1", "b-1", "a-1"]
        assert bell.heard(0) == []


@pytest.mark.parametrize("made", [False, True])
def test_ringing_when_nobody_listens_does_nothing(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "bell"
    if made:
        os.mkfifo(path)
    ring(path, "a-1")
    assert path.exists() is made


def test_ringing_does_not_wait_for_a_listener_that_sleeps(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    with Bell(path) as bell:
        for _ in range(20_000):
            ring(path, "a-1")
        assert set(bell.heard(5)) == {"a-1"}
