"""The supervisor of one attempt: stage in, the job's program, stage out.

A process of its own, in a session of its own, so that a job goes on while the
bridge is down. It writes every step to ``steps.jsonl`` (steps.py); what the
steps mean is judged by the connector (observe.py). It exits at once when the
attempt had a supervisor before, living or dead.

It is started as ``python -I -S`` and imports nothing beyond the standard
library, ``bridge.process`` and its neighbours: it must be up in some 50 ms.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Final

from bridge import process
from bridge.connectors.local.docker import DockerRuntime
from bridge.connectors.local.layout import AttemptDir, RunSpec
from bridge.connectors.local.runtime import (
    NATIVE_ID_VARIABLE,
    Outcome,
    ProcessRuntime,
    Runtime,
    RuntimeFault,
)
from bridge.connectors.local.steps import Fault, Mark, StepLog, Stop
from bridge.connectors.local.watch import Watch, signal_group

_REMOVE_TIMEOUT_S: Final = 3600.0


class Supervisor:
    """Takes one attempt through its steps."""

    def __init__(self, home: AttemptDir, spec: RunSpec, steps: StepLog, watch: Watch) -> None:
        self._home = home
        self._spec = spec
        self._steps = steps
        self._watch = watch
        # Names this very start in the bucket's owner object, as an alloc id would.
        self._alloc = os.urandom(16).hex()

    def run(self) -> None:
        """Go through the steps; the last line is written whatever happens."""
        fault, sentence, spent = None, "", False
        try:
            spent = self._attempt()
        except Exception as error:
            fault, sentence = Fault.INTERNAL, f"{type(error).__name__}: {error}"
            raise
        finally:
            self._watch.end_descendants()
            self._steps.write(Mark.DONE, fault=fault, sentence=sentence)
        if spent:
            self._remove_rundir()

    def _attempt(self) -> bool:
        """Whether the run directory may go: it holds nothing, or all is in the bucket."""
        for folder in (self._home.rundir, self._home.once, self._home.state):
            folder.mkdir(mode=0o700)
        if not self._watch.asked() and self._stage_in() != 0:
            return True
        if not self._main():
            return True
        return self._stage_out() == 0

    def _stage_in(self) -> int:
        limit = self._spec.stage_in_limit_s + self._spec.margin_s
        return self._stage("in", Mark.STAGE_IN, Mark.STAGE_IN_ENDED, limit)

    def _stage_out(self) -> int:
        longest = max(self._spec.upload_limit_s, self._spec.upload_patience_s)
        limit = longest + self._spec.margin_s
        return self._stage("out", Mark.STAGE_OUT, Mark.STAGE_OUT_ENDED, limit)

    def _stage(self, verb: str, started: Mark, ended: Mark, limit: float) -> int:
        environment = self._stage_environment()
        pid = self._watch.spawn([self._spec.stage, verb], environment, self._home.stage_log)
        self._steps.write(started, pid=pid, start=process.start_time(pid))
        # Results are brought home also when the job shall stop.
        stoppable = verb == "in"
        stop: Stop | None = None
        code = self._watch.wait(pid, until=time.monotonic() + limit, stoppable=stoppable)
        if code is None:
            stop = (self._watch.asked() if stoppable else None) or Stop.TIME_LIMIT
            code = self._end(pid)
        self._watch.end_descendants()
        self._steps.write(ended, code=code, stop=stop, sentence=self._home.sentence(verb, code))
        return code

    def _end(self, pid: int) -> int:
        signal_group(pid, signal.SIGTERM)
        until = time.monotonic() + self._spec.kill_timeout_s
        code = self._watch.wait(pid, until=until, stoppable=False)
        while code is None:
            signal_group(pid, signal.SIGKILL)
            until = time.monotonic() + self._spec.kill_timeout_s
            code = self._watch.wait(pid, until=until, stoppable=False)
        return code

    def _main(self) -> bool:
        """Whether the program ran, so that there may be results."""
        if stop := self._watch.asked():
            self._steps.write(Mark.MAIN_ENDED, stop=stop)
            return False
        runtime = self._runtime()
        try:
            child = runtime.start()
            self._steps.write(Mark.MAIN, pid=child, start=process.start_time(child))
            outcome, stop = self._watch_over(runtime, child)
        except RuntimeFault as error:
            self._steps.write(
                Mark.MAIN_ENDED,
                stop=self._watch.asked(),
                fault=error.fault,
                sentence=error.sentence,
            )
            return False
        finally:
            runtime.close()
        self._steps.write(
            Mark.MAIN_ENDED,
            code=outcome.code,
            oom=outcome.oom,
            stop=stop,
            fault=outcome.fault,
            sentence=outcome.sentence,
        )
        return True

    def _watch_over(self, runtime: Runtime, child: int) -> tuple[Outcome, Stop | None]:
        stop: Stop | None = None
        until = time.monotonic() + self._spec.time_limit_s + self._spec.margin_s
        while True:
            code = self._watch.wait(child, until=until, stoppable=stop is None)
            if code is not None:
                outcome = runtime.outcome(code)
                if isinstance(outcome, Outcome):
                    # At a shutdown the program got the same signal as we did.
                    shutdown = self._watch.asked() is Stop.SHUTDOWN
                    return outcome, stop or (Stop.SHUTDOWN if shutdown else None)
                child = outcome
            elif stop is None:
                stop = self._watch.asked() or Stop.TIME_LIMIT
                runtime.terminate()
                until = time.monotonic() + self._spec.kill_timeout_s
            elif time.monotonic() >= until:
                runtime.kill()
                until = time.monotonic() + self._spec.kill_timeout_s

    def _runtime(self) -> Runtime:
        kind = DockerRuntime if self._spec.runtime == "docker" else ProcessRuntime
        return kind(self._spec, self._home, self._watch)

    def _stage_environment(self) -> dict[str, str]:
        spec = self._spec
        extra = {
            "BRIDGE_HOME": spec.node_home,
            "BRIDGE_BUCKET": spec.bucket_id,
            "BRIDGE_CODE_BUCKET": spec.code_bucket,
            "BRIDGE_IMAGE": spec.image,
            "BRIDGE_INPUT_SHA256": spec.input_sha256,
            "BRIDGE_ATTEMPT": str(spec.number),
            "BRIDGE_JOB": spec.job_id,
            "BRIDGE_ALLOC": self._alloc,
            "BRIDGE_RUNDIR": str(self._home.rundir),
            "BRIDGE_STATE": str(self._home.state),
            "BRIDGE_RUNTIME": spec.runtime,
            "BRIDGE_UPLOAD_PATIENCE": str(spec.upload_patience_s),
            "BRIDGE_STAGE_IN_LIMIT": str(spec.stage_in_limit_s),
            "BRIDGE_MAX_UNPACKED_MB": str(spec.max_unpacked_mb),
            "BRIDGE_MAX_FILES": str(spec.max_files),
            NATIVE_ID_VARIABLE: spec.native_id,
        }
        if spec.docker_host:
            extra["DOCKER_HOST"] = spec.docker_host
        environment = process.clean_environment(extra)
        # rclone comes with our own Python environment, which need not be on the PATH.
        environment["PATH"] += os.pathsep + str(Path(sys.executable).parent)
        return environment

    def _remove_rundir(self) -> None:
        folders = [folder for folder in (self._home.rundir, self._home.home) if folder.exists()]
        done = process.run(["rm", "-rf", "--", *folders], timeout=_REMOVE_TIMEOUT_S)
        if done.returncode:
            sys.stderr.write(f"not removed now: {done.stderr}")


def main(folder: str) -> None:
    """Supervise the attempt in ``folder``, unless it was supervised before."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    home = AttemptDir(Path(folder))
    watch = Watch(home.cancel)
    steps = StepLog.claim(home.steps)
    if steps is None:
        return
    try:
        spec = RunSpec.read(home.spec)
    except (OSError, ValueError, TypeError) as error:
        steps.write(Mark.DONE, fault=Fault.INTERNAL, sentence=f"spec.json: {error}")
        raise
    Supervisor(home, spec, steps, watch).run()
