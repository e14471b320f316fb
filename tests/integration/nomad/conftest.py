"""A real Nomad cluster, and jobs on it through the connector."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge import resources
from bridge.connectors.nomad.connector import NomadConnector
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed
from bridge.models.job import Phase
from tests.integration.nomad.house import House, RealStage, house, in_folder, in_s3
from tests.support import needs
from tests.support.nomad_cluster import POOL, NomadCluster
from tests.support.poll import eventually
from tests.support.s3 import S3

PREFIX = "bridge-it-"


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """An image as stage would have loaded it; the name is this run's alone."""
    name = f"connector-test:{uuid.uuid4().hex}"
    local = f"bridge.invalid/{name}"
    subprocess.run(["docker", "tag", needs.IMAGE, local], check=True, timeout=60)
    yield name
    subprocess.run(["docker", "rmi", local], check=False, timeout=60, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def connector(nomad: NomadCluster) -> NomadConnector:
    return NomadConnector(nomad.connection(), prefix=PREFIX)


class Trial:
    """One attempt: its bucket, and what the connector sees of it."""

    def __init__(
        self, nomad: NomadCluster, connector: NomadConnector, bucket: Path, spec: AttemptSpec
    ) -> None:
        self._nomad = nomad
        self.connector = connector
        self.bucket = bucket
        self.spec = spec

    @property
    def handle(self) -> Handle:
        return self.spec.handle

    @property
    def results(self) -> Path:
        return self.bucket / "results"

    def look(self) -> Observation:
        return self.connector.poll([self.handle])[self.handle]

    def hold(self, step: str) -> None:
        (self.bucket / f"{step}.hold").touch()

    def go_on(self, step: str) -> None:
        (self.bucket / f"{step}.hold").unlink()

    def until(self, state: Observed, phase: Phase | None = None) -> Observation:
        def there() -> Observation | None:
            seen = self.look()
            reached = seen.state is state and phase in (None, seen.phase)
            assert reached or seen.state is not Observed.ENDED, seen
            return seen if reached else None

        seen = eventually(there, timeout=90)
        assert seen is not None
        return seen

    def end(self) -> Observation:
        return self.until(Observed.ENDED)

    def await_output(self, name: str) -> None:
        """Wait until the program, whose only allocation runs, has written a file."""
        path = f"job/{self.handle.native_id}/allocations"
        (alloc,) = self._nomad.call("GET", path, namespace=self.handle.namespace)
        below = f"*/alloc/{alloc['ID']}/alloc/data/rundir/{name}"
        eventually(lambda: list(self._nomad.home.glob(below)))

    def file(self, name: str) -> str:
        return (self.results / name).read_text()


MakeTrial = Callable[..., Trial]


@pytest.fixture
def trial(connector: NomadConnector, nomad: NomadCluster, image: str) -> Iterator[MakeTrial]:
    """Make an attempt with a run.sh; it is removed from Nomad after the test."""
    made: list[Trial] = []

    def make(script: str, *, connector: NomadConnector = connector, **changes: object) -> Trial:
        job_id, bucket_id = uuid.uuid4(), uuid.uuid4()
        bucket = nomad.node_home / "jobs" / str(bucket_id)
        bucket.mkdir()
        (bucket / "run.sh").write_text(script)
        fields: dict[str, object] = {
            "handle": Handle(f"{PREFIX}{job_id.hex}-1", POOL),
            "job_id": job_id,
            "number": 1,
            "group": "lab",
            "code_bucket": "code-abc",
            "node_pool": POOL,
            "bucket_id": bucket_id,
            "image": image,
            "input_sha256": None,
            "cores": 1,
            "memory_mb": 64,
            "time_limit_s": 600,
        }
        spec = AttemptSpec(**(fields | changes))  # type: ignore[arg-type]
        one = Trial(nomad, connector, bucket, spec)
        made.append(one)
        return one

    yield make
    for one in made:
        for hold in one.bucket.glob("*.hold"):
            hold.unlink()
        one.connector.forget(one.handle)


MakeHouse = Callable[..., House]


@pytest.fixture
def open_house(nomad: NomadCluster, image: str, tmp_path: Path) -> Iterator[MakeHouse]:
    """Make a bridge with its loops; it is closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(**settings: object) -> House:
            store = in_folder(nomad.node_home / "jobs")
            return stack.enter_context(house(nomad, tmp_path, store, image, **settings))

        yield make


# The first run of a step for a bucket waits while its hold is there.
_HELD_STAGE = """#!/bin/sh
hold=$BRIDGE_HOME/holds/$BRIDGE_BUCKET.$1
if [ -e "$hold" ] && mkdir "$hold.taken"; then
    while [ -e "$hold" ]; do sleep 0.02; done
fi
exec "$BRIDGE_HOME/bin/stage.real" "$@"
"""


@pytest.fixture(scope="session")
def real_stage(
    nomad: NomadCluster, s3: S3, rclone: str, tmp_path_factory: pytest.TempPathFactory
) -> RealStage:
    """A second node home, with the real stage program, and a job file that uses it."""
    home = nomad.node_home / "real"
    shutil.copytree(resources.path("node-setup"), home)
    (home / "bin" / "stage").rename(home / "bin" / "stage.real")
    (home / "bin" / "stage").write_text(_HELD_STAGE)
    (home / "bin" / "stage").chmod(0o755)
    (home / "bin" / "rclone").symlink_to(rclone)
    for folder in ("etc", "holds", "var"):
        (home / folder).mkdir()
    keys = home / "etc" / "s3.conf"
    keys.touch(mode=0o600)
    keys.write_text(f"S3_SERVER={s3.endpoint}\nS3_ACCESS={s3.access}\nS3_SECRET={s3.secret}\n")
    job_file = tmp_path_factory.mktemp("real") / "job.nomad.hcl"
    shipped = resources.path("nomad-jobs/job.nomad.hcl").read_text()
    job_file.write_text(
        shipped.replace("${meta.bridge_home}/bin", "${meta.bridge_home}/real/bin").replace(
            'BRIDGE_HOME = "${meta.bridge_home}"', 'BRIDGE_HOME = "${meta.bridge_home}/real"'
        )
    )
    return RealStage(job_file, s3, home / "holds")


@pytest.fixture
def real_house(nomad: NomadCluster, real_stage: RealStage, tmp_path: Path) -> Iterator[MakeHouse]:
    """As ``open_house``, with the real stage program; the image is in the code bucket."""
    image = f"real-{uuid.uuid4().hex[:8]}:1"
    with contextlib.ExitStack() as stack:
        stack.callback(
            subprocess.run,
            ["docker", "rmi", f"bridge.invalid/{image}"],
            timeout=60,
            capture_output=True,
        )

        def make(**settings: object) -> House:
            given = {"nomad.job_file": real_stage.job_file} | settings
            store = in_s3(real_stage.s3)
            made = stack.enter_context(house(nomad, tmp_path, store, image, **given))
            saved = subprocess.run(
                ["docker", "save", needs.IMAGE], check=True, capture_output=True, timeout=60
            )
            code = f"{image.replace(':', '-')}.tgz"
            store(made.group.code_bucket, code, gzip.compress(saved.stdout))
            return made

        yield make
