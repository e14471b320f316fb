"""The local connector: this machine as a scheduler of one node.

It keeps nothing but files. Every attempt is a folder (store.py, layout.py) with
a detached supervisor (supervisor.py) that writes what happens (steps.py); this
side starts supervisors, asks them to stop, reads and judges (observe.py), and
cleans up. So jobs go on while the bridge is down, and a new bridge process
knows as much as the last one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from bridge import log, process
from bridge.connectors.base import Finding, Health, Machine, Room
from bridge.connectors.local import leftovers, machine
from bridge.connectors.local.bell import Bell
from bridge.connectors.local.engine import (
    Engine,
    EngineAway,
    EngineError,
    EngineInfo,
    run_reference,
)
from bridge.connectors.local.layout import AttemptDir, RunSpec
from bridge.connectors.local.observe import keeps_results, observe
from bridge.connectors.local.steps import Mark, Step
from bridge.connectors.local.store import Store
from bridge.connectors.local.watch import WAKE
from bridge.errors import ConnectorUnavailable, JobRejected, ProcessError
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from bridge.models.job import Phase

_log = log.get(__name__)

# -I and -S keep the supervisor's start short and free of the user's settings;
# the folder of this package is therefore named, behind everything else.
_BOOT: Final = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from bridge.connectors.local.supervisor import main; main(sys.argv[2])"
)
_PACKAGES: Final = Path(__file__).resolve().parents[3]
_START_AGAIN_S: Final = 10.0
# Each sweep asks the engine anew, so that no hand-over has to wait for its answer.
_ENGINE_FRESH_S: Final = 60.0
# A supervisor that is killed rings no bell.
_LOOK_EVERY_S: Final = 1.0
_ENGINE_REMEDY: Final = "Start Docker, or set local.docker_host."


@dataclasses.dataclass(eq=False)
class LocalConnector:
    """Runs attempts on this machine. Implements ``Connector``, ``Capacity``, ``Watch``
    and ``Survey``.

    ``runtime`` is ``docker`` or ``process`` and never changes by itself: with an
    engine that is away, handing over raises ConnectorUnavailable. ``cores`` and
    ``memory_mb`` of 0 mean all that the machine has.

    A job has ``kill_timeout_s`` between SIGTERM and SIGKILL. Should nobody ask for
    its end at a limit, the supervisor steps in ``margin_s`` later. It waits
    ``engine_patience_s`` for a Docker engine that is away.
    """

    name: str = "local"
    _: dataclasses.KW_ONLY
    data_dir: Path
    prefix: str
    node_home: Path
    stage: Path
    runtime: str
    cores: int = 0
    memory_mb: int = 0
    docker_host: str = ""
    network: bool = False
    pids_limit: int = 4096
    upload_patience_s: int = 3600
    upload_limit_s: int = 86400
    stage_in_limit_s: int = 3600
    max_unpacked_mb: int = 102_400
    max_files: int = 1_000_000
    node_name: str = ""
    kill_timeout_s: float = 10.0
    margin_s: float = 60.0
    engine_patience_s: float = 300.0

    def __post_init__(self) -> None:
        self.cores = self.cores or machine.cores()
        self.memory_mb = self.memory_mb or machine.memory_mb()
        self.node_name = self.node_name or platform.node()
        # Supervisors and the stage program have other working directories than we.
        self.data_dir = self.data_dir.absolute()
        self.node_home = self.node_home.absolute()
        self.stage = self.stage.absolute()
        self._store = Store(self.data_dir)
        self._engine = Engine(self.docker_host)
        self._engine_seen: tuple[float, EngineInfo] | None = None
        self._boot = process.boot_id()
        self._lock = threading.Lock()
        # All of this can be read again from the folders.
        self._ended: dict[str, Observation] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._started: dict[str, float] = {}

    # Connector

    def submit(self, spec: AttemptSpec) -> None:
        """See ``Connector``."""
        home = self._store.home(spec.handle.native_id)
        if home is None:
            raise JobRejected(f"{spec.handle.native_id!r} is no native id")
        self._refuse(spec)
        if not self._store.exists(home):
            self._store.create(home, self._run_spec(spec, self._engine_info()))
            _log.info("action=hand-over attempt=%s runtime=%s", home.native_id, self.runtime)
        self._look(home)

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        """See ``Connector``."""
        return {handle: self._observe(handle.native_id) for handle in handles}

    def cancel(self, handle: Handle) -> None:
        """See ``Connector``."""
        home = self._store.home(handle.native_id)
        if home is None or not self._store.exists(home):
            return
        self._store.ask_to_stop(home)
        # One that was never started is started now, sees the request and ends.
        self._look(home)
        owner = _owner(self._store.steps(home))
        if owner is not None and owner.pid is not None and owner.boot == self._boot:
            leftovers.signal_process(owner.pid, owner.start, WAKE)

    def forget(self, handle: Handle) -> None:
        """See ``Connector``. What the storage would not take is set aside, not
        removed: it exists nowhere else, and ``check`` tells the operator.
        """
        home = self._store.home(handle.native_id)
        if home is None:
            return
        if self._store.exists(home):
            if self._look(home).state is not Observed.ENDED:
                _log.warning("action=forget attempt=%s fault=still-running", home.native_id)
                return
            found = self._store.steps(home)
            if self._supervised(found):
                raise ConnectorUnavailable(f"{home.native_id} is cleaning up", retry_after=1)
            # Usually long gone; not when the engine was away at its end.
            if not self._remove_container(home):
                raise ConnectorUnavailable(
                    f"container {home.native_id} cannot be removed", _ENGINE_REMEDY
                )
            kept = keeps_results(found)
            self._store.put_away(home, self._store.kept if kept else self._store.trash)
        for cache in (self._ended, self._sizes, self._started):
            cache.pop(home.native_id, None)
        self._store.empty_trash()

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:  # noqa: ARG002
        """See ``Connector``. This machine knows no namespaces."""
        self._engine_seen = None
        with contextlib.suppress(ConnectorUnavailable):
            self._engine_info()
        return {
            Handle(name): observation
            for name in self._store.names(self.prefix)
            if (observation := self._observe(name)).state not in (Observed.ENDED, Observed.GONE)
        }

    def inhabited(self) -> set[str]:
        """See ``Survey``. One namespace stands for all of this machine."""
        return {Handle(name).namespace for name in self._store.names(self.prefix)}

    def check(self) -> Health:
        """See ``Connector``."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            found = list(machine.node_findings(self.data_dir, self.node_home, self.stage))
            found += machine.folder_findings(self._store)
        except (OSError, ConnectorUnavailable) as error:
            found = [Finding("disk", False, str(error), "Set data_dir to a folder we can write.")]
        if self.runtime == "docker":
            found += machine.engine_findings(self._engine, _ENGINE_REMEDY)
        return Health(tuple(found))

    # Capacity

    def room(self, namespace: str, node_pool: str) -> Room:  # noqa: ARG002
        """See ``Capacity``. Every attempt in the folder counts, whatever its prefix."""
        self._engine_info()
        cores, memory = self.cores, self.memory_mb
        for name in self._store.names():
            if self._observe(name).state not in (Observed.ENDED, Observed.GONE):
                used_cores, used_memory = self._size(name)
                cores, memory = cores - used_cores, memory - used_memory
        here = Machine(
            name=self.node_name,
            cores=self.cores,
            memory_mb=self.memory_mb,
            cores_free=max(cores, 0),
            memory_free_mb=max(memory, 0),
        )
        return Room(slots=here.cores_free, machines=(here,), complete=True)

    # Watch

    def watch(
        self,
        namespaces: Callable[[], Iterable[str]],  # noqa: ARG002
        changed: Callable[[str | None], None],
        stopped: threading.Event,
    ) -> None:
        """See ``Watch``. Supervisors ring a bell; everything is looked at each second,
        because one that is killed does not, and one that rings may not be heard.
        """
        while not stopped.is_set():
            try:
                with self._store.bell() as bell:
                    _listen(bell, changed, stopped)
            except ConnectorUnavailable as error:
                _log.warning("action=watch connector=%s fault=%s", self.name, error.message)
                changed(None)
                stopped.wait(_LOOK_EVERY_S)

    # Handing over

    def _refuse(self, spec: AttemptSpec) -> None:
        if spec.cores > self.cores or spec.memory_mb > self.memory_mb:
            raise JobRejected(
                f"{spec.cores} cores and {spec.memory_mb} MiB are more than {self.node_name} has: "
                f"{self.cores} cores, {self.memory_mb} MiB",
                "Ask for less.",
            )
        if self.runtime == "docker":
            try:
                run_reference(spec.image)
            except ValueError as error:
                raise JobRejected(str(error)) from error

    def _run_spec(self, spec: AttemptSpec, engine: EngineInfo | None) -> RunSpec:
        return RunSpec(
            native_id=spec.handle.native_id,
            number=spec.number,
            bucket_id=str(spec.bucket_id),
            code_bucket=spec.code_bucket,
            image=spec.image,
            input_sha256=spec.input_sha256 or "",
            cores=spec.cores,
            memory_mb=spec.memory_mb,
            time_limit_s=spec.time_limit_s,
            runtime=self.runtime,
            stage=str(self.stage),
            node_home=str(self.node_home),
            docker_host=self.docker_host,
            engine=engine,
            network=self.network,
            pids_limit=self.pids_limit,
            upload_patience_s=self.upload_patience_s,
            upload_limit_s=self.upload_limit_s,
            job_id=str(spec.job_id),
            stage_in_limit_s=self.stage_in_limit_s,
            max_unpacked_mb=self.max_unpacked_mb,
            max_files=self.max_files,
            kill_timeout_s=self.kill_timeout_s,
            margin_s=self.margin_s,
            engine_patience_s=self.engine_patience_s,
        )

    def _start(self, home: AttemptDir) -> None:
        """Start a supervisor. Two at once do no harm: one of them leaves (steps.py)."""
        with self._lock:
            last = self._started.get(home.native_id)
            if last is not None and time.monotonic() - last < _START_AGAIN_S:
                return
            self._started[home.native_id] = time.monotonic()
        argv = [sys.executable, "-I", "-S", "-c", _BOOT, str(_PACKAGES), str(home.path)]
        try:
            process.spawn_detached(
                argv, cwd=home.path, stdout=home.supervisor_log, stderr=home.supervisor_log
            )
        except (ProcessError, OSError) as error:
            raise ConnectorUnavailable(f"cannot start a supervisor: {error}") from error

    def _engine_info(self) -> EngineInfo | None:
        """What the engine can do, as it said lately; None where jobs need no engine."""
        if self.runtime != "docker":
            return None
        now = time.monotonic()
        if self._engine_seen is not None and now - self._engine_seen[0] < _ENGINE_FRESH_S:
            return self._engine_seen[1]
        try:
            info = self._engine.info()
        except (EngineAway, EngineError) as error:
            raise ConnectorUnavailable(
                f"the Docker engine does not answer: {error}", _ENGINE_REMEDY
            ) from error
        self._engine_seen = now, info
        return info

    # Looking

    def _observe(self, native_id: str) -> Observation:
        home = self._store.home(native_id)
        if home is None:
            return Observation(state=Observed.GONE)
        return self._ended.get(native_id) or self._look(home)

    def _look(self, home: AttemptDir) -> Observation:
        found = self._store.steps(home)
        if not found and not self._store.exists(home):
            return Observation(state=Observed.GONE)
        if not found:
            self._start(home)
            return Observation(state=Observed.PENDING, phase=Phase.STAGING, node=self.node_name)
        supervised = self._supervised(found)
        if not supervised:
            # It may have written its last lines between our two looks.
            found = self._store.steps(home)
        owner = _owner(found)
        same_boot = owner is not None and owner.boot == self._boot
        observation = observe(
            found,
            supervised=supervised,
            same_boot=same_boot,
            phase=home.phase(),
            node=self.node_name,
        )
        if observation.state is not Observed.ENDED:
            return observation
        orphaned = same_boot and not any(step.mark is Mark.DONE for step in found)
        if orphaned and not self._kill(home, found):
            reason = "its supervisor was killed, and the job may still be running"
            return Observation(state=Observed.UNKNOWN, reason=reason, node=self.node_name)
        self._ended[home.native_id] = observation
        return observation

    def _kill(self, home: AttemptDir, found: list[Step]) -> bool:
        """End what a dead supervisor left running; whether nothing is left."""
        gone = leftovers.kill_processes(home.native_id, found) and self._remove_container(home)
        _log.warning("action=kill attempt=%s gone=%s", home.native_id, gone)
        return gone

    def _remove_container(self, home: AttemptDir) -> bool:
        """Whether there is no container of this attempt any more."""
        spec = self._store.spec(home.native_id)
        if spec is None or spec.runtime != "docker":
            return True
        try:
            self._engine.remove(home.native_id)
        except (EngineAway, EngineError) as error:
            _log.warning("action=remove container=%s fault=%s", home.native_id, error)
            return False
        return True

    def _supervised(self, found: list[Step]) -> bool:
        owner = _owner(found)
        return (
            owner is not None
            and owner.pid is not None
            and owner.boot == self._boot
            and process.is_alive(owner.pid, owner.start)
        )

    def _size(self, native_id: str) -> tuple[int, int]:
        if native_id not in self._sizes:
            spec = self._store.spec(native_id)
            self._sizes[native_id] = (0, 0) if spec is None else (spec.cores, spec.memory_mb)
        return self._sizes[native_id]


def _listen(bell: Bell, changed: Callable[[str | None], None], stopped: threading.Event) -> None:
    look_at_all = time.monotonic()
    while not stopped.is_set():
        for native_id in bell.heard(_LOOK_EVERY_S):
            changed(native_id)
        if time.monotonic() >= look_at_all:
            changed(None)
            look_at_all = time.monotonic() + _LOOK_EVERY_S


def _owner(found: list[Step]) -> Step | None:
    return next((step for step in found if step.mark is Mark.SUPERVISED), None)
