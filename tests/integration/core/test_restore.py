"""Backup, life goes on, restore: nothing runs twice without anybody being told."""

from __future__ import annotations

import io
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import boto3
import pytest

from bridge import backup, resources
from bridge.connectors.base import Connector
from bridge.connectors.local.connector import LocalConnector
from bridge.core.feeder import Feeder, Pace
from bridge.core.jobs import Jobs
from bridge.core.outlook import Outlook
from bridge.core.queue import Reserve
from bridge.core.reconcile import Reconciler
from bridge.core.verdict import Policy
from bridge.db import attempts, instance, jobs
from bridge.db.engine import Database
from bridge.embedded import EmbeddedS3
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Cause, Handle, Observation, Observed
from bridge.models.job import FINAL, Job, JobState
from tests.integration.core.conftest import House
from tests.support.fake_connector import FakeConnector
from tests.support.needs import need
from tests.support.poll import eventually, free_port

ALREADY = "already handed over before the restore"
UNKNOWN = "handed over before the restore, and unknown to the scheduler now"
ALL_AT_ONCE = Pace(threads=2, at_once=1000, reserve=Reserve(least=1000, most=1000))


class Scheduler(FakeConnector):
    """Buckets remember their owner, as those of the stage program do."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: Counter[UUID] = Counter()
        self._owners: dict[UUID, int] = {}

    def submit(self, spec: AttemptSpec) -> None:
        super().submit(spec)
        if self.shown[spec.handle].state is not Observed.PENDING or spec.handle in self.cancels:
            return
        if self.submits.count(spec.handle) > 1 and spec.handle not in self.forgotten:
            return
        if self._owners.get(spec.bucket_id, 0) >= spec.number:
            self.end(spec.handle, Cause.WITHDRAWN)
            return
        self._owners[spec.bucket_id] = spec.number
        self.runs[spec.bucket_id] += 1
        self.shown[spec.handle] = Observation(state=Observed.RUNNING)

    def end(self, handle: Handle, cause: Cause | None = None) -> None:
        code = 0 if cause is None else None
        self.shown[handle] = Observation(state=Observed.ENDED, cause=cause, exit_code=code)

    def cancel(self, handle: Handle) -> None:
        super().cancel(handle)
        if handle in self.shown:
            self.end(handle, Cause.CANCELED)


class Surveying(Scheduler):
    """It finds out by itself where anything of ours lives, unless it is ``denied`` that."""

    def __init__(self) -> None:
        super().__init__()
        self.surveys = 0
        self.denied = False

    def inhabited(self) -> set[str]:
        self._ask()
        self.surveys += 1
        if self.denied:
            raise ConnectorUnavailable("Permission denied", "Grant list-jobs.", 30, narrow=True)
        alive = (one for one, seen in self.shown.items() if seen.state is not Observed.ENDED)
        return {one.namespace for one in alive}


class Service:
    """The loops of a service on a database, started anew."""

    def __init__(self, url: str, scheduler: Connector, clock: Callable[[], float]) -> None:
        self.db = Database(url)
        self.this = self.db.write(instance.get_or_create)
        connectors = {"local": scheduler}
        self.jobs = Jobs(self.db, outlook=Outlook(self.db, connectors), clock=clock)
        self.feeder = Feeder(
            self.db, connectors, prefix="bridge-t-", pace=ALL_AT_ONCE, clock=clock, ticks=clock
        )
        policy = Policy(gone_grace_s=0, restored_at=self.this.restored_at)
        self.reconciler = Reconciler(
            self.db, connectors, policy=policy, forget_after_s=0, clock=clock, ticks=clock
        )

    def step(self) -> None:
        self.feeder.step()
        self.reconciler.step()

    def job(self, job: Job) -> Job | None:
        return self.db.read(lambda conn: jobs.get(conn, job.id))

    def ended(self, job: Job) -> tuple[JobState, str | None]:
        found = self.job(job)
        assert found is not None and found.state in FINAL, found
        return found.state, found.reason

    def close(self) -> None:
        self.feeder.close()
        self.db.close()


class Drill:
    """A house whose service can be stopped, put back to a backup and started again."""

    def __init__(self, house: House, url: str, folder: Path) -> None:
        self.house, self.url = house, url
        self.file = folder / "backup"
        self.scheduler = Surveying()
        self.service = Service(url, self.scheduler, house.clock)

    def submit(self, count: int) -> list[Job]:
        return [self.house.submit() for _ in range(count)]

    def late_group(self) -> Handle:
        """A group of its own namespace, one attempt of which runs."""
        groups, access = self.house.groups, self.house.access
        _, secret = groups.add_group("late", "eve", connector="local")
        groups.rotate_compute_secret(access.by_secret(secret))
        job = self.house.submit(access.by_secret(secret))
        self.service.step()
        handle = Handle(self.handle(job).native_id, "g-late")
        assert self.scheduler.shown[handle].state is Observed.RUNNING
        return handle

    def handle(self, job: Job, number: int = 1) -> Handle:
        return Handle(f"bridge-t-{job.id.hex}-{number}", self.house.root.group.namespace)

    def end(self, *ended: Job, forget: bool = False) -> None:
        for job in ended:
            self.scheduler.end(self.handle(job))
        self.service.reconciler.step()
        if forget:
            for job in ended:
                self.scheduler.forget(self.handle(job))

    def backup(self) -> None:
        backup.make(self.url, self.file)

    def restore(self) -> None:
        """Stop, restore, start; a new scheduler session, but the same scheduler."""
        self.service.close()
        self.house.db.close()
        backup.restore(self.url, self.file)
        self.service = Service(self.url, self.scheduler, self.house.clock)

    def settle(self) -> None:
        """Until all that runs has ended well and everything is recorded."""
        self.service.reconciler.sweep()
        for _ in range(3):
            self.service.step()
            for handle, seen in self.scheduler.shown.items():
                if seen.state is not Observed.ENDED:
                    self.scheduler.end(handle)
            self.house.pass_time(1)
        self.service.step()


@pytest.fixture
def drill(house: House, database_url: str, tmp_path: Path) -> Iterator[Drill]:
    if database_url.startswith("postgres"):
        need("pg_dump")
    house.clock.now = time.time() - 100  # the new epoch starts after what is here
    made = Drill(house, database_url, tmp_path)
    yield made
    made.service.close()


def test_a_hundred_jobs_later(drill: Drill) -> None:
    done, running, waiting = drill.submit(5), drill.submit(10), []
    drill.service.step()
    drill.end(*done, forget=True)
    waiting = drill.submit(10)
    drill.backup()

    later = drill.submit(100)
    drill.service.step()
    drill.end(*running[:5], *waiting[:3], *later[:40], forget=True)
    drill.end(*waiting[3:6], *later[40:80])
    drill.restore()
    drill.house.clock.now = time.time() + 1
    drill.settle()

    assert set(drill.scheduler.runs.values()) == {1}
    assert len(drill.scheduler.runs) == 125
    ended = drill.service.ended
    assert {ended(job) for job in (*done, *running[5:], *waiting[3:])} == {
        (JobState.COMPLETED, None)
    }
    assert {ended(job) for job in running[:5]} == {(JobState.FAILED, UNKNOWN)}
    assert {ended(job) for job in waiting[:3]} == {(JobState.FAILED, ALREADY)}
    assert [drill.service.job(job) for job in later] == [None] * 100
    assert {drill.handle(job) for job in later[80:]} <= set(drill.scheduler.cancels)
    assert not {drill.handle(job) for job in running + waiting} & set(drill.scheduler.cancels)


def test_nothing_is_handed_over_before_a_full_sweep(drill: Drill) -> None:
    [job] = drill.submit(1)
    drill.backup()
    drill.restore()
    assert (drill.service.this.epoch, drill.service.this.swept_at) == (2, None)
    drill.service.step()
    drill.scheduler.away = True
    drill.service.reconciler.sweep()
    drill.scheduler.away = False
    drill.service.step()
    assert drill.scheduler.submits == []
    drill.house.pass_time(2)  # the scheduler may be asked again
    drill.service.reconciler.sweep()
    drill.service.step()
    assert drill.scheduler.submits == [drill.handle(job)]


class TestGroupsMadeAfterTheBackup:
    def test_what_still_runs_is_stopped(self, drill: Drill) -> None:
        drill.backup()
        orphan = drill.late_group()
        drill.restore()
        drill.service.reconciler.sweep()
        assert drill.scheduler.cancels == [orphan]
        assert drill.service.db.look_up(instance.is_swept)
        for _ in range(3):
            drill.house.pass_time(60)
            drill.service.reconciler.sweep()
        assert (drill.scheduler.cancels, drill.scheduler.surveys) == ([orphan], 1)

    def test_also_if_it_could_not_be_stopped_at_once(
        self, drill: Drill, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drill.backup()
        orphan = drill.late_group()
        drill.restore()

        def busy(handle: Handle) -> None:
            raise ConnectorUnavailable("busy", retry_after=1.0)

        with monkeypatch.context() as broken:
            broken.setattr(drill.scheduler, "cancel", busy)
            drill.service.reconciler.sweep()
        assert drill.scheduler.cancels == []
        drill.house.pass_time(120)
        drill.service.reconciler.sweep()
        assert drill.scheduler.cancels == [orphan]

    def test_nothing_is_handed_over_before_the_scheduler_has_answered(self, drill: Drill) -> None:
        drill.backup()
        drill.late_group()
        drill.restore()
        drill.scheduler.away = True
        drill.service.reconciler.sweep()
        assert not drill.service.db.look_up(instance.is_swept)

    def test_where_it_may_not_be_asked_that_is_no_reason_to_wait(self, drill: Drill) -> None:
        drill.backup()
        orphan = drill.late_group()
        drill.restore()
        drill.scheduler.denied = True
        drill.service.reconciler.sweep()
        assert drill.service.db.look_up(instance.is_swept)
        [fault] = drill.service.reconciler._patience.faults("local")
        assert fault.detail == "in any namespace: Permission denied"
        drill.scheduler.denied = False
        drill.service.reconciler.sweep()  # too early
        assert drill.scheduler.cancels == []
        drill.house.pass_time(30)
        drill.service.reconciler.sweep()
        assert drill.scheduler.cancels == [orphan]

    def test_a_database_that_was_never_restored_needs_no_survey(self, drill: Drill) -> None:
        drill.late_group()
        drill.service.reconciler.sweep()
        assert (drill.scheduler.surveys, drill.scheduler.cancels) == (0, [])


def test_a_job_goes_on_with_the_later_attempt_that_is_under_way(drill: Drill) -> None:
    waiting, running = drill.submit(2)
    drill.house.jobs.hold(drill.house.ada, waiting.id)
    drill.service.step()
    drill.house.jobs.release(drill.house.ada, waiting.id)
    drill.backup()
    drill.scheduler.end(drill.handle(running), Cause.NODE_LOST)
    drill.service.step()
    drill.scheduler.end(drill.handle(waiting), Cause.NODE_LOST)
    drill.service.reconciler.step()
    drill.house.pass_time(60)
    drill.service.step()
    assert {drill.handle(job, 2) for job in (waiting, running)} <= set(drill.scheduler.shown)

    drill.restore()
    drill.house.clock.now = time.time() + 1
    drill.settle()
    for job in (waiting, running):
        found = drill.service.job(job)
        assert found is not None
        assert (found.state, found.attempt) == (JobState.COMPLETED, 2)
        assert drill.scheduler.runs[job.bucket_id] == 2  # the first one was lost with its node
    assert drill.scheduler.cancels == []


def test_a_job_that_was_given_up_can_be_tried_again(drill: Drill) -> None:
    [job] = drill.submit(1)
    drill.backup()
    drill.service.step()
    drill.end(job, forget=True)
    drill.restore()
    drill.house.clock.now = time.time() + 1
    drill.settle()
    assert drill.service.ended(job) == (JobState.FAILED, ALREADY)
    drill.service.jobs.retry(drill.house.ada, job.id)
    drill.settle()
    assert drill.service.ended(job) == (JobState.COMPLETED, None)
    numbers = [
        one.number for one in drill.service.db.read(lambda conn: attempts.of_job(conn, job.id))
    ]
    assert numbers == [1, 2]


def test_one_that_had_failed_before_and_was_tried_again_can_be_tried_once_more(
    drill: Drill,
) -> None:
    [job] = drill.submit(1)
    drill.service.step()
    drill.scheduler.end(drill.handle(job), Cause.EXIT)
    drill.service.reconciler.step()
    drill.backup()
    drill.service.jobs.retry(drill.house.ada, job.id)
    drill.service.step()
    drill.restore()
    drill.house.clock.now = time.time() + 1
    drill.service.reconciler.sweep()
    assert drill.scheduler.cancels == [drill.handle(job, 2)]  # the job has ended, as far as we know
    drill.service.jobs.retry(drill.house.ada, job.id)
    drill.settle()
    assert drill.service.ended(job) == (JobState.COMPLETED, None)
    assert drill.scheduler.submits[-1] == drill.handle(job, 3)


class RealNode:
    """This machine as a node: storage, the stage program, programs as processes."""

    def __init__(self, home: Path) -> None:
        self.runs = home / "runs"
        self.runs.mkdir()
        self.storage = EmbeddedS3(home / "s3", f"127.0.0.1:{free_port()}")
        self.storage.start()
        keys = self.storage.keys
        conf = home / "node" / "etc" / "s3.conf"
        conf.parent.mkdir(parents=True)
        conf.touch(mode=0o600)
        conf.write_text(
            f"S3_SERVER={self.storage.server}\nS3_ACCESS={keys.access}\nS3_SECRET={keys.secret}\n"
        )
        self.connector = LocalConnector(
            data_dir=home / "local",
            prefix="bridge-t-",
            node_home=home / "node",
            stage=resources.path("node-setup/bin/stage"),
            runtime="process",
            cores=4,
            memory_mb=100_000,
        )

    def fill(self, job: Job) -> None:
        """A bucket whose program says that it ran."""
        script = f"echo ran >>'{self.runs}/{job.id}'\n".encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            member = tarfile.TarInfo("run.sh")
            member.size = len(script)
            tar.addfile(member, io.BytesIO(script))
        keys = self.storage.keys
        s3 = boto3.client(
            "s3",
            endpoint_url=self.storage.server,
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
            region_name="us-east-1",
        )
        s3.create_bucket(Bucket=str(job.bucket_id))
        s3.put_object(Bucket=str(job.bucket_id), Key="run.tgz", Body=archive.getvalue())
        s3.close()

    def times(self, job: Job) -> int:
        return (self.runs / str(job.id)).read_text().count("ran")


def _run_to_the_end(service: Service, *wanted: Job) -> None:
    def all_ended() -> bool:
        service.step()
        return all((found := service.job(job)) and found.state in FINAL for job in wanted)

    eventually(all_ended, timeout=60, every=0.1)


def test_on_this_machine(tmp_path: Path, sqlite_url: str) -> None:
    node = RealNode(tmp_path)
    database = Database(sqlite_url)
    database.upgrade()
    house = House(database)
    house.clock.now = time.time()
    service = Service(sqlite_url, node.connector, time.time)
    try:
        first, second, third = (house.submit() for _ in range(3))
        for job in (first, second, third):
            node.fill(job)
        for job in (second, third):
            house.jobs.hold(house.ada, job.id)
        _run_to_the_end(service, first)
        for job in (second, third):
            house.jobs.release(house.ada, job.id)
        backup.make(sqlite_url, tmp_path / "backup")
        house.jobs.hold(house.ada, third.id)
        _run_to_the_end(service, second)
        service.reconciler.forget()
        house.jobs.release(house.ada, third.id)
        _run_to_the_end(service, third)
        house.db.close()
        service.close()
        backup.restore(sqlite_url, tmp_path / "backup")

        service = Service(sqlite_url, node.connector, time.time)
        service.reconciler.sweep()
        _run_to_the_end(service, first, second, third)
        assert service.ended(first) == service.ended(third) == (JobState.COMPLETED, None)
        assert service.ended(second) == (JobState.FAILED, ALREADY)
        assert [node.times(job) for job in (first, second, third)] == [1, 1, 1]
    finally:
        service.close()
        house.feeder.close()
        house.db.close()
        node.storage.stop()
