"""The running service: HTTP in front, the loops behind, and how both stop."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable
from typing import Final

from bridge import log
from bridge.app import Bridge, build
from bridge.backoff import doubled
from bridge.config import Config
from bridge.errors import BridgeError, DatabaseReplaced
from bridge.server import HttpServer, create_app
from bridge.watcher import Watcher, watchers

_log = log.get(__name__)

_FORGET_EVERY_S: Final = 30.0
_FORGET_AT_LEAST_S: Final = 600.0  # what is still known there refuses a late submit
_STORAGE_EVERY_S: Final = 5.0
_USES_EVERY_S: Final = 5.0
_TELL_EVERY_S: Final = 1.0
_LOOK_FOR_UNCONFIGURED_EVERY_S: Final = 60.0
_ARCHIVE_EVERY_S: Final = 300.0
_LONGEST_BACK_OFF_S: Final = 30.0
_LOOKS_PER_LEASE: Final = 4
# Woken by every submission, a loop would go round and round beside those who submit.
_BREATH_S: Final = 0.02
# A request leaves a few dozen objects in cycles; Python's own threshold is 700.
_OBJECTS_PER_COLLECTION: Final = 20_000


class Loop(threading.Thread):
    """Calls ``act`` every ``interval`` seconds, at once when woken, slower after faults."""

    def __init__(
        self,
        name: str,
        act: Callable[[], object],
        *,
        interval: float,
        wake: threading.Event | None = None,
        longest_back_off: float = _LONGEST_BACK_OFF_S,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._act = act
        self._interval = interval
        self._wake = wake or threading.Event()
        self._longest_back_off = longest_back_off
        self._stopped = threading.Event()

    def run(self) -> None:
        """Go on until ``stop``."""
        faults = 0
        while not self._stopped.is_set():
            self._wake.clear()
            try:
                self._act()
                faults = 0
            except BridgeError as exc:
                faults += 1
                _log.warning("action=loop name=%s fault=%s", self.name, exc.message)
            except Exception:  # noqa: BLE001 (a thread's last line of defence)
                # A fault of ours must not stop the queue; it is logged and tried again.
                faults += 1
                _log.exception("action=loop name=%s", self.name)
            self._wait(self.pause_s(faults), faults)

    def pause_s(self, faults: int) -> float:
        """How long it waits after as many faults in a row."""
        return doubled(self._interval, faults, self._longest_back_off)

    def _wait(self, seconds: float, faults: int) -> None:
        if faults:
            self._stopped.wait(seconds)
        elif not self._stopped.wait(_BREATH_S):
            self._wake.wait(seconds)

    def wake(self) -> None:
        """Act now instead of at the end of the interval."""
        self._wake.set()

    def stop(self) -> None:
        """End after the pass under way; returns at once."""
        self._stopped.set()
        self._wake.set()


def loops(bridge: Bridge, config: Config, give_up: Callable[[BridgeError], object]) -> list[Loop]:
    """The loops of a bridge, not yet started. The one that keeps the lease is the last,
    so that it goes on until the others have ended. ``give_up`` is called, maybe again and
    again, when the process must end.
    """
    found = _leaders_loops(bridge, config)
    leading = tuple(found)

    def lead() -> None:
        try:
            taken = bridge.leader.step()
        except DatabaseReplaced as exc:
            give_up(exc)
            return
        if taken or not bridge.leader.leads:
            bridge.patience.clear()  # what was refused to whoever led before
        if taken:
            bridge.feeder.begin()
            for name in bridge.connectors:
                bridge.reconciler.hint(name, None)
            for loop in leading:
                loop.wake()

    found.append(Loop("uses", bridge.access.store_uses, interval=_USES_EVERY_S))
    unconfigured = bridge.unconfigured.tell
    found.append(Loop("unconfigured", unconfigured, interval=_LOOK_FOR_UNCONFIGURED_EVERY_S))
    if bridge.storage is not None:
        found.append(Loop("storage", bridge.storage.ensure, interval=_STORAGE_EVERY_S))
    every = config.queue.lease_s / _LOOKS_PER_LEASE
    found.append(Loop("leader", lead, interval=every, longest_back_off=2 * every))
    return found


def _leaders_loops(bridge: Bridge, config: Config) -> list[Loop]:
    queue, only = config.queue, bridge.leader.while_leading
    feeder, reconciler = bridge.feeder, bridge.reconciler

    def reconcile() -> None:
        if reconciler.step():
            bridge.wake.set()  # what has ended has made room

    return [
        Loop("feeder", only(feeder.step), interval=queue.feed_interval_s, wake=bridge.wake),
        Loop("reconciler", only(reconcile), interval=queue.reconcile_interval_s),
        Loop("sweeper", only(reconciler.sweep), interval=config.nomad.sweep_interval_s),
        Loop("forgetter", only(reconciler.forget), interval=_FORGET_EVERY_S),
        Loop("nodes", only(bridge.node_watch.step), interval=config.nodes.inspect_interval_s),
        Loop("archiver", only(bridge.archiver.step), interval=_ARCHIVE_EVERY_S),
        Loop("tidings", only(bridge.tidings.tell), interval=_TELL_EVERY_S),
    ]


class Service:
    """One bridge with its loops and its HTTP server; ``with`` starts and stops it.

    Jobs and the embedded storage go on when it stops. ``ended`` is set by whoever wants it
    to stop, and by itself when it cannot go on.
    """

    def __init__(self, config: Config, ended: threading.Event | None = None) -> None:
        self._config = config
        self.bridge = build(config)
        self._loops: list[Loop] = []
        self._watchers: list[Watcher] = []
        self._http: HttpServer | None = None
        self._ended = ended or threading.Event()
        self._fault: BridgeError | None = None

    def __enter__(self) -> Service:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """HOST:PORT it listens on."""
        assert self._http is not None
        return self._http.address

    def start(self) -> None:
        """Storage first, then the loops, then the door. Raises ConfigError, Unavailable."""
        config = self._config
        if config.queue.forget_after_s < _FORGET_AT_LEAST_S:
            _log.warning(
                "action=start queue.forget_after_s=%.0f hint=below %.0f s an attempt that reaches"
                " its scheduler late may run once more",
                config.queue.forget_after_s,
                _FORGET_AT_LEAST_S,
            )
        if self.bridge.storage is not None:
            self.bridge.storage.start()
        self._http = HttpServer(
            create_app(self.bridge, config.limits, config.nodes.enrolments_per_minute),
            config.server.bind,
            config.server.threads,
        )
        self._loops = loops(self.bridge, config, self._give_up)
        for loop in self._loops:
            loop.start()
        reconciler = next(loop for loop in self._loops if loop.name == "reconciler")
        self._watchers = watchers(self.bridge, reconciler.wake)
        for watcher in self._watchers:
            watcher.start()
        self._http.start()
        _log.info("action=serve address=http://%s", self._http.address)

    def wait(self) -> None:
        """Until ``ended`` is set. Raises what the service gave up for, if it did."""
        self._ended.wait()
        if self._fault is not None:
            raise self._fault

    def _give_up(self, fault: BridgeError) -> None:
        if self._fault is None:
            _log.error("action=give-up fault=%s hint=%s", fault.message, fault.hint)
        self._fault = fault
        self._ended.set()

    def stop(self) -> None:
        """No new requests, finish those under way, then the loops, then the database."""
        if self._http is not None:
            self._http.close()
        for watcher in self._watchers:
            watcher.stop()
        for some in (self._loops[:-1], self._loops[-1:]):
            for loop in some:
                loop.stop()
            for loop in some:
                loop.join()
        self.bridge.close()


def run(config: Config, ready: Callable[[str], object] = str) -> None:
    """Serve until SIGINT or SIGTERM. ``ready`` is called with HOST:PORT once it listens.

    Raises ConfigError, Unavailable; DatabaseReplaced, for a supervisor to start it again.
    """
    log.setup(config.log.level, config.log.json)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Service(config, ended) as service:
        _settle()
        ready(service.address)
        service.wait()
        _log.info("action=stop")


def _settle() -> None:
    """Spare the garbage collector what stays until the end, and most of its rounds.

    Looking through all modules again and again took a sixth of the time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
