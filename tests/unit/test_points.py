"""The named places of ``bridge/points.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

import bridge
from bridge import points
from bridge.points import Point


def test_nothing_happens_without_a_hook() -> None:
    points.reach(Point.SUBMIT_COMMITTED)


def test_a_hook_hears_of_each_until_the_end() -> None:
    heard: list[Point] = []
    with points.install(heard.append):
        points.reach(Point.CLAIM_COMMITTED)
        with points.install(lambda _: None):
            points.reach(Point.RECORD_COMMITTED)
        points.reach(Point.STOP_SENT)
    points.reach(Point.STOP_CALLED)
    assert heard == [Point.CLAIM_COMMITTED, Point.STOP_SENT]


@pytest.mark.parametrize("point", Point)
def test_each_is_somewhere_in_the_rules(point: Point) -> None:
    sources = (Path(bridge.__file__).parent / "core").glob("*.py")
    assert any(f"Point.{point.name}" in source.read_text() for source in sources)
