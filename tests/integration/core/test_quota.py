"""Quotas: never more live jobs than allowed, and seldom counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch
from uuid import uuid4

import pytest

from bridge.core.quota import Gate, Quota
from bridge.db import jobs as jobs_db
from bridge.db import quotas
from bridge.errors import OverQuota
from bridge.models.attempt import Cause, Observed
from bridge.models.job import JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.scenes import Begin
from tests.integration.core.test_archive import archive, run
from tests.support.interleave import Other, at

Limit = Callable[..., None]


@pytest.fixture
def limit(house: House) -> Limit:
    """As a process that was started with these limits."""

    def set_limit(**most: int) -> None:
        house.jobs._gate = Gate(house.db, Quota(**most))
        house.sets._gate = Gate(house.db, Quota(**most))

    return set_limit


def begin(other: Other) -> None:
    """Start it, and let it come as far as it gets beside our open transaction."""
    other._thread.start()
    time.sleep(0.3)


def live(house: House) -> int:
    return sum(job.ended_at is None for job in house.jobs.find(house.root, limit=1000))


def fail(house: House, count: int, **fields: object) -> None:
    """Jobs that failed."""
    for _ in range(count):
        house.submit(**fields)  # type: ignore[arg-type]
    house.step()
    house.scheduler.show(Observed.ENDED, cause=Cause.EXIT, exit_code=1)
    house.step()
    assert live(house) == 0


def test_of_a_user_and_of_the_group(house: House, limit: Limit) -> None:
    limit(per_user=2, per_group=3)
    bob = house.add_user("bob")
    house.submit()
    house.submit()
    with pytest.raises(OverQuota, match=r"^1 more job would be .* 2 that ada .* 2 are"):
        house.submit()
    house.submit(bob)
    with pytest.raises(OverQuota, match="the group"):
        house.submit(bob)
    assert live(house) == 3
    house.jobs.cancel(house.ada, house.jobs.find(house.ada)[0].id)
    house.submit(bob)
    with pytest.raises(OverQuota):
        house.submit()


def test_is_not_counted_again_away_from_the_limit(house: House, limit: Limit) -> None:
    limit(per_user=5, per_group=1000)
    with patch.object(quotas, "count", wraps=quotas.count) as count:
        house.submit()
        assert count.call_count == 2
        for _ in range(4):
            house.submit()
        assert count.call_count == 2
        with pytest.raises(OverQuota):
            house.submit()
        assert count.call_count == 3
    for job in house.jobs.find(house.ada):
        house.jobs.cancel(house.ada, job.id)
    house.submit()


def test_counts_what_was_let_in_while_there_was_none(house: House, limit: Limit) -> None:
    limit(per_user=3)
    bucket = house.submit().bucket_id
    limit()
    house.submit()
    house.submit()
    limit(per_user=3)
    house.submit(bucket_id=bucket)  # no more than there was
    with pytest.raises(OverQuota):
        house.submit()


def test_a_job_handed_in_again_counts_once_also_an_archived_one(house: House, limit: Limit) -> None:
    old = run(house)
    house.pass_time(100 * 86400)
    archive(house)
    limit(per_user=1)
    job = house.submit()
    assert house.submit(bucket_id=job.bucket_id) == house.job(job)
    assert house.submit(bucket_id=old.bucket_id).id == old.id


def test_two_at_once_are_not_both_the_last(house: House, limit: Limit, other: Begin) -> None:
    limit(per_user=1)

    def submit() -> None:
        with pytest.raises(OverQuota):
            house.submit(bucket_id=uuid4())

    second = other(submit)
    with at(Point.SUBMIT_BEFORE_COMMIT, partial(begin, second)):
        house.submit()
    second.end()
    assert live(house) == 1


def test_two_of_one_group_neither(house: House, limit: Limit, other: Begin) -> None:
    limit(per_group=1)
    bob = house.add_user("bob")

    def submit() -> None:
        with pytest.raises(OverQuota):
            house.submit(bob)

    second = other(submit)
    with at(Point.SUBMIT_BEFORE_COMMIT, partial(begin, second)):
        house.submit()
    second.end()
    assert live(house) == 1


class TestRetry:
    def test_of_a_job_counts(self, house: House, limit: Limit) -> None:
        fail(house, 1)
        [failed] = house.jobs.find(house.ada)
        limit(per_user=1)
        job = house.submit()
        with pytest.raises(OverQuota, match="ada"):
            house.jobs.retry(house.root, failed.id)
        assert house.job(failed).state is JobState.FAILED
        house.jobs.cancel(house.ada, job.id)
        assert house.jobs.retry(house.ada, failed.id).state is JobState.RECEIVED
        with pytest.raises(OverQuota):
            house.submit()

    def test_of_a_set_is_all_or_nothing(self, house: House, limit: Limit) -> None:
        bob = house.add_user("bob")
        fail(house, 3, set="s")
        house.submit(bob, set="s")
        limit(per_user=2)
        with pytest.raises(OverQuota, match=r"^3 more jobs would be .* 2 that ada .* 0 are"):
            house.sets.retry(house.root, "s")
        assert live(house) == 1
        limit(per_user=3, per_group=4)
        assert house.sets.retry(house.root, "s") == 3
        with pytest.raises(OverQuota):
            house.submit(bob)

    def test_of_a_set_passes_nobody_who_comes_between(
        self, house: House, limit: Limit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bridge.core.sets._CHUNK", 1)
        fail(house, 2, set="s")
        limit(per_user=2)
        with at(Point.SET_CHUNK_COMMITTED, house.submit), pytest.raises(OverQuota):
            house.sets.retry(house.ada, "s")
        assert live(house) == 2


def test_a_retry_starts_as_new(house: House) -> None:
    job = house.submit()
    house.jobs.hold(house.ada, job.id)
    house.jobs.cancel(house.ada, job.id)
    house.db.write(lambda conn: jobs_db.touch(conn, job.id, state={JobState.CANCELED}, attempt=10))
    again = house.jobs.retry(house.ada, job.id)
    assert (again.hold, again.attempts_before) == (False, 10)
    house.step()
    house.scheduler.show(Observed.ENDED, cause=Cause.NODE_LOST)
    house.reconciler.step()
    assert house.job(job).state is JobState.RECEIVED
