"""A scheduler in memory that refuses some things in some places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from bridge.connectors.base import Machine, Room
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Handle, Observation
from tests.support.fake_connector import FakeConnector

RETRY_S = 30.0


class PickyConnector(FakeConnector):
    """``refuse`` names calls and namespaces, as Nomad does where rights are missing;
    ``break_down`` makes one call fail for whatever is asked as long as it says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._refused: set[tuple[str, str]] = set()
        self._broken: Callable[[str, Handle], bool] = lambda call, handle: False

    def refuse(self, call: str, namespace: str) -> None:
        """From now on."""
        self._refused.add((call, namespace))

    def allow(self) -> None:
        """Everything, again."""
        self._refused.clear()
        self._broken = lambda call, handle: False

    def break_down(self, when: Callable[[str, Handle], bool]) -> None:
        """Fail as a server does that has lost its head, for calls about an attempt."""
        self._broken = when

    def room(self, namespace: str, node_pool: str) -> Room:
        """Enough."""
        self._judge("room", Handle("", namespace))
        machine = Machine(
            name="m", cores=99, memory_mb=99_999, cores_free=99, memory_free_mb=99_999
        )
        return Room(slots=99, machines=(machine,))

    def submit(self, spec: AttemptSpec) -> None:
        self._judge("submit", spec.handle)
        super().submit(spec)

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        wanted = list(handles)
        for handle in wanted:
            self._judge("poll", handle)
        return super().poll(wanted)

    def cancel(self, handle: Handle) -> None:
        self._judge("cancel", handle)
        super().cancel(handle)

    def forget(self, handle: Handle) -> None:
        self._judge("forget", handle)
        super().forget(handle)

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        wanted = list(namespaces)
        for namespace in wanted:
            self._judge("sweep", Handle("", namespace))
        return super().sweep(wanted)

    def _ask(self) -> None:
        """Already done."""

    def _judge(self, call: str, handle: Handle) -> None:
        self.calls[call] += 1
        super()._ask()
        if (call, handle.namespace) in self._refused:
            raise ConnectorUnavailable(
                f"Nomad refuses to {call}: Permission denied",
                f"The token lacks {call}-job.",
                RETRY_S,
                narrow=True,
            )
        if self._broken(call, handle):
            raise ConnectorUnavailable(f"cannot {call}: HTTP 500", "Look at its log.", 2.0)
