"""What is generated from the table of settings is up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge import config_docs
from bridge.config import SETTINGS, load

ROOT = Path(__file__).resolve().parents[2]
_UPDATE = "run `make docs`"


def test_the_example_is_up_to_date() -> None:
    assert (ROOT / "config.example.yaml").read_text("utf-8") == config_docs.example_yaml(), _UPDATE


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert page == config_docs.markdown(), _UPDATE


def test_every_setting_is_in_both() -> None:
    for setting in SETTINGS:
        assert f"#{setting.key}: " in config_docs.example_yaml()
        assert f"`{setting.env}`" in config_docs.markdown()


def test_the_example_says_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_docs.example_yaml(), "utf-8")
    as_it_is = load(path, {})
    lines = config_docs.example_yaml().splitlines()
    shown = [line.replace("#", "", 1) if _is_setting(line) else line for line in lines]
    path.write_text("\n".join(shown), "utf-8")
    assert load(path, {}) == as_it_is


def _is_setting(line: str) -> bool:
    return line.lstrip().startswith("#") and not line.lstrip().startswith(("# ", "#\n"))


def test_both_are_written_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_docs, "_ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    config_docs.write()
    assert (tmp_path / "config.example.yaml").read_text() == config_docs.example_yaml()
    assert (tmp_path / "docs" / "configuration.md").read_text() == config_docs.markdown()
