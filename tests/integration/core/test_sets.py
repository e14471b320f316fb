"""Sets: many jobs, watched and steered as one."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.core import sets as core_sets
from bridge.errors import Conflict, NotFound
from bridge.models.attempt import Cause, Observed
from bridge.models.ids import made_at
from bridge.models.job import JobState
from tests.integration.core.conftest import House


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_sets, "_CHUNK", 3)


def fill(house: House, count: int, **fields: Any) -> None:
    for _ in range(count):
        house.submit(set="scan", **fields)


class TestSets:
    def test_counts_by_state(self, house: House) -> None:
        fill(house, 10)
        house.step()
        summary = house.sets.get(house.ada, "scan")
        assert summary.jobs == {JobState.RECEIVED: 2, JobState.SUBMITTED: 8}
        assert summary.first_at <= summary.last_at
        assert [one.name for one in house.sets.find(house.ada)] == ["scan"]

    def test_are_listed_by_name_in_pages_as_one_user_sees_them(self, house: House) -> None:
        bob = house.add_user("bob")
        for name in ("c", "a", "d", "b"):
            house.submit(set=name)
        house.submit(bob, set="a")
        house.submit(bob, set="bb")
        page = house.sets.find(house.ada, limit=3)
        assert [(one.name, one.jobs) for one in page] == [
            (name, {JobState.RECEIVED: 1}) for name in "abc"
        ]
        assert [one.name for one in house.sets.find(house.ada, limit=3, after="c")] == ["d"]
        assert [one.name for one in house.sets.find(house.root)] == ["a", "b", "bb", "c", "d"]
        assert house.sets.get(house.root, "a").jobs == {JobState.RECEIVED: 2}

    def test_know_their_first_and_last_job(self, house: House) -> None:
        first = house.submit(set="scan")
        house.step()
        fill(house, 3, hold=True)
        last = house.submit(set="scan", hold=True)
        summary = house.sets.get(house.ada, "scan")
        assert (summary.first_at, summary.last_at) == (made_at(first.id), made_at(last.id))

    def test_cancel_reaches_every_job(self, house: House) -> None:
        fill(house, 10)
        house.step()
        assert house.sets.cancel(house.ada, "scan") == 10
        assert house.sets.get(house.ada, "scan").jobs == {
            JobState.CANCELED: 2,
            JobState.SUBMITTED: 8,
        }
        house.reconciler.step()
        assert len(house.scheduler.cancels) == 8
        house.scheduler.show(Observed.ENDED, cause=Cause.CANCELED)
        house.reconciler.step()
        assert house.sets.get(house.ada, "scan").jobs == {JobState.CANCELED: 10}
        assert house.sets.cancel(house.ada, "scan") == 0

    def test_hold_and_release(self, house: House) -> None:
        fill(house, 5)
        assert house.sets.hold(house.ada, "scan") == 5
        house.step()
        assert house.scheduler.submits == []
        assert house.sets.release(house.ada, "scan") == 5
        house.step()
        assert len(house.scheduler.submits) == 5

    def test_only_the_failed_are_tried_again(self, house: House) -> None:
        fill(house, 4)
        house.step()
        failed = list(house.scheduler.shown)[:3]
        house.scheduler.show(Observed.ENDED, exit_code=0)
        for handle in failed:
            house.scheduler.shown[handle] = house.scheduler.shown[handle].__class__(
                state=Observed.ENDED, cause=Cause.EXIT, exit_code=1
            )
        house.reconciler.step()
        assert house.sets.retry(house.ada, "scan") == 3
        house.feeder.step()
        assert len(house.scheduler.submits) == 7

    def test_prune_gives_up_what_ended(self, house: House) -> None:
        fill(house, 4)
        house.sets.cancel(house.ada, "scan")
        house.submit(set="scan")
        assert house.sets.prune(house.ada, "scan") == 4

    def test_members_steer_their_own_admins_all(self, house: House) -> None:
        bob = house.add_user("bob")
        fill(house, 2)
        house.submit(bob, set="scan")
        assert house.sets.cancel(bob, "scan") == 1
        assert house.sets.cancel(house.root, "scan") == 2

    def test_unknown_or_foreign_is_not_found(self, house: House) -> None:
        fill(house, 1)
        with pytest.raises(NotFound):
            house.sets.get(house.add_user("bob"), "scan")
        with pytest.raises(NotFound):
            house.sets.cancel(house.ada, "other")


class TestRetry:
    def test_a_failed_job_runs_again_as_if_new(self, house: House) -> None:
        job = house.submit()
        house.step()
        house.scheduler.show(Observed.ENDED, cause=Cause.EXIT, exit_code=3)
        house.step()
        again = house.jobs.retry(house.ada, job.id)
        assert (again.state, again.cause, again.exit_code, again.ended_at) == (
            JobState.RECEIVED,
            None,
            None,
            None,
        )
        house.step()
        assert [one.number for one in house.jobs.attempts(house.ada, job.id)] == [1, 2]

    def test_a_canceled_job_too(self, house: House) -> None:
        job = house.submit()
        house.jobs.cancel(house.ada, job.id)
        assert house.jobs.retry(house.ada, job.id).cancel_requested_at is None
        house.step()
        assert len(house.scheduler.submits) == 1

    def test_not_what_goes_on_went_well_or_was_pruned(self, house: House) -> None:
        job = house.submit()
        with pytest.raises(Conflict):
            house.jobs.retry(house.ada, job.id)
        house.step()
        house.scheduler.show(Observed.ENDED)
        house.step()
        with pytest.raises(Conflict):
            house.jobs.retry(house.ada, job.id)
        other = house.submit()
        house.jobs.cancel(house.ada, other.id)
        house.jobs.prune(house.ada, other.id)
        with pytest.raises(Conflict, match="given up"):
            house.jobs.retry(house.ada, other.id)


class TestAttemptsOfASet:
    def test_the_newest_job_first_in_pages(self, house: House) -> None:
        bob = house.add_user("bob")
        jobs = [house.submit(set="scan") for _ in range(3)]
        house.submit(bob, set="scan")
        house.step()
        house.scheduler.show(Observed.ENDED, cause=Cause.EXIT, exit_code=1)
        house.step()
        house.jobs.retry(house.ada, jobs[1].id)
        house.step()
        fill(house, 2, hold=True)  # never run
        runs = house.sets.attempts(house.ada, "scan", limit=2)
        assert [[(one.job_id, one.number) for one in of_job] for of_job in runs] == [
            [(jobs[2].id, 1)],
            [(jobs[1].id, 1), (jobs[1].id, 2)],
        ]
        [[last]] = house.sets.attempts(house.ada, "scan", limit=2, before=jobs[1].id)
        assert last.job_id == jobs[0].id
        assert len(house.sets.attempts(house.root, "scan")) == 4
        with pytest.raises(NotFound):
            house.sets.attempts(house.ada, "other")


class TestExplainASet:
    def test_the_first_that_waits(self, house: House) -> None:
        fill(house, 8)
        house.step()
        house.scheduler.away = True
        fill(house, 1, hold=True, priority=100)
        fill(house, 1)
        first = house.submit(set="scan", priority=60)
        said = house.sets.explain(house.ada, "scan")
        assert said.sentence.startswith(
            f"Of 11 jobs 3 are received and 8 are submitted. The first that waits is {first.id}: "
        )
        assert said.ahead == 0
        assert (said.details["job"], said.details["position"]) == (str(first.id), 1)
        assert said.details["jobs"] == {JobState.RECEIVED: 3, JobState.SUBMITTED: 8}

    def test_held_when_all_are(self, house: House) -> None:
        fill(house, 2, hold=True)
        assert "It is held" in house.sets.explain(house.ada, "scan").sentence

    def test_what_was_handed_over_and_has_no_machine_waits_too(self, house: House) -> None:
        job = house.submit(set="scan")
        house.step()
        said = house.sets.explain(house.ada, "scan")
        assert f"The first that waits is {job.id}: It was handed over to local" in said.sentence

    def test_nothing_waits(self, house: House) -> None:
        job = house.submit(set="scan")
        house.jobs.cancel(house.ada, job.id)
        said = house.sets.explain(house.ada, "scan")
        assert (said.sentence, said.ahead) == ("Of 1 job 1 is canceled. None waits.", None)
        with pytest.raises(NotFound):
            house.sets.explain(house.add_user("bob"), "scan")


class TestExplain:
    def test_who_is_ahead(self, house: House) -> None:
        house.scheduler.away = True
        bob = house.add_user("bob")
        house.submit(bob)
        house.submit(priority=60)
        job = house.submit()
        said = house.jobs.explain(house.ada, job.id)
        assert said.ahead == 2
        assert said.details["ahead_by_user"] == {"ada": 1, "bob": 1}
        assert "2 jobs are ahead of it" in said.sentence
