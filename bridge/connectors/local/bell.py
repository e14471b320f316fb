"""The bell: a named pipe by which supervisors tell the bridge that something happened.

Only a hint. Nobody may listen, of several listeners one hears it, and a supervisor
that is killed rings no more. Standard library only: the supervisor imports this.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import Final, Self

_CHUNK: Final = 65536


def ring(path: Path, native_id: str) -> None:
    """Say that an attempt has changed. It does not matter if nobody listens."""
    with contextlib.suppress(OSError):
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            # So short a line is never mixed with another's.
            os.write(pipe, native_id.encode() + b"\n")
        finally:
            os.close(pipe)


class Bell:
    """The listening side; close it. Raises OSError when the pipe cannot be made."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Opened for both, it is never at its end when the last who rang has gone.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)

    def heard(self, seconds: float) -> list[str]:
        """The native ids that were told, after waiting ``seconds`` for the first."""
        if not self._poll.poll(seconds * 1000):
            return []
        *lines, self._rest = (self._rest + os.read(self._pipe, _CHUNK)).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
