from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from bridge.client.answers import Job, JobSet
from bridge.client.waiting import until_ended, until_set_ended
from bridge.errors import NotDone, NotFound
from bridge.models.job import JobState


def _id(number: int) -> str:
    return str(uuid.UUID(int=number << 80))


class World:
    """Jobs that end when their time has come; asking and sleeping are counted."""

    def __init__(self, ends: dict[str, float]) -> None:
        self.ends = ends
        self.now = 0.0
        self.gets = 0
        self.lists = 0
        self.pauses: list[float] = []

    def _job(self, job_id: str) -> Job:
        done = self.now >= self.ends[job_id]
        return Job(id=job_id, image="a:1", state=JobState.COMPLETED if done else JobState.RUNNING)

    def get(self, job_id: str) -> Job:
        self.gets += 1
        if job_id not in self.ends:
            raise NotFound("No such job")
        return self._job(job_id)

    def newest(self) -> Iterator[Job]:
        self.lists += 1
        return (self._job(job_id) for job_id in sorted(self.ends, reverse=True))

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def wait(
        self,
        ids: list[str],
        timeout: float | None = None,
        report: Callable[[Job], None] | None = None,
    ) -> list[Job]:
        return until_ended(
            ids,
            get=self.get,
            newest=self.newest,
            timeout=timeout,
            report=report,
            sleep=self.sleep,
            clock=lambda: self.now,
        )


def test_short_jobs_are_seen_soon_long_ones_asked_for_seldom() -> None:
    world = World({_id(1): 0.35, _id(2): 3600})
    world.wait([_id(1)])
    assert world.now < 0.5
    world.gets = 0
    world.wait([_id(2)])
    assert world.now < 3610
    assert world.gets < 900


def test_answers_in_order_and_reports_changes_once() -> None:
    world = World({_id(1): 1, _id(2): 0})
    heard: list[tuple[str, str]] = []
    jobs = world.wait(
        [_id(1), _id(2), _id(1)], report=lambda job: heard.append((job.id, str(job.state)))
    )
    assert [job.id for job in jobs] == [_id(1), _id(2)]
    assert sorted(heard) == [
        (_id(1), "completed"),
        (_id(1), "running"),
        (_id(2), "completed"),
    ]


def test_timeout() -> None:
    world = World({_id(1): 100})
    with pytest.raises(NotDone, match="1 of 1 jobs"):
        world.wait([_id(1)], timeout=3)
    assert world.now == pytest.approx(3)


def test_many_are_read_from_the_list() -> None:
    world = World({_id(number): number / 50 for number in range(1, 500)})
    world.wait(list(world.ends))
    assert world.gets < 200
    assert world.lists > 1


def test_unknown_job_among_many() -> None:
    world = World({_id(number): 0 for number in range(1, 50)})
    with pytest.raises(NotFound):
        world.wait([*world.ends, _id(99)])


def test_nothing_to_wait_for() -> None:
    assert World({}).wait([]) == []


def test_a_set_is_waited_for_by_its_counts() -> None:
    world = World({})
    heard: list[int] = []

    def look() -> JobSet:
        ended = min(int(world.now), 3)
        return JobSet(name="s", jobs={JobState.FAILED: ended, JobState.RUNNING: 3 - ended})

    def wait(timeout: float | None) -> JobSet:
        return until_set_ended(
            look,
            timeout=timeout,
            report=lambda seen: heard.append(seen.ended),
            sleep=world.sleep,
            clock=lambda: world.now,
        )

    with pytest.raises(NotDone, match="2 of 3 jobs"):
        wait(1)
    found = wait(None)
    assert (found.size, found.ended) == (3, 3)
    assert heard == sorted(heard)
    assert set(heard) == {0, 1, 2, 3}
