"""Jobs that ended long ago: out of every list, and still what they were."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest

from bridge import points
from bridge.core import sets as core_sets
from bridge.core.archive import Archiver
from bridge.core.usage import Usage
from bridge.db import archive as archive_db
from bridge.db import jobs as jobs_db
from bridge.db import usage
from bridge.db.statements import Prepared
from bridge.errors import Conflict, Forbidden, NotFound
from bridge.models.attempt import Cause, Observed
from bridge.models.job import Job, JobState, NewJob
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import Begin
from tests.support.interleave import at

DAY = 86400.0


def archive(house: House, days: float = 90) -> int:
    return Archiver(house.db, retention_s=days * DAY, clock=house.clock).step()


def run(house: House, code: int = 0, **fields: object) -> Job:
    """A job that started, ended 10 s later, and that its scheduler has forgotten."""
    job = house.submit(**fields)  # type: ignore[arg-type]
    house.feeder.step()
    started = house.clock.now
    house.scheduler.show(Observed.RUNNING, started_at=started)
    house.step()
    house.pass_time(10)
    cause = Cause.EXIT if code else None
    house.scheduler.show(
        Observed.ENDED, cause=cause, exit_code=code, started_at=started, ended_at=house.clock.now
    )
    house.step()
    house.pass_time(1000)
    house.reconciler.forget()
    return house.job(job)


def test_goes_after_its_time_and_stays_found(house: House) -> None:
    job = run(house, set="s", labels={"a": "b"})
    attempts = house.jobs.attempts(house.ada, job.id)
    assert archive(house) == 0
    house.pass_time(90 * DAY)
    young = run(house)
    waiting = house.submit()
    assert archive(house) == 1
    assert archive(house) == 0
    assert house.job(job) == job
    assert house.jobs.attempts(house.ada, job.id) == attempts
    assert len(attempts) == 1
    assert {one.id for one in house.jobs.find(house.ada)} == {young.id, waiting.id}
    assert house.sets.find(house.ada) == []


def test_a_retention_of_nothing_keeps_all(house: House) -> None:
    run(house)
    house.pass_time(10_000 * DAY)
    assert archive(house, days=0) == 0
    assert len(house.jobs.find(house.ada)) == 1


def test_waits_for_the_scheduler_to_forget(house: House) -> None:
    house.submit()
    house.feeder.step()
    house.scheduler.show(Observed.ENDED, exit_code=0, ended_at=house.clock.now)
    house.step()
    house.pass_time(100 * DAY)
    assert archive(house) == 0
    house.reconciler.forget()
    assert archive(house) == 1


def test_many_go_in_chunks(house: House) -> None:
    new = [NewJob(bucket_id=uuid4(), image="a:1", set="s") for _ in range(1100)]
    house.jobs.submit_many(house.ada, new)
    assert house.sets.cancel(house.ada, "s") == 1100
    house.pass_time(100 * DAY)
    assert archive(house) == 1100
    assert house.jobs.find(house.ada) == []


def test_use_of_the_group_is_that_of_all_members(house: House) -> None:
    run(house, cores=4)
    run(house, cores=2)
    run(house, caller=house.root)
    [total] = Usage(house.db).of_group(house.root)
    months = Usage(house.db).by_month(house.root)
    assert len(months) == 2
    assert (total.attempts, total.core_seconds) == (3, sum(one.core_seconds for one in months))
    with pytest.raises(Forbidden):
        Usage(house.db).of_group(house.ada)


def test_usage_stays(house: House) -> None:
    run(house, cores=4)
    user = house.ada.user
    assert user is not None
    before = house.db.read(lambda conn: usage.by_month(conn, house.ada.group.id))
    assert sum(month.core_seconds for month in before) == 40
    house.pass_time(100 * DAY)
    archive(house)
    assert house.db.read(lambda conn: usage.by_month(conn, house.ada.group.id)) == before


class TestSameBucketAgain:
    @pytest.fixture
    def old(self, house: House) -> Job:
        job = run(house)
        house.pass_time(100 * DAY)
        archive(house)
        return job

    def test_is_the_same_job(self, house: House, old: Job) -> None:
        assert house.submit(bucket_id=old.bucket_id) == old
        assert house.jobs.find(house.ada) == []

    def test_of_another_member_is_a_conflict(self, house: House, old: Job) -> None:
        with pytest.raises(Conflict):
            house.submit(house.root, bucket_id=old.bucket_id)

    def test_among_new_ones(self, house: House, old: Job) -> None:
        stored = house.submit()
        buckets = [uuid4(), old.bucket_id, stored.bucket_id, uuid4(), old.bucket_id]
        new = [NewJob(bucket_id=bucket, image="a:1") for bucket in buckets]
        answers = house.jobs.submit_many(house.ada, new)
        assert (answers[1], answers[2], answers[4]) == (old.id, stored.id, old.id)
        assert {job.id for job in house.jobs.find(house.ada)} == {
            answers[0],
            stored.id,
            answers[3],
        }


class TestFromTheArchive:
    @pytest.fixture
    def failed(self, house: House) -> Job:
        job = run(house, code=1)
        house.pass_time(100 * DAY)
        assert archive(house) == 1
        return job

    def test_a_failed_job_can_be_tried_again(self, house: House, failed: Job) -> None:
        assert house.jobs.retry(house.ada, failed.id).state is JobState.RECEIVED
        house.feeder.step()
        house.scheduler.show(Observed.ENDED, exit_code=0, ended_at=house.clock.now)
        house.step()
        assert house.job(failed).state is JobState.COMPLETED
        attempts = house.jobs.attempts(house.ada, failed.id)
        assert [one.number for one in attempts] == [1, 2]

    def test_a_job_can_be_pruned(self, house: House, failed: Job) -> None:
        pruned = house.jobs.prune(house.ada, failed.id, deleted=True)
        assert pruned.pruned_at == house.clock.now
        assert archive(house) == 1
        assert house.job(failed) == pruned

    def test_a_set_can_be_pruned(self, house: House) -> None:
        bob = house.add_user("bob")
        old = [run(house, set="s"), run(house, code=1, set="s")]
        run(house, set="other")
        theirs = house.submit(bob, set="s")
        house.jobs.cancel(bob, theirs.id)
        house.pass_time(100 * DAY)
        assert archive(house) == 4
        assert house.sets.prune(house.ada, "s") == 2
        assert house.sets.prune(house.ada, "s") == 0
        # The client lists them, deletes their buckets and confirms it.
        assert archive(house) == 0
        assert {job.id for job in house.jobs.find(house.ada, set="s")} == {one.id for one in old}
        house.jobs.prune(house.ada, old[0].id, deleted=True)
        assert archive(house) == 1
        house.pass_time(100 * DAY)
        assert archive(house) == 1  # nobody confirmed that one
        assert house.sets.prune(house.ada, "s") == 0  # announced it is
        house.jobs.prune(house.ada, old[1].id, deleted=True)
        archive(house)
        with pytest.raises(NotFound):
            house.sets.prune(house.ada, "s")
        assert house.sets.prune(bob, "s") == 1

    @pytest.mark.parametrize("announced", [False, True])
    def test_a_set_that_is_pruned_is_not_archived_meanwhile(
        self, house: House, monkeypatch: pytest.MonkeyPatch, announced: bool
    ) -> None:
        monkeypatch.setattr(core_sets, "_CHUNK_OF_ARCHIVE", 2)
        old = [run(house, set="s") for _ in range(3)]
        if announced:  # and never confirmed
            assert house.sets.prune(house.ada, "s") == 3
        house.pass_time(100 * DAY)
        assert archive(house) == 3
        went: list[int] = []

        def hook(here: Point) -> None:
            # One that is brought back again and again would keep the loop going for ever.
            if here is Point.SET_CHUNK_COMMITTED and len(went) < 9:
                went.append(archive(house))

        with points.install(hook):
            assert house.sets.prune(house.ada, "s") == (0 if announced else 3)
        assert not any(went)
        found = house.jobs.find(house.ada, set="s")
        assert {job.id: job.prune_requested_at for job in found} == {
            job.id: house.clock.now for job in old
        }

    def test_a_set_that_is_archived_while_it_is_pruned(self, house: House) -> None:
        old = run(house, set="s")
        house.pass_time(100 * DAY)
        with at(Point.SET_CHUNK_COMMITTED, lambda: archive(house)):
            assert house.sets.prune(house.ada, "s") == 1
        assert house.job(old).prune_requested_at == house.clock.now
        assert [job.id for job in house.jobs.find(house.ada, set="s")] == [old.id]

    def test_two_want_it_at_once(self, house: House, failed: Job, other: Begin) -> None:
        second = other(lambda: house.jobs.prune(house.ada, failed.id, deleted=True))
        with at(Point.PRUNE_BEFORE_COMMIT, second.begin):
            house.jobs.prune(house.root, failed.id)
        second.end()
        assert house.job(failed).pruned_at is not None

    def test_found_while_it_comes_back(self, house: House, failed: Job) -> None:
        """Looked for among the jobs, then in the archive, and there no more."""

        class Late(Prepared):
            def first(self, conn: Any, **parameters: object) -> Any:
                house.db.write(lambda conn: archive_db.bring_back(conn, failed.id))
                return super().first(conn, **parameters)

        with patch.object(jobs_db, "_IN_ARCHIVE", Late(jobs_db._IN_ARCHIVE._statement)):
            assert house.job(failed) == failed

    def test_what_has_ended_is_neither_held_nor_canceled(self, house: House, failed: Job) -> None:
        assert house.jobs.cancel(house.ada, failed.id) == failed
        with pytest.raises(Conflict):
            house.jobs.hold(house.ada, failed.id)
        assert house.jobs.find(house.ada) == []
