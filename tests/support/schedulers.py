"""Schedulers with their connectors, as the tests of the contract meet them all.

Each lets a test make an attempt, hold it up between its steps, and see what it left.
"""

from __future__ import annotations

import contextlib
import socket
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from bridge.connectors.base import Connector
from bridge.connectors.nomad.client import Connection
from bridge.connectors.nomad.connector import NomadConnector
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from tests.support.local import PREFIX as LOCAL_PREFIX
from tests.support.local import LocalNode
from tests.support.nomad_cluster import POOL, NomadCluster
from tests.support.poll import eventually, free_port
from tests.support.recorded_nomad import RecordedNomad


class Program(Enum):
    """What a job may do: its run.sh."""

    SUCCEEDS = "echo ran >>ran.txt"
    EXITS_3 = "echo half >half.txt; exit 3"
    RUNS_ON = "echo half >half.txt; exec sleep 600"


class Scheduler(ABC):
    """One that really runs programs, or shows what one has answered."""

    connector: Connector
    prefix: str
    namespace: str
    deadline_s = 30.0  # within which ``stuck`` returns; by itself it never would

    @abstractmethod
    def spec(self, program: Program = Program.SUCCEEDS, **changes: Any) -> AttemptSpec:
        """An attempt whose bucket is there; it is not handed over."""

    @abstractmethod
    def another(self) -> Connector:
        """The connector of another process of the bridge."""

    @abstractmethod
    def away(self) -> Connector:
        """A connector whose scheduler cannot be asked."""

    @abstractmethod
    def stuck(self) -> contextlib.AbstractContextManager[Connector]:
        """A connector whose scheduler takes calls and does not go on with them."""

    @abstractmethod
    def too_much(self) -> dict[str, Any]:
        """Changes that make an attempt one that is never accepted."""

    @abstractmethod
    def hold_staging(self, spec: AttemptSpec) -> None:
        """Let stage-in wait, for good, before it does anything."""

    @abstractmethod
    def fail(self, spec: AttemptSpec, step: str, code: int) -> None:
        """Let stage ``in`` or ``out`` end with a code of its protocol."""

    @abstractmethod
    def result(self, spec: AttemptSpec, name: str) -> str | None:
        """A file in the bucket that the program made; None without."""

    def look(self, spec: AttemptSpec) -> Observation:
        """What the connector says now."""
        return self.connector.poll([spec.handle])[spec.handle]

    def until(self, spec: AttemptSpec, state: Observed) -> Observation:
        """What the connector says, once the attempt is in ``state``."""

        def there() -> Observation | None:
            seen = self.look(spec)
            over = seen.state is Observed.ENDED and state is not Observed.ENDED
            assert not over, f"ended early: {seen}"
            return seen if seen.state is state else None

        seen = eventually(there, timeout=40)
        assert seen is not None
        return seen

    def run(self, spec: AttemptSpec) -> Observation:
        """Hand it over; its end."""
        self.connector.submit(spec)
        return self.until(spec, Observed.ENDED)

    def running(self) -> AttemptSpec:
        """One whose program runs on and has written something."""
        spec = self.spec(Program.RUNS_ON)
        self.connector.submit(spec)
        self.until(spec, Observed.RUNNING)
        self.await_output(spec)
        return spec

    @abstractmethod
    def await_output(self, spec: AttemptSpec) -> None:
        """Wait until a program that runs on has written its file."""

    @abstractmethod
    def close(self) -> None:
        """Stop what still runs."""


class Local(Scheduler):
    """This machine, with the process or the Docker runtime."""

    prefix = LOCAL_PREFIX
    namespace = ""

    def __init__(self, home: Path, image: str = "any:1", **settings: Any) -> None:
        self._home = home
        self._image = image
        self._settings = settings
        self._node = LocalNode(home, **settings)
        self.connector = self._node.connector

    def spec(self, program: Program = Program.SUCCEEDS, **changes: Any) -> AttemptSpec:
        return self._node.spec(program.value, **({"image": self._image} | changes))

    def another(self) -> Connector:
        return self._node.new_connector()

    def away(self) -> Connector:
        # No disk has room for such a name: every access fails.
        return LocalNode(self._home / ("x" * 300), **self._settings).connector

    @contextlib.contextmanager
    def stuck(self) -> Iterator[Connector]:
        """Its stage program does nothing; with Docker, the engine."""
        if self._settings.get("runtime") != "docker":
            stage = self._home / "stuck-stage"
            stage.write_text("#!/bin/sh\nexec sleep 600\n")
            stage.chmod(0o755)
            stuck = LocalNode(self._home / "stuck", **self._settings | {"stage": stage})
            yield stuck.connector
            stuck.close()
            return
        path = self._home / "stuck.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(64)
            settings = self._settings | {"docker_host": f"unix://{path}"}
            yield LocalNode(self._home / "stuck", **settings).connector

    def too_much(self) -> dict[str, Any]:
        return {"cores": 1000}

    def hold_staging(self, spec: AttemptSpec) -> None:
        self._node.put(spec, ".stage-in", "exec sleep 600")

    def fail(self, spec: AttemptSpec, step: str, code: int) -> None:
        self._node.put(spec, f".stage-{step}", f'finish {code} ""')

    def result(self, spec: AttemptSpec, name: str) -> str | None:
        path = self._node.bucket(spec) / name
        return path.read_text() if path.exists() else None

    def await_output(self, spec: AttemptSpec) -> None:
        eventually((self._node.folder(spec.handle).rundir / "half.txt").exists, timeout=20)

    def close(self) -> None:
        self._node.close()


