"""Logs: one line per event, and no secret in any of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from bridge import log
from bridge.models.secret import SecretKind, new_secret


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(log, "_values", set())
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.getLogger("bridge").setLevel(logging.NOTSET)
    logging.captureWarnings(False)


def test_a_line_has_time_level_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    log.get("bridge.core.feeder").info("action=submit job=%s", 7)
    line = capsys.readouterr().err
    assert line.endswith("Z INFO bridge.core.feeder action=submit job=7\n")


def test_the_level_counts_for_us_and_warnings_for_libraries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.setup("debug")
    log.get("bridge.x").debug("ours")
    log.get("urllib3").info("theirs")
    log.get("urllib3").warning("serious")
    text = capsys.readouterr().err
    assert "ours" in text
    assert "theirs" not in text
    assert "serious" in text


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("kind", list(SecretKind))
def test_our_secrets_are_cut_out_wherever_they_stand(
    capsys: pytest.CaptureFixture[str], as_json: bool, kind: SecretKind
) -> None:
    secret = new_secret(kind)
    log.setup("info", json=as_json)
    log.get("bridge").info("secret=%s", secret)
    try:
        int(secret)  # the error repeats its argument
    except ValueError:
        log.get("bridge").exception("failed")
    text = capsys.readouterr().err
    assert text.count("[redacted]") >= 2
    assert secret not in text


@pytest.mark.parametrize("as_json", [False, True])
def test_registered_values_are_cut_out(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    log.redact('a"key\\with signs')
    log.redact('a"key\\with signs and more')
    log.setup("info", json=as_json)
    log.get("bridge").info('one=a"key\\with signs two=a"key\\with signs and more.')
    text = capsys.readouterr().err
    assert "one=[redacted] two=[redacted]." in text


def test_short_values_do_not_black_out_words() -> None:
    log.redact("")
    log.redact("a")
    assert log.redacted("a cat") == "a cat"


def test_a_line_break_in_a_text_fakes_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    log.get("bridge").info("name=%s", "x\n2026-01-01T00:00:00.000Z INFO bridge fake\r")
    assert capsys.readouterr().err.count("\n") == 1


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info", json=True)
    log.get("bridge.db").warning("action=%s", "é\nx")
    entry = json.loads(capsys.readouterr().err)
    assert entry["message"] == "action=é\nx"
    assert (entry["level"], entry["logger"]) == ("warning", "bridge.db")


def test_setup_again_replaces(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup("info")
    log.setup("error")
    log.get("bridge").info("quiet")
    log.get("bridge").error("loud")
    assert capsys.readouterr().err.count("\n") == 1
