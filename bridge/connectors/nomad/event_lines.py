"""The bytes of Nomad's event stream → which of our jobs changed. Pure.

A line is one transaction of Nomad with all its events, ``{}`` is a heartbeat and
comes first. The stream is asked for from the last line that was seen: when that
line comes again, nothing was missed. Nomad itself never tells of a gap.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

# Ahead of every raft index: only what happens from now on.
FROM_NOW: Final = 2**62

_BEGINS: Final = "the stream begins"
_LONGEST_LINE: Final = 64 * 2**20


class Hints(Struct, frozen=True):
    """What some bytes tell: ids of jobs that changed, and why others may have, too."""

    native_ids: tuple[str, ...] = ()
    missed: str | None = None


class _Evaluation(Struct, frozen=True, rename="pascal"):
    status: str = ""


class _Payload(Struct, frozen=True, rename="pascal"):
    evaluation: _Evaluation | None = None


class _Event(Struct, frozen=True, rename="pascal"):
    filter_keys: tuple[str, ...] | None = None  # the job's id is the first
    payload: _Payload | None = None


class _Line(Struct, frozen=True, rename="pascal"):
    index: int = 0
    events: tuple[_Event, ...] | None = None


class EventReader:
    """Reads one namespace's stream over all its connections."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._decoder = msgspec.json.Decoder(_Line)
        self._rest = b""
        self._last = FROM_NOW
        self._heard = False
        self._awaited: int | None = None

    @property
    def resume_from(self) -> int:
        """The raft index to ask for."""
        return self._last

    @property
    def accepted(self) -> bool:
        """Whether Nomad has sent a whole line since the connection was opened."""
        return self._heard

    @property
    def unproven(self) -> bool:
        """Whether it is still open if something was missed before the connection."""
        return self._heard and self._awaited is not None

    def opened(self) -> None:
        """A new connection: what follows begins with a heartbeat."""
        self._rest = b""
        self._heard = False
        self._awaited = self._last

    def presume_gap(self) -> None:
        """The awaited line did not come."""
        self._awaited = None

    def feed(self, data: bytes) -> Hints:
        """What the next bytes tell. Raises ValueError when they are no lines at all."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ValueError("an event longer than 64 MiB")
        native_ids: dict[str, None] = {}  # in order, each once
        missed: str | None = None
        for line in lines:
            if line.strip():
                missed = self._read(line, native_ids) or missed
        return Hints(tuple(native_ids), missed)

    def _read(self, text: bytes, native_ids: dict[str, None]) -> str | None:
        """Add the ids of one line; why something may have been missed, or None."""
        try:
            line = self._decoder.decode(text)
        except msgspec.MsgspecError as error:
            return f"an event cannot be read: {error}"
        missed = self._heartbeat() if line.events is None else self._contiguous(line.index)
        self._heard = True
        for event in line.events or ():
            if event.filter_keys and _tells(event):
                job_id = event.filter_keys[0]
                if job_id.startswith(self._prefix):
                    native_ids[job_id] = None
        return missed

    def _heartbeat(self) -> str | None:
        if self._awaited == FROM_NOW:
            self._awaited = None
            return _BEGINS
        if self._awaited is not None and self._heard:
            self._awaited = None
            return "the last event that was seen is no longer known to Nomad"
        return None

    def _contiguous(self, index: int) -> str | None:
        awaited, self._awaited = self._awaited, None
        self._last = index
        if awaited == FROM_NOW:
            return _BEGINS
        return None if awaited in (None, index) else f"event {awaited} is followed by {index}"


def _tells(event: _Event) -> bool:
    """Whether there is something to see: not in an evaluation that has yet to be made."""
    evaluation = event.payload.evaluation if event.payload else None
    return evaluation is None or evaluation.status != "pending"
