from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from bridge.client.answers import Job, JobSet
from bridge.client.waiting import Held, Lost, until_ended, until_set_ended
from bridge.errors import NotDone, NotFound, Unreachable
from bridge.models.job import JobState


def _id(number: int) -> str:
    return str(uuid.UUID(int=number << 80))


class World:
    """Jobs that end when their time has come; asking and sleeping are counted.

    ``away``: from when to when nobody answers. ``held``: jobs that wait until released.
    """

    def __init__(self, ends: dict[str, float]) -> None:
        self.ends = ends
        self.away = (0.0, 0.0)
        self.held: set[str] = set()
        self.told: list[str] = []
        self.now = 0.0
        self.gets = 0
        self.lists = 0
        self.pauses: list[float] = []

    def _job(self, job_id: str) -> Job:
        done = self.now >= self.ends[job_id]
        if job_id in self.held:
            return Job(id=job_id, image="a:1", state=JobState.RECEIVED, hold=True)
        return Job(id=job_id, image="a:1", state=JobState.COMPLETED if done else JobState.RUNNING)

    def get(self, job_id: str) -> Job:
        self.gets += 1
        if self.away[0] <= self.now < self.away[1]:
            raise Unreachable("http://bridge cannot be reached: Connection refused")
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
        lost: Lost | None = None,
    ) -> list[Job]:
        return until_ended(
            ids,
            get=self.get,
            newest=self.newest,
            timeout=timeout,
            report=report,
            lost=lost,
            tell=self.told.append,
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


def test_lost_ones_are_told_and_the_others_waited_for() -> None:
    world = World({_id(1): 3})
    lost: list[str] = []
    jobs = world.wait([_id(9), _id(1)], lost=lambda job_id, _: lost.append(job_id))
    assert ([job.id for job in jobs], lost) == ([_id(1)], [_id(9)])
    assert world.wait([_id(9)], lost=lambda *_: None) == []


def test_a_service_that_answered_once_may_be_away_for_minutes() -> None:
    world = World({_id(1): 400})
    world.away = (60, 300)
    (job,) = world.wait([_id(1)])
    assert job.ended
    assert world.told == [
        "The service is away, trying again: http://bridge cannot be reached: Connection refused",
        "The service answers again.",
    ]


@pytest.mark.parametrize(
    ("away", "timeout", "until"),
    [((0, 9), None, 0), ((60, 9999), None, 700), ((60, 9999), 100, 100)],
    ids=["never answered", "too long", "time is over"],
)
def test_an_absence_is_not_waited_out_for_ever(
    away: tuple[float, float], timeout: float | None, until: float
) -> None:
    world = World({_id(1): 99999})
    world.away = away
    with pytest.raises(Unreachable):
        world.wait([_id(1)], timeout)
    assert until - 60 <= world.now <= until


def test_held_jobs_are_mentioned_once_and_when_time_is_over() -> None:
    world = World({_id(1): 2, _id(2): 0, _id(3): 0})
    world.held = {_id(2), _id(3)}
    with pytest.raises(NotDone) as caught:
        world.wait([_id(1), _id(2), _id(3)], timeout=5)
    assert caught.value.message == "2 of 3 jobs have not ended after 5 s; 2 of them held"
    assert caught.value.hint == "What is held waits until it is released: nomad-bridge release."
    assert world.told == [
        "2 of 3 jobs are held and will wait until released (nomad-bridge release)."
    ]
    with pytest.raises(NotDone) as caught:
        world.wait([_id(1), _id(2)], timeout=0)
    assert "held" in caught.value.hint


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
            count_held=lambda: Held(1, or_more=True),
            tell=world.told.append,
            timeout=timeout,
            report=lambda seen: heard.append(seen.ended),
            sleep=world.sleep,
            clock=lambda: world.now,
        )

    with pytest.raises(NotDone, match=r"2 of 3 jobs .* at least 1 of them held"):
        wait(1)
    assert world.told == [
        "at least 1 of 3 jobs are held and will wait until released (nomad-bridge release)."
    ]
    found = wait(None)
    assert (found.size, found.ended) == (3, 3)
    assert heard == sorted(heard)
    assert set(heard) == {0, 1, 2, 3}
