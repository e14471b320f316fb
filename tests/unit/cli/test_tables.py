from __future__ import annotations

from collections.abc import Callable

import pytest

from bridge.cli import tables

JOB = "01a22791-c2e1-78ae-b7fe-c2b63a9eb4c1"
SAID = "the program ended with exit code 3 after its machine was out of touch for a while"
Draw = Callable[..., list[str]]
RUNS = ("JOB", "RUN", "STATE", "NODE", "AGE", "TIME", "EXIT", "CAUSE", "DETAIL")
JOBS = ("JOB", "NAME", "SET", "USER", "STATE", "AGE", "DETAIL")


@pytest.fixture(name="drawn")
def _drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Draw:
    def draw(width: int, columns: tuple[str, ...], *rows: tuple[str, ...]) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        tables.draw(columns, rows, ["RUN"], lambda _: "")
        return capsys.readouterr().out.splitlines()

    return draw


def _run(detail: str, job: str = JOB) -> tuple[str, ...]:
    return (job, "1", "ended", "node-17", "23 min", "22 min", "137", "node_lost", detail)


@pytest.mark.parametrize("width", [80, 100])
def test_a_sentence_without_room_stands_below_its_row(drawn: Draw, width: int) -> None:
    header, row, *said, other = drawn(width, RUNS, _run(SAID), _run(""))
    assert header.split() == list(RUNS[:-1])
    assert row.split("  ")[0] == JOB and row.endswith("137   node_lost")
    assert all(line.startswith("    ") and len(line.rstrip()) <= width for line in said)
    assert " ".join(" ".join(said).split()) == SAID
    assert other == row


def test_a_sentence_is_wrapped_in_its_column_or_whole_if_there_is_room(drawn: Draw) -> None:
    lines = drawn(130, RUNS, _run(SAID))
    at = lines[0].index("DETAIL")
    assert " ".join(line[at:].strip() for line in lines[1:]) == SAID
    assert len(drawn(200, RUNS, _run(SAID))) == 2


@pytest.mark.parametrize("width", [80, 120, 200])
def test_names_are_cut_where_they_leave_no_room_ids_never(drawn: Draw, width: int) -> None:
    name = "methane-in-a-box-of-water-0017"
    row = (JOB, name, "dft 2", "ada", "completed", "5 min", "")
    header, shown = drawn(width, JOBS, row)
    assert len(header) <= width and len(shown) <= width
    assert shown.startswith(f"{JOB}  ")
    assert "dft 2  ada   completed  5 min" in shown
    if width == 80:
        cut = shown.split()[1]
        assert "…" in cut and cut.startswith("meth") and cut.endswith("017")
    else:
        assert name in shown


def test_numbers_stand_to_the_right(drawn: Draw) -> None:
    assert drawn(80, ("RUN", "STATE"), ("1", "ended"), ("1000", "x")) == [
        " RUN  STATE",
        "   1  ended",
        "1000  x",
    ]
