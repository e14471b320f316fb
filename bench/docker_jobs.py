"""What the bridge adds to jobs in containers of this machine.

Against the same sequences ``stage in; docker run; stage out`` by hand: the same stage
program, image, storage, options of the container, and as many at once (a job needs one
core, so as many as the machine has). They take turns. Exit code 1 when the bridge
takes more than 1.4 times as long for many jobs, or 0.2 s longer for one. Needs a
Docker engine with the image busybox:1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from comparing import complete, in_turns, judge_excess, judge_ratio, leave_nothing_behind, timed

from bridge import process, resources
from bridge.connectors.local import machine
from bridge.connectors.local.docker import run_arguments
from bridge.connectors.local.engine import Engine
from bridge.connectors.local.layout import AttemptDir, RunSpec
from tests.support.buckets import archive, fill
from tests.support.docker import published
from tests.support.service import RunningService, running

MOST_RATIO = 1.4
MOST_EXCESS_S = 0.2
MEMORY_MB = 64
TIME_LIMIT_S = 600


class ByHand:
    """The sequences without the bridge, with what its node home holds."""

    def __init__(self, service: RunningService, image: str, folder: Path) -> None:
        self._service = service
        self._image = image
        self._folder = folder
        self._stage = resources.path("node-setup/bin/stage")
        self._engine = Engine()
        self._info = self._engine.info()

    def run(self, buckets: Sequence[str]) -> None:
        """All of them, as many at once as the bridge would."""
        with ThreadPoolExecutor(machine.cores()) as pool:
            list(pool.map(self._sequence, buckets))

    def _sequence(self, bucket: str) -> None:
        home = AttemptDir(self._folder / bucket)
        for folder in (home.path, home.rundir, home.once, home.state):
            folder.mkdir(mode=0o700)
        spec = self._spec(bucket)
        staging = self._stage_environment(spec, home)
        run = [word for word in run_arguments(spec, home, self._info) if word != "--detach"]
        _do([str(self._stage), "in"], staging)
        _do(self._engine.command("run", "--rm", *run[1:]), self._engine.environment)
        _do([str(self._stage), "out"], staging)

    def _spec(self, bucket: str) -> RunSpec:
        return RunSpec(
            native_id=f"by-hand-{bucket}",
            number=1,
            bucket_id=bucket,
            code_bucket=f"code-{self._service.credentials['BRIDGE_GROUP_TOKEN']}",
            image=self._image,
            input_sha256="",
            cores=1,
            memory_mb=MEMORY_MB,
            time_limit_s=TIME_LIMIT_S,
            runtime="docker",
            stage=str(self._stage),
            node_home=str(self._service.home / "node"),
        )

    def _stage_environment(self, spec: RunSpec, home: AttemptDir) -> dict[str, str]:
        rclone = process.which("rclone")
        assert rclone is not None
        environment = process.clean_environment(
            {
                "BRIDGE_HOME": spec.node_home,
                "BRIDGE_BUCKET": spec.bucket_id,
                "BRIDGE_CODE_BUCKET": spec.code_bucket,
                "BRIDGE_IMAGE": spec.image,
                "BRIDGE_ATTEMPT": "1",
                "BRIDGE_ALLOC": uuid.uuid4().hex,
                "BRIDGE_RUNDIR": str(home.rundir),
                "BRIDGE_STATE": str(home.state),
                "BRIDGE_RUNTIME": "docker",
            }
        )
        environment["PATH"] += f":{Path(rclone).parent}"
        return environment


class ByBridge:
    """The same jobs through the service, from the submission to the last end."""

    def __init__(self, service: RunningService, image: str) -> None:
        self._service = service
        self._job = {"image": image, "cores": 1, "memory_mb": MEMORY_MB}

    def run(self, buckets: Sequence[str]) -> None:
        """Submit all in one request and wait until all are completed."""
        complete(self._service, self._job, buckets)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    leave_nothing_behind()
    with (
        tempfile.TemporaryDirectory() as name,
        running(Path(name) / "home", "--runtime", "docker") as service,
        published(service) as image,
    ):
        (Path(name) / "by-hand").mkdir()
        hand = ByHand(service, image, Path(name) / "by-hand")
        ours = ByBridge(service, image)

        def took(side: ByHand | ByBridge, jobs: int) -> float:
            buckets = [fill(service, archive([])) for _ in range(jobs)]
            return timed(lambda: side.run(buckets))

        took(ours, 1)  # loads the image
        cores = machine.cores()
        one, many = "1 job", f"{asked.jobs} jobs, {cores} at once"
        single = in_turns(one, 2 * asked.runs, lambda: took(ours, 1), lambda: took(hand, 1))
        batch = in_turns(
            many, asked.runs, lambda: took(ours, asked.jobs), lambda: took(hand, asked.jobs)
        )
    fine = [judge_excess(one, single, MOST_EXCESS_S), judge_ratio(many, batch, MOST_RATIO)]
    return int(not all(fine))


def _do(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:2]}: {done.stderr}"


if __name__ == "__main__":
    sys.exit(main())
