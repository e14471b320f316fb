from __future__ import annotations

from pathlib import Path

import pytest

from bridge.cli import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == reference.markdown(), "run `python -m bridge.cli.reference`"


def test_it_is_written_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(reference, "_ROOT", tmp_path)
    reference.write()
    assert (tmp_path / "docs" / "cli.md").read_text("utf-8") == reference.markdown()
