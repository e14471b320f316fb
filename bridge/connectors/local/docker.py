"""The Docker runtime: a job's program in a container.

Standard library only: the supervisor imports this and must start fast.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from bridge.connectors.local.engine import (
    Engine,
    EngineAway,
    EngineError,
    EngineInfo,
    run_reference,
)
from bridge.connectors.local.layout import AttemptDir, RunSpec
from bridge.connectors.local.runtime import (
    GUARD,
    SHELL,
    Outcome,
    RuntimeFault,
    job_environment,
)
from bridge.connectors.local.steps import Fault
from bridge.connectors.local.watch import Watch

T = TypeVar("T")

_MARKERS: Final = "/bridge"
_HOME: Final = "/tmp"  # noqa: S108, the container's own
_ASK_AGAIN_S: Final = 1.0
# The entry is process 1 of the container, which the kernel spares every signal
# it does not handle, so it hands SIGTERM to all others and waits for run.sh. A
# trap interrupts ``wait``: it is asked again, and answers 127 when it told before.
_ENTRY: Final = (
    GUARD
    + SHELL
    + """[ "$$" -eq 1 ] && trap 'stopped=1; kill -TERM -1' TERM
"$shell" run.sh </dev/null >joblog.txt 2>joberr.txt &
main=$! stopped=1 code=127
while [ -n "$stopped" ]; do
    stopped=
    wait "$main"; last=$?
    [ "$last" -eq 127 ] || code=$last
done
exit "$code"
"""
)


class DockerRuntime:
    """The program in a container named by the native id.

    It gets no network unless configured, no capabilities, no way to gain
    privileges, a limit on memory (swap included), cores and processes, and sees
    the run directory as ``/rundir`` and nothing else of the machine. It runs as
    the owner of the run directory; beside rootless Docker that is the
    container's root. The container outlives this process and a short absence of
    the engine; it is never run a second time.
    """

    def __init__(self, spec: RunSpec, home: AttemptDir, watch: Watch) -> None:
        self._spec = spec
        self._home = home
        self._watch = watch
        self._engine = Engine(spec.docker_host)
        self._live_restore = False
        self._away = False
        self._created = False

    def start(self) -> int:
        """See ``Runtime``."""
        info = self._spec.engine or self._patiently(self._engine.info)
        self._live_restore = info.live_restore
        self._created = True
        try:
            self._patiently(lambda: self._run_once(info))
        except EngineError as error:
            raise _fault(str(error)) from error
        return self._wait_child()

    def outcome(self, code: int) -> Outcome | int:
        """See ``Runtime``. The child is only a ``docker wait``: the engine is asked."""
        # Without an answer, wait itself has lost the engine.
        self._away = self._away or code != 0
        if not self._away and self._waited() == "0":
            return Outcome(code=0)  # nothing to be explained
        return self._explained()

    def _explained(self) -> Outcome | int:
        """``outcome`` by the container's state."""
        try:
            state = self._patiently(
                lambda: self._engine.state(self._spec.native_id), stoppable=False
            )
        except (RuntimeFault, EngineError) as error:
            return _lost(f"the Docker engine went away under the job: {error}")
        if state is None:
            return _lost("the container was removed under the job")
        if state.running:
            # It has outlived the absence: from here on its exit code counts again.
            self._away = False
            self._watch.pause(_ASK_AGAIN_S, stoppable=False)
            return self._wait_child()
        if not state.started or (self._away and not self._live_restore):
            return _lost("the Docker engine was restarted under the job")
        if state.oom_killed and state.exit_code != 0:
            return Outcome(code=state.exit_code, oom=True)
        return Outcome(code=state.exit_code, sentence=state.error)

    def terminate(self) -> None:
        """See ``Runtime``."""
        self._signal("TERM")

    def kill(self) -> None:
        """See ``Runtime``."""
        self._signal("KILL")

    def close(self) -> None:
        """See ``Runtime``."""
        if not self._created:
            return
        try:
            self._engine.remove(self._spec.native_id)
        except (EngineAway, EngineError) as error:
            sys.stderr.write(f"container {self._spec.native_id} is left behind: {error}\n")
        self._watch.end_descendants()

    def _signal(self, name: str) -> None:
        try:
            self._engine.call("kill", "--signal", name, "--", self._spec.native_id)
        except (EngineAway, EngineError) as error:
            # It has ended meanwhile, or the engine is away: outcome() will see.
            sys.stderr.write(f"SIG{name} not delivered: {error}\n")

    def _run_once(self, info: EngineInfo) -> None:
        if (self._home.once / "ran").exists():
            return  # by an earlier call whose answer was lost with the engine
        self._away = False
        try:
            self._engine.call(*run_arguments(self._spec, self._home, info))
        except EngineError as error:
            # Created by such a call, and perhaps not started.
            if "already in use" not in str(error):
                raise
            self._engine.call("start", "--", self._spec.native_id)

    def _wait_child(self) -> int:
        command = self._engine.command("wait", self._spec.native_id)
        return self._watch.spawn(command, self._engine.environment, self._home.waited)

    def _waited(self) -> str:
        """The exit code that ``docker wait`` printed last; empty when it did not."""
        try:
            return self._home.waited.read_text(errors="replace").split()[-1]
        except (OSError, IndexError):
            return ""

    def _patiently(self, ask: Callable[[], T], *, stoppable: bool = True) -> T:
        until = time.monotonic() + self._spec.engine_patience_s
        while True:
            try:
                return ask()
            except EngineAway as away:
                self._away = True
                if (stoppable and self._watch.asked()) or time.monotonic() > until:
                    raise RuntimeFault(
                        Fault.ENGINE_AWAY, f"the Docker engine does not answer: {away}"
                    ) from away
                self._watch.pause(_ASK_AGAIN_S, stoppable=stoppable)


