"""The event stream followed through everything that can happen to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.connectors.base import Watch
from bridge.connectors.nomad import events
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.event_lines import FROM_NOW
from bridge.connectors.nomad.events import Events, Pace
from bridge.errors import Unavailable
from tests.support import fake_events
from tests.support.fake_events import BEAT, FakeEvents, Refuse, Send, line
from tests.support.poll import eventually, free_port

QUICK = Pace(
    first_delay_s=0.01,
    longest_delay_s=0.05,
    silence_s=30,
    greeting_s=30,
    proof_s=30,
    look_s=0.02,
    namespaces_every_s=0.05,
)


class Watcher:
    """Follows a stream in a thread and keeps what it is told."""

    def __init__(self, url: str) -> None:
        self.client = NomadClient(Connection(address=url, token="t", request_timeout_s=5))
        self.told: list[str | None] = []
        self.namespaces: Callable[[], list[str]] = lambda: ["g-lab"]
        self.pace = QUICK
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self, **pace: float) -> None:
        self.pace = Pace(**{name: getattr(QUICK, name) for name in QUICK.__struct_fields__} | pace)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)
            assert not self._thread.is_alive()

    def until(self, *wanted: str | None) -> None:
        eventually(lambda: self.told[: len(wanted)] == list(wanted), timeout=30)

    def _run(self) -> None:
        every = Events(self.client, "bridge-x-", self.pace)
        # Asked by name each time: a test may replace it.
        every.follow(lambda: [*self.namespaces()], self.told.append, self._stopped)


@pytest.fixture
def stream() -> Iterator[FakeEvents]:
    with fake_events.serving() as fake:
        yield fake


@pytest.fixture
def watcher(stream: FakeEvents) -> Iterator[Watcher]:
    made = Watcher(stream.url)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_what_changes_is_told(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(Send(BEAT + line(5, "bridge-x-1", "other") + line(6, "bridge-x-2")))
    watcher.start()
    watcher.until(None, "bridge-x-1", "bridge-x-2")
    (asked,) = stream.asked
    assert asked["namespace"] == "g-lab" and asked["index"] == str(FROM_NOW)


def test_a_fault_that_nobody_thought_of_ends_no_stream(
    watcher: Watcher,
    stream: FakeEvents,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream.say(Send(BEAT + line(5, "bridge-x-1")))
    open_stream = watcher.client.events
    faults = [RuntimeError("nobody thought of this")]

    def opened(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return open_stream(*args)

    monkeypatch.setattr(watcher.client, "events", opened)
    watcher.start()
    watcher.until(None, "bridge-x-1")
    assert "nobody thought of this" in caplog.text


def test_a_stream_that_died_is_started_again(
    watcher: Watcher, stream: FakeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.say(Send(BEAT + line(5, "bridge-x-1")))
    deaths = [True]
    run = events._Stream.run

    def once_dead(stream: events._Stream) -> None:
        if not (deaths and deaths.pop()):
            run(stream)

    monkeypatch.setattr(events._Stream, "run", once_dead)
    watcher.start()
    watcher.until(None, "bridge-x-1")


def test_a_cut_stream_is_resumed_without_a_gap(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(
        Send(BEAT + line(5, "bridge-x-1"), close=True),
        Send(BEAT + line(5, "bridge-x-1") + line(6, "bridge-x-2")),
    )
    watcher.start()
    # The cut itself is told at once: nobody knows how long it lasts.
    watcher.until(None, "bridge-x-1", None, "bridge-x-1", "bridge-x-2")
    assert stream.indexes == [FROM_NOW, 5]


def test_a_gap_makes_everything_be_looked_at(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(Send(BEAT + line(5, "bridge-x-1"), close=True), Send(BEAT + line(9, "bridge-x-3")))
    watcher.start()
    watcher.until(None, "bridge-x-1", None, None, "bridge-x-3")


def test_a_gap_that_no_line_shows(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(Send(BEAT + line(5, "bridge-x-1"), close=True), Send(BEAT))
    watcher.start(proof_s=0.1)
    watcher.until(None, "bridge-x-1", None, None)
    assert len(stream.asked) == 2


def test_a_cut_in_the_middle_of_a_line(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(
        Send(BEAT + line(5, "bridge-x-1") + line(6, "bridge-x-2")[:20], close=True),
        Send(BEAT + line(5) + line(6, "bridge-x-2")),
    )
    watcher.start()
    watcher.until(None, "bridge-x-1", None, "bridge-x-2")


def test_a_stream_without_heartbeats_is_left(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(Send(BEAT + line(5)), Send(BEAT + line(5) + line(6, "bridge-x-1")))
    watcher.start(silence_s=1.0)
    watcher.until(None, None, "bridge-x-1")


@pytest.mark.parametrize("closes", [True, False])
def test_a_denied_stream_is_logged_once_with_the_remedy(
    watcher: Watcher, stream: FakeEvents, caplog: pytest.LogCaptureFixture, closes: bool
) -> None:
    """Nomad answers 200 to it; 2.0.5 then keeps the connection open, others close it."""
    stream.probe = Refuse(403, "Permission denied")
    stream.say(Send(close=closes), Send(close=closes), Send(close=closes))
    watcher.start(greeting_s=0.1)
    eventually(lambda: warnings(caplog), timeout=30)
    (said,) = warnings(caplog)
    assert "Permission denied" in said and "nomad.token_file" in said and "g-lab" in said
    assert watcher.told == []


def test_a_denied_stream_is_not_asked_for_in_a_hurry(
    watcher: Watcher, stream: FakeEvents, caplog: pytest.LogCaptureFixture
) -> None:
    stream.probe = Refuse(403, "Permission denied")
    stream.say(*[Send(close=True)] * 20)
    watcher.start()
    eventually(lambda: warnings(caplog), timeout=30)
    time.sleep(0.3)  # nothing happens: that cannot be waited for
    assert len(stream.asked) == 1


def test_no_events_though_nothing_denies_them(
    watcher: Watcher, stream: FakeEvents, caplog: pytest.LogCaptureFixture
) -> None:
    stream.say(Send(close=True))
    watcher.start()
    eventually(lambda: warnings(caplog), timeout=30)
    assert "enable_event_broker" in warnings(caplog)[0]


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Refuse(429, "", {"Retry-After": "1"}), "too many connections"),
        (Refuse(500, "No cluster leader"), "No cluster leader"),
        (Refuse(302, "", {"Location": "http://127.0.0.1:9/"}), "302"),
    ],
)
def test_a_refused_stream_is_asked_for_again(
    watcher: Watcher,
    stream: FakeEvents,
    caplog: pytest.LogCaptureFixture,
    refusal: Refuse,
    words: str,
) -> None:
    stream.say(refusal, Send(BEAT + line(5, "bridge-x-1")))
    began = time.monotonic()
    watcher.start()
    watcher.until(None, "bridge-x-1")
    assert 1.0 <= time.monotonic() - began < 30  # as long as it asks us to wait
    (said,) = warnings(caplog)
    assert words in said
    assert any("events=again" in one.getMessage() for one in caplog.records)


def test_garbage_is_skipped_and_everything_looked_at(watcher: Watcher, stream: FakeEvents) -> None:
    stream.say(Send(BEAT + line(5) + b'{"Index":\n' + line(6, "bridge-x-1")))
    watcher.start()
    eventually(lambda: watcher.told[-1:] == ["bridge-x-1"] and None in watcher.told, timeout=30)
    assert len(stream.asked) == 1


def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher(f"http://127.0.0.1:{free_port()}")
    watcher.start()
    eventually(lambda: warnings(caplog), timeout=30)
    watcher.stop()
    assert "no connection" in warnings(caplog)[0]


def test_stopping_ends_a_silent_stream_at_once(watcher: Watcher, stream: FakeEvents) -> None:
    watcher.start()
    eventually(lambda: stream.asked, timeout=30)
    watcher.stop()


def test_namespaces_come_and_go(watcher: Watcher, stream: FakeEvents) -> None:
    wanted = ["g-a"]
    watcher.namespaces = lambda: wanted
    watcher.start()
    eventually(lambda: [one["namespace"] for one in stream.asked] == ["g-a"], timeout=30)
    wanted[:] = ["g-a", "g-b"]
    eventually(lambda: [one["namespace"] for one in stream.asked] == ["g-a", "g-b"], timeout=30)
    wanted[:] = ["g-b"]
    eventually(lambda: _followed() == ["events-g-b"], timeout=30)


def test_namespaces_that_cannot_be_asked_for_change_nothing(
    watcher: Watcher, stream: FakeEvents, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [["g-a"]]

    def namespaces() -> list[str]:
        if answers:
            return answers.pop()
        raise Unavailable("the database is away")

    watcher.namespaces = namespaces
    watcher.start()
    eventually(lambda: warnings(caplog), timeout=30)
    assert "database is away" in warnings(caplog)[0]
    assert _followed() == ["events-g-a"]


def test_more_namespaces_than_connections(
    watcher: Watcher, stream: FakeEvents, caplog: pytest.LogCaptureFixture
) -> None:
    watcher.namespaces = lambda: [f"g-{number:03}" for number in range(60)]
    watcher.start()
    eventually(lambda: len(stream.asked) == 50, timeout=60)
    assert "the others are polled" in warnings(caplog)[0]


def test_the_connector_has_it_and_measures_anew_after_a_change(stream: FakeEvents) -> None:
    connector = NomadConnector(
        Connection(address=stream.url, request_timeout_s=5), prefix="bridge-x-", pace=QUICK
    )
    assert isinstance(connector, Watch)
    stream.say(Send(BEAT + line(5, "bridge-x-1")))
    stopped, told = threading.Event(), list[str | None]()
    thread = threading.Thread(
        target=connector.watch, args=(lambda: ["g-lab"], told.append, stopped)
    )
    thread.start()
    try:
        eventually(lambda: told == [None, "bridge-x-1"], timeout=30)
        assert connector._capacity._changed_at > 0
    finally:
        stopped.set()
        thread.join(timeout=10)


def _followed() -> list[str]:
    return sorted(one.name for one in threading.enumerate() if one.name.startswith("events-"))
