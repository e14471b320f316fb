from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.client.whole_file import whole_file
from bridge.errors import FolderError


def _write(
    path: Path, data: bytes, *, replace: bool = False, meanwhile: Callable[[], object]
) -> None:
    with whole_file(path, replace=replace) as file:
        file.write(data)
        meanwhile()


def _nothing() -> None:
    """Nothing happens while the file is written."""


def _breaks_off() -> None:
    raise RuntimeError


def test_it_is_for_its_owner_and_overwrites_nothing(tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar"
    _write(target, b"one", meanwhile=lambda: pytest.fail("too early") if target.exists() else None)
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FolderError, match="exists"):
        _write(target, b"two", meanwhile=lambda: pytest.fail("it was begun"))
    _write(target, b"three", replace=True, meanwhile=_nothing)
    with pytest.raises(RuntimeError):
        _write(target, b"half", replace=True, meanwhile=_breaks_off)
    assert target.read_bytes() == b"three"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "bundle.tar"
    with pytest.raises(FolderError, match="exists"):
        _write(target, b"mine", meanwhile=lambda: target.write_text("theirs"))
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is a folder"):
        _write(tmp_path, b"", replace=True, meanwhile=_nothing)
    with pytest.raises(FolderError, match="cannot be made"):
        _write(tmp_path / "nothing" / "bundle.tar", b"", meanwhile=_nothing)
