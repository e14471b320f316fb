"""``kill -9`` of the service at every step: each job runs once, ends, and none is lost.

The jobs, their buckets and the scheduler are real; only the place of death is chosen.
"""

from __future__ import annotations

import urllib.error
import uuid
from collections.abc import Iterator

import pytest

from bridge.points import Point
from tests.support import needs
from tests.support.lab import CORES, QUEUE, Lab, new_lab
from tests.support.nomad_cluster import cluster
from tests.support.nomad_lab import nomad_lab
from tests.support.poll import eventually

# The program fails when it runs first, and succeeds when it runs again.
SECOND_TIME_LUCKY = '[ $(wc -l <"$RUNS") -gt 1 ]'


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = new_lab(tmp_path_factory.mktemp("crashes"))
    yield made
    made.service.close()


@pytest.fixture(scope="module")
def nomad(rclone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for name in ("nomad", "docker"):
        needs.need(name)
    home = tmp_path_factory.mktemp("crashes")
    with cluster(cores=CORES, volumes=True) as running, nomad_lab(home, running, rclone) as made:
        yield made


@pytest.fixture(
    scope="module",
    params=["local", pytest.param("nomad", marks=pytest.mark.needs("nomad", "docker"))],
)
def lab(request: pytest.FixtureRequest) -> Lab:
    found: Lab = request.getfixturevalue(request.param)
    return found


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> None:
    """A test that failed may have left the service dead."""
    lab: Lab = request.getfixturevalue("lab" if "lab" in request.fixturenames else "local")
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
        Point.CANCEL_HALFWAY,
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
    waiting = lab.work()
    (job,) = lab.submit(waiting, hold=True)
    lab.crash_at(point)
    lab.ask(job, "cancel")
    lab.restart()
    assert lab.ask(job, "cancel") == 200
    assert (lab.job(job)["state"], waiting.runs) == ("canceled", 0)


@pytest.mark.parametrize(
    ("point", "most"), [(Point.CLAIM_COMMITTED, 0), (Point.HAND_OVER_CALLED, 1)]
)
def test_cancel_of_what_is_claimed(lab: Lab, point: Point, most: int) -> None:
    """Nobody knows yet whether the scheduler has it."""
    if not most:
        # The claim outlasts the crash: else the program may begin before the cancel comes.
        restart_with(lab, claim_ttl_s=15)
    work = lab.work("exec sleep 600")
    lab.crash_at(point)
    lab.submit_if_alive(work)
    lab.service.await_crash()
    lab.service.configure(queue=QUEUE)
    lab.service.start()
    (job,) = lab.submit(work)
    assert lab.ask(job, "cancel") == 200
    seen = lab.end(job)
    assert (seen["state"], seen["attempt"]) == ("canceled", 1)
    assert work.runs <= most


def restart_with(lab: Lab, **queue: object) -> None:
    """Start the service again, with other settings of its queue."""
    lab.service.stop()
    lab.service.configure(queue=queue)
    lab.service.start()


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
    lab.lose(job)
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
    # Nothing is forgotten before the service is told to die over it.
    restart_with(lab, forget_after_s=3600)
    works = lab.works(2)
    jobs = lab.submit(*works)
    for job in jobs:
        lab.end(job)
    lab.service.stop()
    lab.service.configure(queue={"forget_after_s": 0})
    lab.crash_at(point, time)
    lab.service.start_to_crash()
    lab.service.start()
    eventually(lambda: not any(lab.kept(job) for job in jobs))
    for job, work in zip(jobs, works, strict=True):
        assert (lab.job(job)["state"], work.runs) == ("completed", 1)


def test_rejection(lab: Lab) -> None:
    with lab.refusing(Point.REJECT_BEFORE_COMMIT) as work:
        lab.service.start()
        (job,) = lab.submit(work)
        seen = lab.end(job)
    assert (seen["state"], seen["cause"], seen["attempt"]) == ("failed", "rejected", 1), seen
    assert (work.runs, lab.kept(job)) == (0, [])


@pytest.mark.parametrize("point", [Point.SWEEP_LISTED, Point.STRAY_STOPPED])
def test_what_lives_and_is_of_no_job_is_stopped(lab: Lab, point: Point) -> None:
    """After a restore: the backup is older than the job."""
    backup = lab.service.home / f"{point}.backup"
    config = ("--config", str(lab.service.config))
    done = lab.service.command("db", "backup", *config, str(backup))
    assert done.returncode == 0, done.stderr
    work = lab.work("trap 'echo stopped >\"$RUNS.end\"; exit 1' TERM; sleep 600 & wait")
    (job,) = lab.submit(work)
    lab.await_run(work)
    lab.service.stop()
    done = lab.service.command("db", "restore", *config, str(backup))
    assert done.returncode == 0, done.stderr
    lab.crash_at(point)
    lab.service.start_to_crash()
    lab.service.start()
    assert lab.service.get(f"/v1/jobs/{job}").status == 404
    eventually(work.counter.with_suffix(".end").exists, timeout=30)
    assert work.runs == 1


@pytest.fixture
def by_twos(lab: Lab) -> Iterator[None]:
    """Of a set two jobs are changed at once: the first two are when the service dies."""
    lab.service.restart_with_chunks(2)
    yield
    lab.service.restart_with_chunks(None)


@pytest.mark.usefixtures("by_twos")
def test_a_set_half_retried(lab: Lab) -> None:
    works = [lab.work(SECOND_TIME_LUCKY) for _ in range(5)]
    jobs = lab.submit(*works, set="retried")
    assert {lab.end(job)["cause"] for job in jobs} == {"exit"}
    lab.crash_at(Point.SET_CHUNK_COMMITTED)
    assert of_set(lab, "retried", "retry") is None
    lab.restart()
    assert of_set(lab, "retried", "retry") == 3
    for job, work in zip(jobs, works, strict=True):
        seen = lab.end(job)
        assert (seen["state"], seen["attempt"], work.runs) == ("completed", 2, 2), seen


@pytest.mark.usefixtures("by_twos")
def test_a_set_half_held_and_half_released(lab: Lab) -> None:
    # Behind one that has the whole machine and one that waits for it, nothing starts.
    first = lab.work("exec sleep 600")
    ahead = lab.submit(first, cores=CORES)
    lab.await_run(first)
    ahead += lab.submit(lab.work("exec sleep 600"), cores=CORES)
    works = lab.works(5)
    jobs = lab.submit(*works, set="held")
    lab.crash_at(Point.SET_CHUNK_COMMITTED)
    assert of_set(lab, "held", "hold") is None
    lab.restart()
    assert of_set(lab, "held", "hold") == 3
    for job in ahead:
        lab.ask(job, "cancel")
    assert {lab.end(job)["state"] for job in ahead} == {"canceled"}
    (other,) = lab.submit(lab.work())
    assert lab.end(other)["state"] == "completed"
    assert [lab.job(job)["state"] for job in jobs] == ["received"] * 5
    lab.crash_at(Point.SET_CHUNK_COMMITTED)
    assert of_set(lab, "held", "release") is None
    lab.restart()
    assert of_set(lab, "held", "release") == 3
    for job, work in zip(jobs, works, strict=True):
        seen = lab.end(job)
        assert (seen["state"], seen["attempt"], work.runs) == ("completed", 1, 1), seen


# 1: of what was handed over and does not run there is none; 2: of what runs; 4: of what waits.
@pytest.mark.usefixtures("by_twos")
@pytest.mark.parametrize("time", [1, 2, 4])
def test_a_set_half_canceled_and_half_pruned(lab: Lab, time: int) -> None:
    name = f"canceled-{time}"
    works = [lab.work("exec sleep 600") for _ in range(3)]
    jobs = lab.submit(*works, set=name)
    waiting = lab.submit(*lab.works(3), set=name, hold=True)
    for job, work in zip(jobs, works, strict=True):
        lab.await_run(work)
        lab.service.wait_for(job, ["running"])
    lab.crash_at(Point.SET_CHUNK_COMMITTED, time)
    assert of_set(lab, name, "cancel") is None
    lab.restart()
    of_set(lab, name, "cancel")
    assert {lab.end(job)["state"] for job in (*jobs, *waiting)} == {"canceled"}
    assert [work.runs for work in works] == [1, 1, 1]
    lab.crash_at(Point.SET_CHUNK_COMMITTED)
    assert of_set(lab, name, "prune") is None
    lab.restart()
    assert of_set(lab, name, "prune") == 4
    assert all(lab.job(job)["prune_requested_at"] for job in (*jobs, *waiting))


def test_a_set_of_more_jobs_than_are_changed_at_once(local: Lab) -> None:
    """It does not depend on the scheduler."""
    for _ in range(6):
        items = [{"bucket_id": str(uuid.uuid4()), **HELD} for _ in range(1000)]
        answer = local.service.post("/v1/jobs", items)
        assert {one["status"] for one in answer.body} == {201}

    def states() -> dict[str, int]:
        return dict(local.service.get("/v1/sets/many").body["jobs"])

    local.crash_at(Point.SET_CHUNK_COMMITTED, 3)  # the first of those that wait
    assert of_set(local, "many", "cancel") is None
    local.restart()
    assert states() == {"canceled": 5000, "received": 1000}
    assert of_set(local, "many", "cancel") == 1000
    assert states() == {"canceled": 6000}
    local.crash_at(Point.SET_CHUNK_COMMITTED)
    assert of_set(local, "many", "prune") is None
    local.restart()
    assert of_set(local, "many", "prune") == 1000


HELD = {"image": "busybox:1", "memory_mb": 16, "set": "many", "hold": True}


def of_set(lab: Lab, name: str, verb: str) -> int | None:
    """Do something to a set; how many jobs changed, None when the service died over it."""
    try:
        changed: int = lab.service.post(f"/v1/sets/{name}/{verb}", {}).body["changed"]
    except (urllib.error.URLError, ConnectionError):
        return None
    return changed
