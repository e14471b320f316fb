"""Every program the bridge starts, and everything it knows of processes.

Programs are started by argument lists, never through a shell, with an
environment that is named in full, and with a deadline.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

from bridge.errors import ProcessError

# What a program needs to find its way; anything else (proxies, CA bundles,
# secrets of ours) reaches it only when the caller says so.
_KEPT: Final = ("PATH", "HOME", "LANG", "TMPDIR")
_KILL_GRACE_S: Final = 5.0

# Where a detached program's output goes: an open file or descriptor, a path to
# append to, or None for nowhere.
Output = int | IO[bytes] | Path | None


class Completed(NamedTuple):
    """How a program ended. A negative code is the signal that ended it."""

    returncode: int
    stdout: str
    stderr: str


def environment() -> Mapping[str, str]:
    """A copy of this process's environment variables."""
    return dict(os.environ)


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """PATH, HOME, LANG and TMPDIR as they are here, and ``extra``."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    kept.setdefault("PATH", os.defpath)
    return kept | dict(extra or {})


def which(name: str) -> str | None:
    """The full path of a program, or None.

    Looks on the PATH, then beside the Python that runs us: there are the
    programs our dependencies bring (rclone), also when no venv is activated.
    """
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    input: str | bytes | None = None,
) -> Completed:
    """Run a program to its end and take its output as text.

    ``timeout`` is in seconds; when it is over the program and its children are
    killed. ``env`` is the whole environment, by default ``clean_environment()``.
    A non-zero exit is an answer, not an error.

    Raises ProcessError when the program cannot be started or runs over.
    """
    data = input.encode() if isinstance(input, str) else input
    child = _start(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = child.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        _kill_group(child)
        raise ProcessError(f"{argv[0]} did not end within {timeout:g} s and was killed") from late
    except BaseException:
        # The child has a session of its own: Ctrl-C does not reach it.
        _kill_group(child)
        raise
    return Completed(child.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def spawn_detached(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Output = None,
    stderr: Output = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Start a program that outlives this process, in a session of its own.

    Returns its pid. Output paths are made with mode 0600 and appended to.
    ``env`` as in ``run``.

    Raises ProcessError when the program cannot be started, OSError when an
    output path cannot be opened.
    """
    with contextlib.ExitStack() as files:
        child = _start(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=_opened(stdout, files),
            stderr=_opened(stderr, files),
            pass_fds=pass_fds,
        )
    _children.add(child)
    return child.pid


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot, or None if it is gone.

    A pid is used again after its process ended; pid, start time and
    ``boot_id()`` together name one process for good. A zombie is gone, unless threads
    of it are left: they may still run, and hold its files and ports.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in brackets and may hold anything.
    fields = stat.rpartition(")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), fields[19]
    # It is the state of the first thread alone; the last one out closes what all share.
    return None if state in "ZX" and threads <= 1 else ticks


def is_alive(pid: int, started: str | None) -> bool:
    """Whether ``pid`` is still the process that started at ``started``."""
    _children.reap()
    return started is not None and start_time(pid) == started


def boot_id() -> str:
    """A random text that changes with every start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def name_of_this() -> str:
    """A name of this process that no other has, anywhere, ever."""
    return f"{_place()}/{os.getpid()}/{start_time(os.getpid())}"


def has_ended(name: str) -> bool:
    """Whether the process of a ``name_of_this()`` has ended, as far as can be seen from
    here: one on another machine or in another container never has.
    """
    place, pid, started = name.split("/")
    return place == _place() and start_time(int(pid)) != started


def _place() -> str:
    """Where pids mean the same: this start of this machine, this container."""
    return f"{boot_id()}.{Path('/proc/self/ns/pid').stat().st_ino}"


class _Children:
    """Detached children, kept so that those that ended are waited for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []

    def add(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.append(child)
        self.reap()

    def reap(self) -> None:
        with self._lock:
            self._running = [child for child in self._running if child.poll() is None]

    def let_go(self) -> None:
        """At exit: they outlive us on purpose, Popen need not warn of them."""
        self.reap()
        for child in self._running:
            child.returncode = 0


_children: Final = _Children()
atexit.register(_children.let_go)


def _start(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: int,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    whole = clean_environment() if env is None else dict(env)
    # execvpe would look the program up on our PATH; the caller's decides.
    program = shutil.which(str(argv[0]), path=whole.get("PATH", os.defpath))
    if program is None:
        raise ProcessError(f"{argv[0]} is not on the PATH or not executable", "Install it.")
    try:
        return subprocess.Popen(
            [program, *map(str, argv[1:])],
            env=whole,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise ProcessError(f"{argv[0]} cannot be started: {error}") from error


def _opened(output: Output, files: contextlib.ExitStack) -> int | IO[bytes]:
    if output is None:
        return subprocess.DEVNULL
    if isinstance(output, Path):
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        return files.enter_context(os.fdopen(fd, "ab"))
    return output


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.communicate(timeout=_KILL_GRACE_S)
    except subprocess.TimeoutExpired:
        # A grandchild in another session holds the pipes: leave them to it.
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        child.wait(_KILL_GRACE_S)
