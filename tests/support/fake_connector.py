"""A scheduler in memory: honest about the contract, told by the test what happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from bridge.connectors.base import Health
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Cause, Handle, Observation, Observed


class FakeConnector:
    """Accepts attempts and shows what ``show`` says; ``away`` makes every call fail."""

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self.away = False
        self.specs: dict[Handle, AttemptSpec] = {}
        self.shown: dict[Handle, Observation] = {}
        self.submits: list[Handle] = []
        self.cancels: list[Handle] = []
        self.forgotten: list[Handle] = []
        self.before_submit: Callable[[AttemptSpec], None] = lambda spec: None
        self.after_submit: Callable[[AttemptSpec], None] = lambda spec: None
        self._lock = threading.Lock()

    def submit(self, spec: AttemptSpec) -> None:
        self._ask()
        self.before_submit(spec)
        with self._lock:
            self.submits.append(spec.handle)
            self.specs.setdefault(spec.handle, spec)
            self.shown.setdefault(spec.handle, Observation(state=Observed.PENDING))
        self.after_submit(spec)

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        self._ask()
        gone = Observation(state=Observed.GONE)
        return {handle: self.shown.get(handle, gone) for handle in handles}

    def cancel(self, handle: Handle) -> None:
        self._ask()
        self.cancels.append(handle)

    def forget(self, handle: Handle) -> None:
        self._ask()
        self.forgotten.append(handle)
        self.shown.pop(handle, None)

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        self._ask()
        wanted = set(namespaces)
        return {
            handle: seen
            for handle, seen in self.shown.items()
            if seen.state is not Observed.ENDED and handle.namespace in wanted
        }

    def check(self) -> Health:
        return Health()

    def show(self, state: Observed, *, cause: Cause | None = None, **more: object) -> None:
        """Every attempt shows this from now on."""
        for handle in self.shown:
            self.shown[handle] = Observation(state=state, cause=cause, **more)  # type: ignore[arg-type]

    def _ask(self) -> None:
        if self.away:
            raise ConnectorUnavailable("the fake scheduler is away", retry_after=1.0)
