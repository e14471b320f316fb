"""A supervisor's children, and what it waits for: the end of a child, a request
to stop, a deadline.

Everything wakes one ``select``: SIGCHLD, SIGUSR1 (look at the cancel file now)
and the signals that end a process. Single-threaded on purpose, so that nothing
but ``Watch`` waits for the children it is given. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bridge import process
from bridge.connectors.local.steps import Stop

WAKE: Final = signal.SIGUSR1
_PR_SET_CHILD_SUBREAPER: Final = 36
# Should a signal be lost, the cancel file is still seen this soon.
_LOOK_EVERY_S: Final = 1.0
_LONGEST_END_S: Final = 10.0


class Watch:
    """Make one before anybody can know our pid: it installs the signal handlers."""

    def __init__(self, cancel_file: Path) -> None:
        self._cancel_file = cancel_file
        self._shutdown = False
        self._bell, ringer = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(ringer, False)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, WAKE):
            signal.signal(number, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_shutdown)
        # Processes that a job leaves behind become our children, not init's.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def asked(self) -> Stop | None:
        """Whether the attempt shall stop, and why. A request by name goes first."""
        if self._cancel_file.exists():
            return Stop.CANCEL
        return Stop.SHUTDOWN if self._shutdown else None

    def spawn(self, argv: Sequence[str | Path], env: Mapping[str, str], output: Path) -> int:
        """Start a child in a session of its own, here; ``wait`` waits for it.

        What it prints is appended to ``output``. ``process.spawn_detached`` is for
        programs nobody waits for: it may take the exit code away from us.

        Raises OSError when it cannot be started.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawnp(
            argv[0],
            [str(word) for word in argv],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            # Python ignores these two, which no other program expects.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )

    def wait(self, pid: int, *, until: float | None = None, stoppable: bool = True) -> int | None:
        """The exit code of child ``pid``; None when it still runs at ``until``
        (``time.monotonic``) or when ``stoppable`` and the attempt shall stop.

        An end by a signal is 128 and its number, as a shell would say.
        """
        while True:
            for ended, code in _reap():
                if ended == pid:
                    return code
            if stoppable and self.asked():
                return None
            left = _LOOK_EVERY_S if until is None else until - time.monotonic()
            if left <= 0:
                return None
            self._sleep(min(left, _LOOK_EVERY_S))

    def pause(self, seconds: float, *, stoppable: bool = True) -> None:
        """Wait ``seconds``, or less when ``stoppable`` and the attempt shall stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not (stoppable and self.asked()):
            self._sleep(min(left, _LOOK_EVERY_S))

    def end_descendants(self) -> None:
        """Kill every process below us, also those that left their session.

        One that cannot be killed (another user's, by a setuid program) is left.
        """
        until = time.monotonic() + _LONGEST_END_S
        while (children := _children()) and time.monotonic() < until:
            for pid in children:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            # What they leave behind becomes ours when they are waited for.
            self._sleep(0.05)
            for _ in _reap():
                pass

    def _sleep(self, seconds: float) -> None:
        select.select([self._bell], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, 4096):
                pass

    def _on_shutdown(self, *_: object) -> None:
        self._shutdown = True


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that ``pid``, a child not yet waited for, leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _reap() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        yield pid, code if code >= 0 else 128 - code


def _children() -> list[int]:
    """Our living children, by the parent that each process names."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []  # the usual case, told without reading about every process
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
            parent = stat.rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and process.start_time(int(entry)) is not None:
                found.append(int(entry))
    return found
