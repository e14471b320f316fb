"""A leader that was paused for longer than its lease wakes with something in hand that is
not true any more: what another has stored meanwhile stays as it is.

The other one has come to know the contrary, and the old one leads again in the end: then
it is done with what it was about to do, and has not done it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.db import attempts
from bridge.models.attempt import AttemptState, Cause, Observed
from bridge.models.job import Job, JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.integration.core.workers import START_S, Worker, Workers, working
from tests.support.poll import eventually
from tests.support.queue_process import GRACE_S

# A process that is paused while it writes holds the lock of a SQLite file.
pytestmark = pytest.mark.needs("postgres")

LEASE_S = 1.5  # nobody else can take it over before the pause


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def workers(house: House, database_url: str, tmp_path: Path) -> Iterator[Workers]:
    # What was forgotten would run again, handed over late.
    with working(
        house, database_url, tmp_path / "scheduler", lease_s=LEASE_S, forget_after_s=0
    ) as made:
        yield made


@pytest.fixture
def old(workers: Workers) -> Worker:
    worker = workers.start()
    eventually(lambda: worker.has_lead(1), timeout=START_S)
    return worker


class Waking:
    """What becomes of ``job`` when another leader has got it to where ``settled`` is true,
    and the old one wakes up.
    """

    def __init__(
        self, workers: Workers, old: Worker, job: Job, settled: Callable[[], object]
    ) -> None:
        new = workers.start()
        eventually(lambda: new.has_lead(2), timeout=START_S)
        eventually(settled)
        before = workers.rows([job])
        asked = len(workers.calls_of(old))
        old.resume()
        eventually(lambda: old.said("action=follow"))
        new.end()
        # A pass that was begun before is over by then.
        eventually(lambda: old.has_lead(3))
        assert workers.rows([job]) == before
        self.late = [one.verb for one in workers.calls_of(old)[asked:]]


def running(workers: Workers) -> Job:
    workers.scheduler.show(Observed.RUNNING)
    (job,) = workers.submit(1)
    eventually(lambda: workers.house.job(job).state is JobState.RUNNING)
    return job


def given_up(workers: Workers, old: Worker, seen: Observed, point: Point) -> Job:
    """A job that was absent for so long that the leader, paused at ``point``, ends it; it has
    come back since.
    """
    job = running(workers)
    old.pause_at(Point.OBSERVE_READ)
    old.await_pause()
    workers.scheduler.show(seen)
    old.pause_at(Point.OBSERVE_READ)
    old.resume()
    eventually(lambda: is_absent(workers, job))
    old.await_pause()
    over = time.time() + GRACE_S
    eventually(lambda: time.time() > over)
    old.pause_at(point)
    old.resume()
    old.await_pause()
    workers.scheduler.show(Observed.RUNNING)
    return job


def is_absent(workers: Workers, job: Job) -> bool:
    attempt = workers.attempt(job)
    return (attempt.missing_since, attempt.unknown_since) != (None, None)


def is_back(workers: Workers, job: Job) -> bool:
    """As the new leader sees it; a wish to stop it was told to the scheduler."""
    attempt = workers.attempt(job)
    told = attempt.stop_cause is None or attempt.stop_sent_at is not None
    running = workers.house.job(job).state is JobState.RUNNING
    return running and told and not is_absent(workers, job)


def is_forgotten(workers: Workers, job: Job) -> bool:
    return workers.attempt(job).forgotten_at is not None


@pytest.mark.parametrize(
    ("seen", "point"),
    [
        (Observed.GONE, Point.OBSERVE_POLLED),
        (Observed.UNKNOWN, Point.OBSERVE_POLLED),
        (Observed.UNKNOWN, Point.STOP_COMMITTED),
        (Observed.UNKNOWN, Point.STOP_CALLED),
        (Observed.UNKNOWN, Point.STOP_SENT),
    ],
)
def test_what_came_back_is_not_ended(
    workers: Workers, old: Worker, seen: Observed, point: Point
) -> None:
    job = given_up(workers, old, seen, point)
    waking = Waking(workers, old, job, lambda: is_back(workers, job))
    assert (waking.late, old.gave_up()) == ([], True)
    workers.scheduler.show(Observed.ENDED)
    workers.wait_for([job])


def test_what_is_not_withdrawn_any_more_is_not_stopped(workers: Workers, old: Worker) -> None:
    workers.scheduler.show(Observed.PENDING)
    (job,) = workers.submit(1)
    eventually(lambda: workers.house.job(job).state is JobState.SUBMITTED)
    eventually(lambda: workers.attempt(job).state is AttemptState.SUBMITTED)
    old.pause_at(Point.STOP_COMMITTED)
    workers.house.db.write(
        lambda conn: attempts.request_stop(
            conn, job.id, number=1, cause=Cause.WITHDRAWN, now=time.time()
        )
    )
    old.await_pause()
    workers.scheduler.show(Observed.RUNNING)
    waking = Waking(workers, old, job, lambda: is_back(workers, job))
    assert workers.attempt(job).stop_cause is None
    assert (waking.late, old.gave_up()) == ([], True)
    workers.scheduler.show(Observed.ENDED)
    workers.wait_for([job])


@pytest.mark.parametrize("point", [Point.REQUEUE_HALFWAY, Point.OBSERVE_BEFORE_COMMIT])
def test_nor_by_what_was_not_stored_yet(workers: Workers, old: Worker, point: Point) -> None:
    job = given_up(workers, old, Observed.GONE, point)
    waking = Waking(workers, old, job, lambda: is_back(workers, job))
    assert waking.late == []
    workers.scheduler.show(Observed.ENDED)
    workers.wait_for([job])


@pytest.mark.parametrize("point", [Point.CLAIM_COMMITTED, Point.HAND_OVER_BEFORE_CALL])
def test_what_is_done_and_forgotten_is_not_handed_over(
    workers: Workers, old: Worker, point: Point
) -> None:
    old.pause_at(point)
    (job,) = workers.submit(1)
    old.await_pause()
    waking = Waking(workers, old, job, lambda: is_forgotten(workers, job))
    assert waking.late == []
    workers.wait_for([job])


def test_nor_when_it_was_claimed_again(workers: Workers, old: Worker) -> None:
    old.pause_at(Point.CLAIM_COMMITTED)
    (job,) = workers.submit(1)
    old.await_pause()
    expires_at = workers.attempt(job).claim_expires_at or 0.0
    eventually(lambda: time.time() > expires_at)
    old.pause_at(Point.RECLAIM_COMMITTED)
    old.resume()
    old.await_pause()
    waking = Waking(workers, old, job, lambda: is_forgotten(workers, job))
    assert waking.late == []
    workers.wait_for([job])


def test_what_was_handed_over_is_not_recorded_late(workers: Workers, old: Worker) -> None:
    workers.scheduler.show(Observed.RUNNING)
    old.pause_at(Point.HAND_OVER_CALLED)
    (job,) = workers.submit(1)
    old.await_pause()
    waking = Waking(workers, old, job, lambda: is_back(workers, job))
    assert (waking.late, old.gave_up()) == ([], True)
    workers.scheduler.show(Observed.ENDED)
    workers.wait_for([job])


def test_what_runs_is_not_refused(workers: Workers, old: Worker) -> None:
    workers.scheduler.show(Observed.RUNNING)
    workers.scheduler.refuse(True)
    old.pause_at(Point.REJECT_BEFORE_COMMIT)
    (job,) = workers.submit(1)
    old.await_pause()
    workers.scheduler.refuse(False)
    waking = Waking(workers, old, job, lambda: is_back(workers, job))
    assert (waking.late, old.gave_up()) == ([], True)
    workers.scheduler.show(Observed.ENDED)
    workers.wait_for([job])


def test_what_was_alive_when_it_was_listed_is_no_stray(workers: Workers, old: Worker) -> None:
    job = running(workers)
    old.pause_at(Point.SWEEP_LISTED)
    old.await_pause()
    workers.scheduler.show(Observed.ENDED)
    waking = Waking(workers, old, job, lambda: is_forgotten(workers, job))
    assert (waking.late, old.gave_up()) == ([], True)
    workers.wait_for([job])


@pytest.mark.parametrize(
    ("point", "late"), [(Point.FORGET_BEFORE_CALL, ["forget"]), (Point.FORGET_CALLED, [])]
)
def test_what_is_forgotten_is_not_forgotten_later(
    workers: Workers, old: Worker, point: Point, late: list[str]
) -> None:
    old.pause_at(point)
    (job,) = workers.submit(1)
    old.await_pause()
    waking = Waking(workers, old, job, lambda: is_forgotten(workers, job))
    assert (waking.late, old.gave_up()) == (late, True)
    workers.wait_for([job])
