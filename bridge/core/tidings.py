"""What schedulers refuse at present, the same in every process.

Only the leader asks schedulers, so only it meets their faults. It tells the others through
the database, beside its lease; what a leader told ends with its lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from bridge.core.leader import Leader
from bridge.core.patience import Act, Fault, Patience

# Who has job after job explained, or asks for each connector, shall not ask the database each time.
_FRESH_S: Final = 1.0
_UNLED: Final = tuple(
    Fault(act, "", "no process of this service leads, so nobody asks it", "", 0.0)
    for act in (Act.FEED, Act.LOOK)
)
_Faults = dict[str, list[Fault]]


class Tidings:
    """The leader tells them, everybody hears them: about two seconds late at most, one between
    two tellings and one between two looks (``_FRESH_S``).
    """

    def __init__(
        self,
        leader: Leader,
        patience: Patience,
        connectors: Collection[str],
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leader = leader
        self._patience = patience
        self._connectors = sorted(connectors)
        self._ticks = ticks
        self._heard: tuple[float, _Faults | None] = (float("-inf"), None)  # until when

    def tell(self) -> None:
        """What this process met as the leader; to be called about once a second.

        Raises Unavailable.
        """
        found = {name: self._patience.faults(name) for name in self._connectors}
        self._leader.tell(_in_words({name: some for name, some in found.items() if some}))

    def is_led(self) -> bool:
        """Whether any process leads. Raises Unavailable."""
        return self._leader.leads or self._hear() is not None

    def faults(self, connector: str) -> list[Fault]:
        """What cannot be asked of a connector at present. Raises Unavailable."""
        if self._leader.leads:
            return self._patience.faults(connector)
        heard = self._hear()
        return list(_UNLED) if heard is None else heard.get(connector, [])

    def _hear(self) -> _Faults | None:
        until, heard = self._heard
        # Two who find it old at once both look: better than that one waits for the other.
        if self._ticks() >= until:
            words = self._leader.told()
            heard = None if words is None else _from_words(words)
            self._heard = (self._ticks() + _FRESH_S, heard)
        return heard


def _in_words(faults: _Faults) -> str:
    """The same for the same faults, whenever they end; nothing for none."""
    lasting = {
        name: sorted(
            (msgspec.structs.replace(one, until=0.0) for one in some),
            key=lambda one: (one.act, one.place, one.message, one.hint),
        )
        for name, some in faults.items()
    }
    return msgspec.json.encode(lasting).decode() if lasting else ""


def _from_words(words: str) -> _Faults:
    try:
        return msgspec.json.decode(words, type=_Faults) if words else {}
    except msgspec.DecodeError:  # of a leader of another version, while one follows the other
        return {}
