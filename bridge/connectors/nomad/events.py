"""Nomad's event stream, followed: only a hint, so every doubt becomes "look at all".

One thread and one connection per namespace. The parsing is in ``event_lines``.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

import urllib3
from msgspec import Struct

from bridge import log
from bridge.backoff import doubled
from bridge.connectors.nomad.client import NomadClient
from bridge.connectors.nomad.event_lines import EventReader
from bridge.errors import BridgeError, ConnectorUnavailable

_log = log.get(__name__)

# Nomad allows 100 connections from one address; the calls need some of them.
_MOST_STREAMS: Final = 50
_CHUNK: Final = 65536
_PROBE: Final = "bridge-events"  # a job id that never exists
# AttributeError: http.client, when the answer is closed under it.
_BROKEN: Final = (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError)

Changed = Callable[[str | None], None]


class Pace(Struct, frozen=True, kw_only=True):
    """How a stream is followed; seconds."""

    first_delay_s: float = 0.25  # after a connection that broke, doubled with each failure
    longest_delay_s: float = 30.0
    silence_s: float = 45.0  # Nomad sends a heartbeat every 30
    greeting_s: float = 5.0  # and the first one at once
    proof_s: float = 2.0  # the line that proves there is no gap comes at once or never
    settled_s: float = 10.0  # a connection that has lasted so long was a good one
    look_s: float = 1.0
    namespaces_every_s: float = 2.0


class Events:
    """Tells which of our jobs changed, from all streams, until it is stopped."""

    def __init__(self, client: NomadClient, prefix: str, pace: Pace | None = None) -> None:
        self._client = client
        self._prefix = prefix
        self._pace = pace or Pace()
        self._too_many = False

    def follow(
        self,
        namespaces: Callable[[], Iterable[str]],
        changed: Changed,
        stopped: threading.Event,
    ) -> None:
        """As ``Watch.watch`` of the connector contract."""
        streams: dict[str, _Stream] = {}
        look_again = 0.0
        try:
            while not stopped.is_set():
                if time.monotonic() >= look_again:
                    self._adjust(streams, namespaces, changed)
                    look_again = time.monotonic() + self._pace.namespaces_every_s
                for stream in streams.values():
                    stream.look()
                stopped.wait(self._pace.look_s)
        finally:
            _end(streams.values())

    def _adjust(
        self,
        streams: dict[str, _Stream],
        namespaces: Callable[[], Iterable[str]],
        changed: Changed,
    ) -> None:
        """Start streams of new namespaces, and dead ones again; end those of gone ones."""
        try:
            wanted = sorted(set(namespaces()))
        except BridgeError as error:
            _log.warning("action=watch fault=%s", error.message)
            return
        if len(wanted) > _MOST_STREAMS and not self._too_many:
            self._too_many = True
            _log.warning(
                "action=watch namespaces=%d: events are followed in %d, the others are polled",
                len(wanted),
                _MOST_STREAMS,
            )
        wanted = wanted[:_MOST_STREAMS]
        _end([streams.pop(name) for name in streams.keys() - set(wanted)])
        for name in wanted:
            if name not in streams or not streams[name].is_alive():
                streams[name] = _Stream(self._client, name, self._prefix, changed, self._pace)
                streams[name].start()


def _end(streams: Iterable[_Stream]) -> None:
    ending = list(streams)
    for stream in ending:
        stream.stop()
    for stream in ending:
        stream.join(timeout=5)


class _Stream(threading.Thread):
    """Follows one namespace, over as many connections as it takes."""

    def __init__(
        self, client: NomadClient, namespace: str, prefix: str, changed: Changed, pace: Pace
    ) -> None:
        super().__init__(name=f"events-{namespace}", daemon=True)
        self._client = client
        self._namespace = namespace
        self._changed = changed
        self._pace = pace
        self._reader = EventReader(prefix)
        self._stopped = threading.Event()
        self._body: urllib3.BaseHTTPResponse | None = None
        self._opened_at = 0.0
        self._complaint: str | None = None

    def run(self) -> None:
        """Connect, read, and after a growing delay again, until ``stop``."""
        failures = 0
        while not self._stopped.is_set():
            least = self._follow_or_say_why()
            settled = time.monotonic() - self._opened_at >= self._pace.settled_s
            failures = 1 if self._reader.accepted and settled else failures + 1
            self._stopped.wait(max(self._delay(failures), least))

    def stop(self) -> None:
        """End soon; returns at once."""
        self._stopped.set()
        self._hang_up()

    def look(self) -> None:
        """What only time can tell. Called now and then from another thread."""
        age = time.monotonic() - self._opened_at
        if age > self._pace.proof_s and self._reader.unproven:
            self._reader.presume_gap()
            self._missed("Nomad does not repeat the last event that was seen")
        if age > self._pace.greeting_s and not self._reader.accepted:
            self._hang_up()

    def _hang_up(self) -> None:
        """Wake the thread that reads, if it does: its connection is at the end."""
        body = self._body
        if body is not None:
            with contextlib.suppress(*_BROKEN):
                body.shutdown()

    def _follow_or_say_why(self) -> float:
        try:
            return self._follow()
        except Exception:  # noqa: BLE001 (whatever is wrong, jobs shall be heard of again)
            _log.exception("action=watch namespace=%s fault", self._namespace)
            return self._pace.longest_delay_s

    def _follow(self) -> float:
        """One connection; returns the least delay before the next, in seconds."""
        self._reader.opened()
        self._opened_at = time.monotonic()
        try:
            response = self._client.events(
                self._namespace, self._reader.resume_from, self._pace.silence_s
            )
        except ConnectorUnavailable as away:
            return self._complain(away)
        with response:
            self._body = response.raw
            try:
                end = self._read(response.raw)
            finally:
                self._body = None
        if self._stopped.is_set():
            return 0.0
        if not self._reader.accepted:
            return self._complain(self._why_silent(end))
        self._missed(end)
        return 0.0

    def _read(self, body: urllib3.BaseHTTPResponse) -> str:
        """Tell what comes until the end; returns what the end was."""
        try:
            while not self._stopped.is_set() and (data := body.read1(_CHUNK)):
                hints = self._reader.feed(data)
                if self._reader.accepted:
                    self._recovered()
                if hints.missed:
                    self._missed(hints.missed)
                for native_id in hints.native_ids:
                    self._changed(native_id)
        except _BROKEN as error:
            return f"the connection broke: {type(error).__name__}"
        return "the connection was closed"

    def _why_silent(self, end: str) -> ConnectorUnavailable:
        """Nomad answers 200 and then nothing, or closes at once, when it denies a
        stream. Its reason shows in another call that needs the same capability.
        """
        try:
            self._client.job(_PROBE, self._namespace)
        except ConnectorUnavailable as denied:
            return denied
        hint = "Is server.enable_event_broker off on the Nomad servers?"
        return ConnectorUnavailable(f"Nomad sends no events: {end}", hint)

    def _missed(self, why: str) -> None:
        _log.info("action=watch namespace=%s look_at_all=%s", self._namespace, why)
        self._changed(None)

    def _complain(self, away: ConnectorUnavailable) -> float:
        """Once for each reason until a stream works again; returns the seconds to wait."""
        if away.message != self._complaint:
            self._complaint = away.message
            _log.warning(
                "action=watch namespace=%s no_events=%s hint=%s Jobs go on, seen by polling only.",
                self._namespace,
                away.message,
                away.hint,
            )
        return away.retry_after

    def _recovered(self) -> None:
        if self._complaint is not None:
            self._complaint = None
            _log.info("action=watch namespace=%s events=again", self._namespace)

    def _delay(self, failures: int) -> float:
        pace = self._pace
        # So that many bridges do not come back at the same moment.
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 (no secret)
        return doubled(pace.first_delay_s, failures - 1, pace.longest_delay_s) * jitter
