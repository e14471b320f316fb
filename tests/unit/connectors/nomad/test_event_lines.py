"""What the lines of the event stream mean, on a recorded stream and on made-up ones."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.nomad.event_lines import FROM_NOW, EventReader, Hints
from tests.unit.connectors.nomad import recorded

RECORDED = (recorded.FOLDER / "events.ndjson").read_bytes()
BEAT = b"{}\n"


def line(index: int, *jobs: str, topic: str = "Allocation", status: str = "complete") -> bytes:
    payload = {"Evaluation": {"Status": status}} if topic == "Evaluation" else {"Allocation": {}}
    events = [{"Topic": topic, "FilterKeys": [job, ""], "Payload": payload} for job in jobs]
    return json.dumps({"Index": index, "Events": events}).encode() + b"\n"


def opened(prefix: str = "bridge-x-") -> EventReader:
    reader = EventReader(prefix)
    reader.opened()
    return reader


def settled(index: int) -> EventReader:
    """A reader that has seen ``index`` and is connected again."""
    reader = opened()
    reader.feed(BEAT + line(index, "bridge-x-1"))
    reader.opened()
    return reader


def test_recorded_stream_names_each_job_once() -> None:
    first, _, second = RECORDED.partition(b"\n{}\n")
    reader = opened("case-")
    hints = reader.feed(first + b"\n")
    assert hints.native_ids == ("case-exit3-877298", "case-cancel-cac628", "case-oom-ce1872")
    assert reader.resume_from == 69
    # The second slice is of nodes only.
    assert reader.feed(BEAT + second).native_ids == ()
    assert reader.resume_from == 198


def test_jobs_of_others_are_left_out() -> None:
    hints = opened().feed(BEAT + line(5, "bridge-y-1", "bridge-x-1", "other"))
    assert hints.native_ids == ("bridge-x-1",)


@pytest.mark.parametrize(("status", "told"), [("pending", ()), ("blocked", ("bridge-x-1",))])
def test_an_evaluation_tells_when_it_is_made(status: str, told: tuple[str, ...]) -> None:
    seen = opened().feed(BEAT + line(5, "bridge-x-1", topic="Evaluation", status=status))
    assert seen.native_ids == told


def test_it_begins_with_now_and_a_look_at_all() -> None:
    reader = opened()
    assert reader.resume_from == FROM_NOW
    assert not reader.accepted
    assert reader.feed(BEAT).missed is not None
    assert reader.accepted
    assert reader.feed(BEAT).missed is None


def test_the_last_line_again_proves_that_nothing_was_missed() -> None:
    reader = settled(7)
    assert reader.resume_from == 7
    assert reader.feed(BEAT) == Hints()
    assert reader.unproven
    assert reader.feed(line(7, "bridge-x-1") + line(9, "bridge-x-2")).missed is None
    assert not reader.unproven


@pytest.mark.parametrize("index", [3, 8])
def test_any_other_line_is_a_gap(index: int) -> None:
    """Smaller: Nomad's data was restored from an older snapshot."""
    reader = settled(7)
    hints = reader.feed(BEAT + line(index, "bridge-x-2"))
    assert hints.missed is not None and "7" in hints.missed
    assert hints.native_ids == ("bridge-x-2",)
    assert reader.resume_from == index


def test_no_line_before_the_second_heartbeat_is_a_gap() -> None:
    reader = settled(7)
    assert reader.feed(BEAT).missed is None
    assert reader.feed(BEAT).missed is not None
    assert reader.feed(BEAT).missed is None


def test_a_presumed_gap_is_told_once() -> None:
    reader = settled(7)
    reader.feed(BEAT)
    reader.presume_gap()
    assert not reader.unproven
    assert reader.feed(BEAT + line(9, "bridge-x-1")).missed is None


@pytest.mark.parametrize(
    "garbage", [b"<html>", b"[]", b'{"Index": "x"}', b"\xff", b'{"Events": 1}']
)
def test_an_unreadable_line_may_hide_anything(garbage: bytes) -> None:
    reader = settled(7)
    hints = reader.feed(BEAT + line(7) + garbage + b"\n" + line(8, "bridge-x-2"))
    assert hints.missed is not None and "cannot be read" in hints.missed
    assert hints.native_ids == ("bridge-x-2",)


def test_half_a_line_at_the_end_of_a_connection_is_forgotten() -> None:
    reader = opened()
    reader.feed(BEAT + line(5, "bridge-x-1") + b'{"Ind')
    reader.opened()
    assert reader.feed(BEAT + line(5, "bridge-x-1")).missed is None


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.connectors.nomad.event_lines._LONGEST_LINE", 100)
    with pytest.raises(ValueError, match="longer"):
        opened().feed(b"x" * 101)


@given(cuts=st.lists(st.integers(0, len(RECORDED)), max_size=30))
def test_cuts_between_reads_change_nothing(cuts: list[int]) -> None:
    whole, pieces = opened("case-"), opened("case-")
    edges = [0, *sorted(cuts), len(RECORDED)]
    told: list[str] = []
    for start, end in itertools.pairwise(edges):
        told += pieces.feed(RECORDED[start:end]).native_ids
    assert tuple(dict.fromkeys(told)) == whole.feed(RECORDED).native_ids
    assert pieces.resume_from == whole.resume_from
