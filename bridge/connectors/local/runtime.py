"""How a job's program is run: the contract of a runtime, and plain processes.

Standard library only: the supervisor imports this and must start fast.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from bridge import process
from bridge.connectors.local.layout import AttemptDir, RunSpec
from bridge.connectors.local.steps import Fault
from bridge.connectors.local.watch import Watch, signal_group

# By this name in a process's environment we know it for one of the attempt's.
NATIVE_ID_VARIABLE: Final = "BRIDGE_NATIVE_ID"

# Numerical libraries start a thread per core of the machine unless told.
_THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# $1 is the marker's path. The run directory is used, so nothing may run twice.
GUARD: Final = 'mkdir "$1" || exit 212\n'
SHELL: Final = "if command -v bash >/dev/null 2>&1; then shell=bash; else shell=sh; fi\n"
_RUN: Final = 'cd "$2" && exec "$shell" run.sh </dev/null >joblog.txt 2>joberr.txt\n'
_ENTRY: Final = GUARD + SHELL + _RUN


class Outcome(NamedTuple):
    """How the job's program ended."""

    code: int | None
    oom: bool = False
    fault: Fault | None = None
    sentence: str = ""


class RuntimeFault(Exception):
    """The job's program could not be started."""

    def __init__(self, fault: Fault, sentence: str) -> None:
        super().__init__(sentence)
        self.fault = fault
        self.sentence = sentence


class Runtime(Protocol):
    """One run of one job's program."""

    def start(self) -> int:
        """Start it; returns the child process whose end shows its end.

        Raises RuntimeFault, OSError.
        """

    def outcome(self, code: int) -> Outcome | int:
        """What the end of that child, with ``code``, means. Another child's pid
        means: wait for that one, the program may still be running.
        """

    def terminate(self) -> None:
        """Ask the program to end (SIGTERM)."""

    def kill(self) -> None:
        """End the program and all it started (SIGKILL)."""

    def close(self) -> None:
        """Leave nothing of it behind. Safe at any time, also before ``start``."""


def job_environment(spec: RunSpec) -> dict[str, str]:
    """What every runtime adds to the environment of a job's program."""
    cores = {name: str(spec.cores) for name in _THREAD_VARIABLES}
    return cores | {NATIVE_ID_VARIABLE: spec.native_id}


class ProcessRuntime:
    """The program as a process of this machine, under the bridge's own user.

    No isolation: it sees what that user sees. The number of cores reaches it as
    a hint to numerical libraries only, and its memory is not limited at all, so
    ``oom`` cannot be told from any other SIGKILL. Processes that it leaves
    behind, also in sessions of their own, are killed when run.sh has ended.
    """

    def __init__(self, spec: RunSpec, home: AttemptDir, watch: Watch) -> None:
        self._spec = spec
        self._home = home
        self._watch = watch
        self._pid: int | None = None

    def start(self) -> int:
        """See ``Runtime``."""
        # Not /tmp: there another user of the machine could place start-up files.
        self._home.home.mkdir(mode=0o700)
        environment = job_environment(self._spec) | {"HOME": str(self._home.home)}
        self._pid = self._watch.spawn(
            ["/bin/sh", "-c", _ENTRY, "entry", self._home.once / "ran", self._home.rundir],
            process.clean_environment(environment),
            Path(os.devnull),
        )
        return self._pid

    def outcome(self, code: int) -> Outcome | int:
        """See ``Runtime``."""
        self._pid = None
        return Outcome(code=code, sentence=_signal_sentence(code))

    def terminate(self) -> None:
        """See ``Runtime``."""
        if self._pid is not None:
            signal_group(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        """See ``Runtime``."""
        if self._pid is not None:
            signal_group(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """See ``Runtime``."""
        self._watch.end_descendants()


def _signal_sentence(code: int) -> str:
    """What a shell's exit code says of a signal; empty when it says nothing."""
    try:
        return f"killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return ""
