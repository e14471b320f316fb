"""Threads that let connectors tell of changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from bridge import log
from bridge.app import Bridge
from bridge.connectors.base import Watch

_log = log.get(__name__)

_AGAIN_S: Final = 5.0


class Watcher(threading.Thread):
    """Passes a connector's hints to the reconciler and calls ``changed`` for each."""

    def __init__(
        self, bridge: Bridge, name: str, connector: Watch, changed: Callable[[], None]
    ) -> None:
        super().__init__(name=f"watch-{name}", daemon=True)
        self._reconciler = bridge.reconciler
        self._leader = bridge.leader
        self._of = name
        self._connector = connector
        self._changed = changed
        self._stopped = threading.Event()

    def run(self) -> None:
        """Go on until ``stop``."""

        def changed(native_id: str | None) -> None:
            if not self._leader.leads:
                return  # whoever takes the lead looks at everything first
            self._reconciler.hint(self._of, native_id)
            self._changed()

        while not self._stopped.is_set():
            try:
                self._connector.watch(
                    lambda: self._reconciler.namespaces(self._of), changed, self._stopped
                )
            except Exception:  # noqa: BLE001 (a thread's last line of defence)
                # Without hints the queue goes on, and every end is seen late.
                _log.exception("action=watch connector=%s", self._of)
            self._stopped.wait(_AGAIN_S)

    def stop(self) -> None:
        """End soon; returns at once. What it waits for has deadlines of its own."""
        self._stopped.set()


def watchers(bridge: Bridge, changed: Callable[[], None]) -> list[Watcher]:
    """One for each connector that can tell of changes, not yet started."""
    return [
        Watcher(bridge, name, connector, changed)
        for name, connector in bridge.connectors.items()
        if isinstance(connector, Watch)
    ]
