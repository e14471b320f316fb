"""A whole bridge in this process, with its loops, whose jobs run on the real cluster."""

from __future__ import annotations

import contextlib
import io
import tarfile
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import boto3

from bridge.config import load
from bridge.daemon import Service
from bridge.models.job import FINAL, Job, JobState, NewJob, Phase
from tests.support.nomad_cluster import NomadCluster
from tests.support.poll import eventually
from tests.support.s3 import S3


def packed(script: str) -> bytes:
    """A run.tgz with just run.sh."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("run.sh")
        member.size = len(script)
        tar.addfile(member, io.BytesIO(script.encode()))
    return archive.getvalue()


class Given(NamedTuple):
    """A job, and the folder that its bucket is on this machine."""

    job: Job
    bucket: Path

    @property
    def results(self) -> Path:
        return self.bucket / "results"

    def go_on(self, step: str) -> None:
        """End the waiting of a step: ``in`` or ``out``."""
        (self.bucket / f"{step}.hold").unlink(missing_ok=True)


# Makes a bucket with its first object; where it is on this machine.
Store = Callable[[str, str, bytes], Path]


def in_folder(buckets: Path) -> Store:
    """Buckets for the stand-in for stage, which are folders."""

    def store(bucket: str, name: str, data: bytes) -> Path:
        (buckets / bucket).mkdir()
        (buckets / bucket / name).write_bytes(data)
        return buckets / bucket

    return store


def in_s3(s3: S3) -> Store:
    """Buckets of a real S3 server, by its own door: it may remember what its folder held."""

    def store(bucket: str, name: str, data: bytes) -> Path:
        client = boto3.client(
            "s3",
            endpoint_url=s3.endpoint,
            aws_access_key_id=s3.access,
            aws_secret_access_key=s3.secret,
            region_name="us-east-1",
        )
        with contextlib.closing(client):
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key=name, Body=data)
        return s3.folder / bucket

    return store


class House:
    """Group ``lab`` with its user ``ada``; ``store`` makes buckets where stage finds them."""

    def __init__(self, service: Service, store: Store, image: str) -> None:
        self.bridge = service.bridge
        self.store = store
        self.image = image
        self._given: list[Given] = []
        self.group, secret = self.bridge.groups.add_group("lab", "root", connector="nomad")
        root = self.bridge.access.by_secret(secret)
        self.bridge.groups.rotate_compute_secret(root)
        self.ada = self.bridge.access.by_secret(self.bridge.groups.add_user(root, "ada", False))

    def submit(
        self,
        script: str,
        *held: str,
        before: Callable[[Path], object] = str,
        **fields: object,
    ) -> Given:
        """A job that runs ``script``; steps named in ``held`` wait until they may go on.
        ``before`` is called with the bucket before the job is submitted.
        """
        bucket_id = uuid.uuid4()
        bucket = self.store(str(bucket_id), "run.tgz", packed(script))
        (bucket / "run.sh").write_text(script)  # the stand-in for stage unpacks nothing
        for step in held:
            (bucket / f"{step}.hold").touch()
        before(bucket)
        new = {"bucket_id": bucket_id, "image": self.image, "memory_mb": 64} | fields
        for step in held:
            (bucket / f"{step}.hold").touch()
        given = Given(self.bridge.jobs.submit(self.ada, NewJob(**new)), bucket)  # type: ignore[arg-type]
        self._given.append(given)
        return given

    def look(self, given: Given) -> Job:
        return self.bridge.jobs.get(self.ada, given.job.id)

    def until(
        self,
        given: Given,
        *states: JobState,
        phase: Phase | None = None,
        attempt: int | None = None,
        timeout: float = 90,
    ) -> Job:
        """The job, once it is so."""

        def there() -> Job | None:
            seen = self.look(given)
            fits = seen.state in states and phase in (None, seen.phase)
            fits = fits and attempt in (None, seen.attempt)
            assert fits or seen.state not in FINAL, seen
            return seen if fits else None

        seen = eventually(there, timeout=timeout, every=0.05)
        assert seen is not None
        return seen

    def running(self, given: Given, attempt: int = 1) -> Job:
        return self.until(given, JobState.RUNNING, phase=Phase.EXECUTING, attempt=attempt)

    def end(self, given: Given, states: Collection[JobState] = FINAL) -> Job:
        return self.until(given, *states)

    def is_ready(self) -> bool:
        return all(finding.ok for finding in self.bridge.ready())

    def native_id(self, given: Given, attempt: int = 1) -> str:
        return self.bridge.feeder.native_id(given.job.id, attempt)

    def leave(self, nomad: NomadCluster) -> None:
        """Nothing of ours goes on at Nomad."""
        for given in self._given:
            for step in ("in", "out"):
                given.go_on(step)
            for attempt in range(1, self.look(given).attempt + 1):
                path = f"job/{self.native_id(given, attempt)}"
                nomad.call("DELETE", path, namespace="g-lab", purge="true")


@contextlib.contextmanager
def house(
    nomad: NomadCluster, home: Path, store: Store, image: str, **settings: object
) -> Iterator[House]:
    """A bridge below ``home`` until the end; ``settings`` with two underlines for the dot."""
    connection = nomad.connection()
    flags: dict[str, object] = {
        "data_dir": home / "bridge",
        "connectors": ("nomad",),
        "server.bind": "127.0.0.1:0",
        "storage.embedded": False,
        "nomad.address": connection.address,
        "nomad.token": connection.token,
        "nomad.ca_file": connection.ca_file,
        "nomad.client_cert": connection.client_cert,
        "nomad.client_key": connection.client_key,
        "nomad.sweep_interval_s": 1.0,
        "queue.node_lost_after_s": 60.0,
        "queue.gone_grace_s": 1.0,
        "queue.retry_delay_s": 0.1,
    } | {name.replace("__", "."): value for name, value in settings.items()}
    (home / "bridge").mkdir()
    with Service(load(None, {}, flags)) as service:
        made = House(service, store, image)
        try:
            yield made
        finally:
            made.leave(nomad)


class RealStage(NamedTuple):
    """The real stage program on the nodes, with buckets in a real S3 server."""

    job_file: Path
    s3: S3
    holds: Path

    def hold_first(self, bucket: Path, step: str) -> None:
        """Let the first run of a step for this bucket wait."""
        (self.holds / f"{bucket.name}.{step}").touch()

    def go_on(self, bucket: Path, step: str) -> None:
        (self.holds / f"{bucket.name}.{step}").unlink()