def run_arguments(spec: RunSpec, home: AttemptDir, info: EngineInfo) -> list[str]:
    """``docker run --detach …`` for a job. Limits that the engine cannot set are left out:
    some of them it refuses, and ``check`` says so to the operator.

    Raises ValueError when the image is no reference.
    """
    options = {
        "--pull": "never",
        "--name": spec.native_id,
        "--label": f"nomad-bridge.attempt={spec.native_id}",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--restart": "no",
        "--log-driver": "none",
        "--ulimit": "core=0",
        "--user": "0:0" if info.rootless else _owner(home.rundir),
        "--workdir": "/rundir",
        "--entrypoint": "/bin/sh",
    }
    if not spec.network:
        options["--network"] = "none"
    if info.limits_pids:
        options["--pids-limit"] = str(spec.pids_limit)
    if info.limits_cores:
        # More than the machine has is refused.
        options["--cpus"] = str(min(spec.cores, info.cores))
    if info.limits_memory:
        options["--memory"] = f"{spec.memory_mb}m"
        if info.limits_swap:
            options["--memory-swap"] = f"{spec.memory_mb}m"
    arguments = ["run", "--detach", *(word for pair in options.items() for word in pair)]
    for name, value in (job_environment(spec) | {"HOME": _HOME}).items():
        arguments += ["--env", f"{name}={value}"]
    arguments += ["--mount", _mount(home.rundir, "/rundir")]
    arguments += ["--mount", _mount(home.once, _MARKERS)]
    return [*arguments, "--", run_reference(spec.image), "-c", _ENTRY, "entry", f"{_MARKERS}/ran"]


def _mount(source: Path, target: str) -> str:
    # The value is read as CSV; quoted, any path is one field.
    quoted = str(source).replace('"', '""')
    return f'type=bind,"source={quoted}",target={target}'


def _owner(path: Path) -> str:
    status = os.lstat(path)
    return f"{status.st_uid}:{status.st_gid}"


def _fault(said: str) -> RuntimeFault:
    # The client may print warnings before it, and where to find help after it.
    lines = said.splitlines()
    why = next((line for line in lines if "Error response" in line), lines[-1])
    if "no such image" in said.lower():
        return RuntimeFault(Fault.IMAGE_MISSING, "the image is not on this machine")
    if "/bin/sh" in said:
        return RuntimeFault(Fault.IMAGE_UNUSABLE, "the image has no /bin/sh to start run.sh")
    return RuntimeFault(Fault.INTERNAL, f"the container could not be started: {why}")


def _lost(sentence: str) -> Outcome:
    return Outcome(code=None, fault=Fault.ENGINE_LOST, sentence=sentence)
