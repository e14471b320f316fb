"""What is left of attempts whose supervisor cannot clean up: processes, folders."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bridge import log, process
from bridge.connectors.local.runtime import NATIVE_ID_VARIABLE
from bridge.connectors.local.steps import Step
from bridge.errors import ProcessError

_log = log.get(__name__)

_KILL_DEADLINE_S: Final = 5.0
_REMOVE_TIMEOUT_S: Final = 120.0


def signal_process(pid: int, started: str | None, number: signal.Signals) -> None:
    """Signal the process that began at ``started``, and no later one of that pid."""
    with contextlib.suppress(ProcessLookupError, PermissionError), _handle(pid) as handle:
        if process.is_alive(pid, started):
            signal.pidfd_send_signal(handle, number)


def kill_processes(native_id: str, steps: Sequence[Step]) -> bool:
    """Kill what is left of an attempt: the groups its steps name and every process
    that bears its id in its environment. Returns whether nothing is left.
    """
    for step in steps:
        if step.pid is not None and process.is_alive(step.pid, step.start):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(step.pid, signal.SIGKILL)
    until = time.monotonic() + _KILL_DEADLINE_S
    while True:
        # Again and again: one may have started another in between.
        found = [pid for pid in _pids() if _kill_if_marked(pid, native_id)]
        if not found or time.monotonic() > until:
            return not found
        time.sleep(0.02)


def remove_folder(path: Path) -> bool:
    """Remove a folder and all below it, following no link; whether it is gone.

    ``rm`` copes with depths and names that a job can make and Python cannot.
    """
    name = str(path)
    # Second time round after opening the folders that the job closed to us.
    commands = (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"])
    said = ""
    try:
        for command in commands:
            said = process.run([*command, "--", name], timeout=_REMOVE_TIMEOUT_S).stderr
            if not os.path.lexists(path):
                return True
    except ProcessError as error:
        said = error.message
    _log.warning("action=remove folder=%s fault=%s", path.name, said.strip()[-200:])
    return False


def _kill_if_marked(pid: int, native_id: str) -> bool:
    mark = f"{NATIVE_ID_VARIABLE}={native_id}".encode()
    try:
        with _handle(pid) as handle:
            # Read with the handle open, so that the signal meets what was read.
            if mark not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False  # ended meanwhile, or another user's
    return True


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
