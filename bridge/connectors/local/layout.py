"""The folder of one attempt, and what its supervisor is told.

    <data_dir>/attempts/<native id>/
        spec.json        what to run (0600: it names the bucket)
        steps.jsonl      what happened so far; made by the supervisor, see steps.py
        cancel           somebody asked that the attempt stops
        rundir/          the job's run directory
        home/            the job's HOME on the process runtime
        once/            where the entry script leaves its marker
        state/           the stage program's own: phase, in.result, out.result
        stage.log        what the stage program printed
        waited           what ``docker wait`` printed: the container's exit code
        supervisor.log   what the supervisor printed: empty unless it failed

The folder appears under its name complete, by one rename, so a crash leaves
either no attempt or one that can be started. Beside ``attempts`` lies ``bell``
(bell.py). Standard library only, and
named tuples for dataclasses: the supervisor imports this and must start fast.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from bridge.connectors.local.engine import EngineInfo

# A native id is a folder name, a container name and part of a path.
NATIVE_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,120}")


class AttemptDir(NamedTuple):
    """The paths of one attempt."""

    path: Path

    @property
    def native_id(self) -> str:
        """The attempt's native id."""
        return self.path.name

    @property
    def spec(self) -> Path:
        """What to run."""
        return self.path / "spec.json"

    @property
    def steps(self) -> Path:
        """What happened so far."""
        return self.path / "steps.jsonl"

    @property
    def cancel(self) -> Path:
        """Exists once somebody asked that the attempt stops."""
        return self.path / "cancel"

    @property
    def rundir(self) -> Path:
        """The job's run directory."""
        return self.path / "rundir"

    @property
    def home(self) -> Path:
        """The job's HOME on the process runtime."""
        return self.path / "home"

    @property
    def once(self) -> Path:
        """Holds the entry script's marker, so that nothing runs twice."""
        return self.path / "once"

    @property
    def state(self) -> Path:
        """Where the stage program keeps its records, out of the job's reach."""
        return self.path / "state"

    @property
    def stage_log(self) -> Path:
        """What the stage program printed."""
        return self.path / "stage.log"

    @property
    def waited(self) -> Path:
        """What ``docker wait`` printed."""
        return self.path / "waited"

    @property
    def bell(self) -> Path:
        """By which the bridge is told of what happens to this and all other attempts."""
        return self.path.parent.parent / "bell"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor printed."""
        return self.path / "supervisor.log"

    def phase(self) -> str | None:
        """The stage program's last word on what it does, if it said one."""
        return _first_line(self.state / "phase")

    def sentence(self, verb: str, code: int) -> str:
        """What ``stage <verb>`` says about its end, if it is about this ``code``."""
        try:
            lines = (self.state / f"{verb}.result").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[1].strip() if len(lines) > 1 and lines[0].strip() == str(code) else ""


class RunSpec(NamedTuple):
    """Everything a supervisor needs. Seconds and MiB; ``bucket_id`` is confidential."""

    native_id: str
    number: int
    bucket_id: str
    code_bucket: str
    image: str
    input_sha256: str
    cores: int
    memory_mb: int
    time_limit_s: int
    runtime: str
    stage: str
    node_home: str
    docker_host: str = ""
    engine: EngineInfo | None = None  # what the Docker engine can do; None: to be asked
    network: bool = False
    pids_limit: int = 4096
    upload_patience_s: int = 3600
    upload_limit_s: int = 86400
    stage_in_limit_s: int = 3600
    max_unpacked_mb: int = 0
    max_files: int = 0
    kill_timeout_s: float = 10.0
    margin_s: float = 60.0  # how long after a limit the supervisor itself steps in
    engine_patience_s: float = 300.0  # how long the Docker engine may be away
    job_id: str = ""

    def write(self, path: Path) -> None:
        """Write this to a new file that only we can read, durably."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._asdict(), file)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, path: Path) -> RunSpec:
        """Read what ``write`` wrote.

        Raises OSError, ValueError or TypeError when the file is not that.
        """
        fields = json.loads(path.read_text(encoding="utf-8"))
        if engine := fields.get("engine"):
            fields["engine"] = EngineInfo(*engine)
        return cls(**fields)


def _first_line(path: Path) -> str | None:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return None
    return lines[0].strip() if lines else None


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
