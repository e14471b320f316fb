"""Whole services, real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import RunningService, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service on the process runtime with its embedded storage."""
    with running(tmp_path_factory.mktemp("service") / "home", "--runtime", "process") as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder."""
    made = tmp_path / "job"
    made.mkdir()
    (made / "in.txt").write_text("hello\n")
    return made
