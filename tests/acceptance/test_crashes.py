"""``kill -9`` of the service at every step: each job runs once, ends, and none is lost.

The jobs, their buckets and the scheduler are real; only the place of death is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.points import Point
from tests.support.lab import Lab, new_lab
from tests.support.poll import eventually

# The program fails when it runs first, and succeeds when it runs again.
SECOND_TIME_LUCKY = '[ $(wc -l <"$RUNS") -gt 1 ]'


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = new_lab(tmp_path_factory.mktemp("crashes"))
    yield made
    made.service.close()


@pytest.fixture(autouse=True)
def alive(lab: Lab) -> None:
    """A test that failed may have left the service dead."""
    if lab.service.process is None or lab.service.process.poll() is not None:
        lab.service.start()


@pytest.mark.parametrize(
    ("point", "time"),
    [
        (Point.SUBMIT_BEFORE_COMMIT, 1),
        (Point.SUBMIT_COMMITTED, 1),
        (Point.CLAIM_CHOSEN, 1),
        (Point.CLAIM_BEFORE_COMMIT, 1),
        (Point.CLAIM_COMMITTED, 1),
        (Point.HAND_OVER_BEFORE_CALL, 1),
        (Point.HAND_OVER_BEFORE_CALL, 2),
        (Point.HAND_OVER_CALLED, 1),
        (Point.HAND_OVER_CALLED, 2),
        (Point.RECORD_BEFORE_COMMIT, 2),
        (Point.RECORD_COMMITTED, 1),
        (Point.OBSERVE_READ, 1),
        (Point.OBSERVE_POLLED, 1),
        (Point.OBSERVE_BEFORE_COMMIT, 1),
        (Point.OBSERVE_COMMITTED, 1),
        (Point.END_HALFWAY, 1),
        (Point.END_HALFWAY, 2),
    ],
)
def test_from_submission_to_the_end(lab: Lab, point: Point, time: int) -> None:
    works = lab.works(3)
    lab.crash_at(point, time)
    promised = lab.submit_if_alive(*works)
    lab.restart()
    jobs = lab.submit(*works)  # a client that heard nothing asks again
    assert promised in (None, jobs) and len(set(jobs)) == 3
    for job, work in zip(jobs, works, strict=True):
        seen = lab.end(job)
        assert (seen["state"], seen["attempt"], work.runs) == ("completed", 1, 1), seen
        assert lab.result(work)


def test_twice_over_the_same_claim(lab: Lab) -> None:
    work = lab.work()
    lab.crash_at(Point.HAND_OVER_CALLED)
    promised = lab.submit_if_alive(work)
    lab.service.await_crash()
    lab.crash_at(Point.RECLAIM_COMMITTED)
    lab.service.start_to_crash()
    lab.service.start()
    jobs = lab.submit(work)
    assert promised in (None, jobs)
    (job,) = jobs
    seen = lab.end(job)
    assert (seen["state"], seen["attempt"], work.runs) == ("completed", 1, 1), seen


@pytest.mark.parametrize(
    "point",
    [
        Point.CANCEL_BEFORE_COMMIT,
        Point.CANCEL_COMMITTED,
        Point.STOP_COMMITTED,
        Point.STOP_CALLED,
        Point.STOP_SENT,
        Point.END_HALFWAY,
        Point.OBSERVE_COMMITTED,
    ],
)
def test_cancel_of_what_runs(lab: Lab, point: Point) -> None:
    work = lab.work("exec sleep 600")
    (job,) = lab.submit(work)
    lab.await_run(work)
    lab.service.wait_for(job, ["running"])
    lab.crash_at(point)
    lab.ask(job, "cancel")
    lab.restart()
    assert lab.ask(job, "cancel") == 200
    assert (lab.end(job)["state"], work.runs) == ("canceled", 1)


@pytest.mark.parametrize("point", [Point.CANCEL_BEFORE_COMMIT, Point.CANCEL_COMMITTED])
def test_cancel_of_what_waits(lab: Lab, point: Point) -> None:
    blockers = [lab.work("exec sleep 600") for _ in range(4)]
    running = lab.submit(*blockers)
    for work in blockers:
        lab.await_run(work)
    waiting = lab.work()
    (job,) = lab.submit(waiting)
    lab.crash_at(point)
    lab.ask(job, "cancel")
    lab.restart()
    assert lab.ask(job, "cancel") == 200
    assert lab.job(job)["state"] == "canceled"
    for one in running:
        lab.ask(one, "cancel")
        assert lab.end(one)["state"] == "canceled"
    assert waiting.runs == 0


@pytest.mark.parametrize(
    ("point", "most"), [(Point.CLAIM_COMMITTED, 0), (Point.HAND_OVER_CALLED, 1)]
)
def test_cancel_of_what_is_claimed(lab: Lab, point: Point, most: int) -> None:
    """Nobody knows yet whether the scheduler has it."""
    work = lab.work("exec sleep 600")
    lab.crash_at(point)
    lab.submit_if_alive(work)
    lab.service.await_crash()
    lab.service.start()
    (job,) = lab.submit(work)
    assert lab.ask(job, "cancel") == 200
    seen = lab.end(job)
    assert (seen["state"], seen["attempt"]) == ("canceled", 1)
    assert work.runs <= most


@pytest.mark.parametrize(
    "point",
    [
        Point.RETRY_BEFORE_COMMIT,
        Point.RETRY_COMMITTED,
        Point.CLAIM_COMMITTED,
        Point.HAND_OVER_CALLED,
    ],
)
def test_retry(lab: Lab, point: Point) -> None:
    work = lab.work(SECOND_TIME_LUCKY)
    (job,) = lab.submit(work)
    assert lab.end(job)["cause"] == "exit"
    lab.crash_at(point)
    lab.ask(job, "retry")
    lab.restart()
    if lab.job(job)["state"] == "failed":
        assert lab.ask(job, "retry") == 200
    seen = lab.end(job)
    assert (seen["state"], seen["attempt"], work.runs) == ("completed", 2, 2), seen


@pytest.mark.parametrize(
    "point",
    [
        Point.REQUEUE_HALFWAY,
        Point.OBSERVE_BEFORE_COMMIT,
        Point.OBSERVE_COMMITTED,
        Point.CLAIM_BEFORE_COMMIT,
        Point.HAND_OVER_CALLED,
    ],
)
def test_another_attempt_after_a_lost_node(lab: Lab, point: Point) -> None:
    work = lab.work(f"{SECOND_TIME_LUCKY} || exec sleep 600")
    (job,) = lab.submit(work)
    lab.await_run(work)
    eventually(lambda: lab.job(job)["phase"] == "executing")
    lab.crash_at(point)
    lab.kill_supervisor(job)
    lab.restart()
    seen = lab.end(job)
    assert (seen["state"], seen["attempt"], work.runs) == ("completed", 2, 2), seen


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("point", [Point.PRUNE_BEFORE_COMMIT, Point.PRUNE_COMMITTED])
def test_prune(lab: Lab, point: Point, deleted: bool) -> None:
    work = lab.work("exit 3")
    (job,) = lab.submit(work)
    lab.end(job)
    if deleted:
        assert lab.ask(job, "prune") == 200
    lab.crash_at(point)
    lab.ask(job, "prune", {"deleted": deleted})
    lab.restart()
    assert lab.ask(job, "prune", {"deleted": True}) == 200
    seen = lab.job(job)
    assert (seen["state"], seen["cause"], work.runs) == ("failed", "exit", 1)
    assert seen["prune_requested_at"] <= seen["pruned_at"]
    assert lab.ask(job, "retry") == 409


@pytest.mark.parametrize(
    ("point", "time"),
    [
        (Point.FORGET_BEFORE_CALL, 2),
        (Point.FORGET_CALLED, 1),
        (Point.FORGET_COMMITTED, 1),
    ],
)
def test_forget(lab: Lab, point: Point, time: int) -> None:
    works = lab.works(2)
    jobs = lab.submit(*works)
    for job in jobs:
        lab.end(job)
    lab.service.stop()
    lab.crash_at(point, time)
    lab.service.start_to_crash()
    lab.service.start()
    eventually(lambda: not any(lab.attempts(job) for job in jobs))
    for job, work in zip(jobs, works, strict=True):
        assert (lab.job(job)["state"], work.runs) == ("completed", 1)
