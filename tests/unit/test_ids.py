"""Ids: unique, in time order, and dated."""

from __future__ import annotations

import time

import msgspec
import pytest

from bridge.models.ids import made_at, new_id, new_ids, of_bytes, of_text


def test_every_one_is_larger_than_those_before() -> None:
    made = [new_id(), *new_ids(5000), new_id(), *new_ids(3), new_id()]
    assert made == sorted(set(made))


def test_are_uuids_of_version_7() -> None:
    assert {(one.version, one.variant) for one in new_ids(100)} == {(7, "specified in RFC 4122")}


def test_say_when_they_were_made() -> None:
    assert made_at(new_id()) == pytest.approx(time.time(), abs=5)


def test_none() -> None:
    assert new_ids(0) == []


def test_come_back_from_what_is_stored() -> None:
    one = new_id()
    assert of_bytes(one.bytes) == one
    assert of_bytes(one.bytes).version == 7
    for stored in (b"", one.bytes[1:], one.bytes + b"0"):
        with pytest.raises(msgspec.MsgspecError):
            of_bytes(stored)


def test_come_back_from_how_they_are_written() -> None:
    one = new_id()
    assert of_text(str(one)) == one
    for text in ("", "a", str(one)[1:], f"{one}0", f"g{str(one)[1:]}"):
        with pytest.raises((msgspec.MsgspecError, ValueError)):
            of_text(text)
