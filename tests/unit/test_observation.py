"""What schedulers say is made to fit the database, whatever it is."""

from __future__ import annotations

import pytest
from sqlalchemy import String

from bridge.db.tables import attempts, jobs
from bridge.models.attempt import LONGEST_NODE, Observation, Observed


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("killed", "killed"),
        ("é 日本 😀 \x1b[0m", "é 日本 😀 \x1b[0m"),
        ("a\0b", "a\ufffdb"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
    ],
)
def test_words(said: str, kept: str) -> None:
    seen = Observation(state=Observed.ENDED, reason=said, node=said)
    assert (seen.reason, seen.node) == (kept, kept)
    assert kept.encode()


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        (0, 0),
        (-11, -11),
        (137, 137),
        (2**31 - 1, 2**31 - 1),
        (0xC0000005, 2**31 - 1),  # of a program on Windows
        (-(2**40), -(2**31)),
    ],
)
def test_exit_codes(code: int, kept: int) -> None:
    assert Observation(state=Observed.ENDED, exit_code=code).exit_code == kept


def test_names_of_nodes() -> None:
    for table in (attempts, jobs):
        kind = table.c.node.type
        assert isinstance(kind, String) and kind.length == LONGEST_NODE
    assert Observation(state=Observed.RUNNING, node="n" * 300).node == "n" * LONGEST_NODE


def test_what_was_not_said_stays_unsaid() -> None:
    seen = Observation(state=Observed.PENDING)
    assert (seen.reason, seen.node, seen.exit_code) == (None, None, None)