class _Nomad(Scheduler):
    """What is the same whether Nomad is real or not."""

    namespace = POOL

    def __init__(self, connection: Connection) -> None:
        self.prefix = f"bridge-{uuid.uuid4().hex[:8]}-"
        self._connection = connection
        self.connector = self.another()
        self._specs: list[AttemptSpec] = []

    def spec(self, program: Program = Program.SUCCEEDS, **changes: Any) -> AttemptSpec:
        job_id = uuid.uuid4()
        fields: dict[str, Any] = {
            "handle": Handle(f"{self.prefix}{job_id.hex}-1", POOL),
            "job_id": job_id,
            "number": 1,
            "group": "lab",
            "code_bucket": "code-abc",
            "node_pool": POOL,
            "bucket_id": uuid.uuid4(),
            "image": "any:1",
            "input_sha256": None,
            "cores": 1,
            "memory_mb": 64,
            "time_limit_s": 600,
        }
        spec = AttemptSpec(**(fields | changes))
        self._specs.append(spec)
        self.prepare(spec, program)
        return spec

    @abstractmethod
    def prepare(self, spec: AttemptSpec, program: Program) -> None:
        """Make its bucket."""

    def another(self) -> Connector:
        return self._with()

    def away(self) -> Connector:
        return self._with(address=f"http://127.0.0.1:{free_port()}")

    @contextlib.contextmanager
    def stuck(self) -> Iterator[Connector]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            yield self._with(address=f"http://127.0.0.1:{port}", request_timeout_s=0.3)

    def too_much(self) -> dict[str, Any]:
        return {"memory_mb": 1}  # Nomad's least is 10

    def _with(self, **changes: Any) -> Connector:
        connection = msgspec.structs.replace(self._connection, **changes)
        return NomadConnector(connection, prefix=self.prefix)


class RealNomad(_Nomad):
    """A cluster whose node has the stand-in for stage."""

    def __init__(self, cluster: NomadCluster, image: str) -> None:
        self._cluster = cluster
        self._image = image
        super().__init__(cluster.connection())

    def spec(self, program: Program = Program.SUCCEEDS, **changes: Any) -> AttemptSpec:
        return super().spec(program, **{"image": self._image} | changes)

    def prepare(self, spec: AttemptSpec, program: Program) -> None:
        self._bucket(spec).mkdir()
        (self._bucket(spec) / "run.sh").write_text(program.value)

    def hold_staging(self, spec: AttemptSpec) -> None:
        (self._bucket(spec) / "in.hold").touch()

    def fail(self, spec: AttemptSpec, step: str, code: int) -> None:
        (self._bucket(spec) / f"{step}.exit").write_text(str(code))

    def result(self, spec: AttemptSpec, name: str) -> str | None:
        path = self._bucket(spec) / "results" / name
        return path.read_text() if path.exists() else None

    def await_output(self, spec: AttemptSpec) -> None:
        path = f"job/{spec.handle.native_id}/allocations"
        (alloc,) = self._cluster.call("GET", path, namespace=POOL)
        below = f"*/alloc/{alloc['ID']}/alloc/data/rundir/half.txt"
        eventually(lambda: list(self._cluster.home.glob(below)), timeout=20)

    def close(self) -> None:
        for spec in self._specs:
            (self._bucket(spec) / "in.hold").unlink(missing_ok=True)
            self.connector.forget(spec.handle)

    def _bucket(self, spec: AttemptSpec) -> Path:
        return self._cluster.node_home / "jobs" / str(spec.bucket_id)


_SHOWN = {
    Program.SUCCEEDS: ("staging", "running", "success"),
    Program.EXITS_3: ("staging", "running", "exit3"),
    Program.RUNS_ON: ("staging", "running"),
}
_FAILURES = {11: "input-missing", 10: "superseded", 13: "upload-failed"}
_FILES = {
    Program.SUCCEEDS: {"ran.txt": "ran\n"},
    Program.EXITS_3: {"half.txt": "half\n"},
    Program.RUNS_ON: {"half.txt": "half\n"},
}


class Recorded(_Nomad):
    """Nomad's answers from a real cluster, shown again. What a program wrote is in its
    bucket when the recording says that stage-out ended well.
    """

    def __init__(self, nomad: RecordedNomad) -> None:
        self._nomad = nomad
        self._programs: dict[Handle, Program] = {}
        super().__init__(Connection(address=nomad.url, request_timeout_s=5))

    def prepare(self, spec: AttemptSpec, program: Program) -> None:
        self._programs[spec.handle] = program
        self._nomad.recordings[spec.handle.native_id] = _SHOWN[program]

    def hold_staging(self, spec: AttemptSpec) -> None:
        self._nomad.held.add(spec.handle.native_id)

    def fail(self, spec: AttemptSpec, step: str, code: int) -> None:
        before = ("staging",) if step == "in" else ("staging", "running")
        self._nomad.recordings[spec.handle.native_id] = (*before, _FAILURES[code])

    def result(self, spec: AttemptSpec, name: str) -> str | None:
        shown = self._nomad.ever.get(spec.handle.native_id)
        if shown is None or not shown.is_uploaded:
            return None
        return _FILES[self._programs[spec.handle]].get(name)

    def await_output(self, spec: AttemptSpec) -> None:
        """It is there."""

    def close(self) -> None:
        """Nothing runs."""
