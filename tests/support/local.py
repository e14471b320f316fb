"""A local connector of the tests' own, with buckets that are folders."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any
from uuid import UUID

from bridge import process
from bridge.connectors.local.connector import LocalConnector
from bridge.connectors.local.layout import AttemptDir
from bridge.connectors.local.steps import Mark, Step, read
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from tests.support.poll import eventually

FAKE_STAGE = Path(__file__).with_name("fake_stage")
PREFIX = "bridge-test-"


class LocalNode:
    """One machine: folders, a connector on them, and jobs made of text."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.data_dir = home / "data"
        self.node_home = home / "node"
        self.settings: dict[str, Any] = {
            "runtime": "process",
            "cores": 4,
            "memory_mb": 8000,
            "stage": FAKE_STAGE,
            "kill_timeout_s": 1.0,
            "node_name": "here",
            **settings,
        }
        self.connector = self.new_connector()
        self._specs: dict[Handle, AttemptSpec] = {}

    def new_connector(self) -> LocalConnector:
        """Another bridge process on the same folders would see this."""
        return LocalConnector(
            data_dir=self.data_dir, prefix=PREFIX, node_home=self.node_home, **self.settings
        )

    def spec(self, script: str | None, **changes: Any) -> AttemptSpec:
        """An attempt whose bucket holds ``script`` as run.sh; no bucket for None."""
        job = uuid.uuid4()
        handle = Handle(f"{PREFIX}{job.hex}-1")
        fields: dict[str, Any] = {
            "handle": handle,
            "job_id": job,
            "number": 1,
            "group": "lab",
            "code_bucket": "code-test",
            "node_pool": "g-lab",
            "bucket_id": uuid.uuid4(),
            "image": "busybox:1",
            "input_sha256": None,
            "cores": 1,
            "memory_mb": 100,
            "time_limit_s": 60,
        }
        spec = AttemptSpec(**(fields | changes))
        if script is not None:
            self.put(spec, "run.sh", script)
        self._specs[handle] = spec
        return spec

    def submit(self, script: str | None, **changes: Any) -> Handle:
        """Make an attempt and hand it over."""
        spec = self.spec(script, **changes)
        self.connector.submit(spec)
        return spec.handle

    def look(self, handle: Handle) -> Observation:
        """What the connector says of one attempt."""
        return self.connector.poll([handle])[handle]

    def wait(self, handle: Handle, state: Observed = Observed.ENDED) -> Observation:
        """The observation, as soon as the attempt is in ``state``."""

        def seen() -> Observation | None:
            found = self.look(handle)
            over = found.state is Observed.ENDED and state is not Observed.ENDED
            assert not over, f"ended early: {found}"
            return found if found.state is state else None

        found = eventually(seen, timeout=30, every=0.01)
        assert found is not None
        return found

    def close(self) -> None:
        """Stop what still runs, and wait until it has ended."""
        for handle in self.connector.sweep([]):
            self.connector.cancel(handle)
        eventually(lambda: not self.connector.sweep([]), timeout=30)

    # What lies where

    def bucket(self, spec: AttemptSpec | Handle) -> Path:
        """The folder that is the bucket."""
        spec = self._specs[spec] if isinstance(spec, Handle) else spec
        return self.node_home / "buckets" / str(spec.bucket_id)

    def put(self, spec: AttemptSpec | Handle, key: str, text: str) -> None:
        """Write an object."""
        path = self.bucket(spec) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def get(self, spec: AttemptSpec | Handle, key: str) -> str:
        """Read an object."""
        return (self.bucket(spec) / key).read_text()

    def folder(self, handle: Handle) -> AttemptDir:
        """The attempt's folder."""
        return AttemptDir(self.data_dir / "attempts" / handle.native_id)

    def step(self, handle: Handle, mark: Mark) -> Step:
        """One of the attempt's steps, as soon as it is written."""

        def seen() -> Step | None:
            try:
                found = read(self.folder(handle).steps)
            except FileNotFoundError:
                return None
            return next((step for step in found if step.mark is mark), None)

        found = eventually(seen, timeout=20, every=0.01)
        assert found is not None
        return found


def bucket_ids(node: LocalNode) -> list[UUID]:
    """The bucket ids of all attempts so far: nothing may show them."""
    return [spec.bucket_id for spec in node._specs.values()]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return process.start_time(pid) is not None


def command_lines() -> str:
    """The command lines of all processes, as ``ps`` would show them."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(Path("/proc", entry, "cmdline").read_text(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)
