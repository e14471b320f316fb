"""Anything in any order: the queue as a state machine, with a scheduler that keeps its word.

The scheduler is a model of its own: it knows what it was handed, starts each native
id once, and is honest about it. Whatever members, time, faults and deaths of the
service do, a few things must hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bridge import points
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict
from bridge.models.attempt import (
    AttemptSpec,
    Cause,
    Handle,
    Observation,
    Observed,
)
from bridge.models.job import FINAL, MOVES, Job, JobState
from bridge.points import Point
from tests.integration.core.conftest import House
from tests.support.fake_connector import FakeConnector
from tests.support.interleave import Survived, killed_at

# One of each kind: final, tried again, tried again for nothing, with more memory, stopped.
FAULTS = [Cause.EXIT, Cause.NODE_LOST, Cause.WITHDRAWN, Cause.OOM, Cause.CANCELED]
DEATHS = [
    Point.CLAIM_CHOSEN,
    Point.CLAIM_BEFORE_COMMIT,
    Point.CLAIM_COMMITTED,
    Point.RECLAIM_COMMITTED,
    Point.HAND_OVER_BEFORE_CALL,
    Point.HAND_OVER_CALLED,
    Point.RECORD_BEFORE_COMMIT,
    Point.RECORD_COMMITTED,
    Point.OBSERVE_READ,
    Point.OBSERVE_POLLED,
    Point.OBSERVE_BEFORE_COMMIT,
    Point.OBSERVE_COMMITTED,
    Point.END_HALFWAY,
    Point.REQUEUE_HALFWAY,
    Point.STOP_COMMITTED,
    Point.STOP_CALLED,
    Point.STOP_SENT,
]
VERBS = ["cancel", "hold", "release", "retry", "prune", "set-cancel", "set-release"]
# Not within a transaction: there, others would wait.
PAUSES = [
    Point.CLAIM_CHOSEN,
    Point.CLAIM_COMMITTED,
    Point.HAND_OVER_BEFORE_CALL,
    Point.HAND_OVER_CALLED,
    Point.RECORD_COMMITTED,
    Point.OBSERVE_READ,
    Point.OBSERVE_POLLED,
    Point.STOP_COMMITTED,
    Point.STOP_CALLED,
    Point.SWEEP_LISTED,
]
# Every change of state, whoever makes it.
LOG = """
CREATE TABLE moves (old TEXT, new TEXT);
CREATE TRIGGER log_moves AFTER UPDATE OF state ON jobs WHEN old.state != new.state
BEGIN INSERT INTO moves VALUES (old.state, new.state); END
"""
JOBS = "SELECT id, state, attempt, cancel_requested_at FROM jobs"
CHARGEABLE = """
SELECT count(*) FROM attempts
WHERE state = 'ended' AND started_at IS NOT NULL
AND coalesce(cause, '') NOT IN ('withdrawn', 'drained')
"""
ATTEMPTS = "SELECT job_id, number, state, cause, native_id FROM attempts ORDER BY number"


class Scheduler(FakeConnector):
    """Starts what it was handed, once, and stops what it is asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, UUID] = {}  # native id → whose attempt it is
        self.succeeded: set[str] = set()  # native ids
        self.ran: list[str] = []  # native ids whose program was started

    def submit(self, spec: AttemptSpec) -> None:
        owner = self.jobs.setdefault(spec.handle.native_id, spec.job_id)
        assert owner == spec.job_id, "one native id for two jobs"
        super().submit(spec)

    def cancel(self, handle: Handle) -> None:
        super().cancel(handle)
        seen = self.shown.get(handle)
        if seen is not None and seen.state in (Observed.PENDING, Observed.RUNNING):
            self.shown[handle] = Observation(state=Observed.ENDED, cause=Cause.CANCELED)

    def forget(self, handle: Handle) -> None:
        seen = self.shown.get(handle)
        assert seen is None or seen.state is not Observed.RUNNING or handle in self.cancels
        super().forget(handle)

    def alive(self) -> list[Handle]:
        """What has not ended, in a fixed order."""
        living = [one for one, seen in self.shown.items() if seen.state is not Observed.ENDED]
        return sorted(living, key=lambda one: one.native_id)

    def start(self, handle: Handle, now: float) -> None:
        """The program starts, if it has not."""
        if self.shown[handle].state is Observed.PENDING:
            assert handle.native_id not in self.ran, "one attempt ran twice"
            self.ran.append(handle.native_id)
            self.shown[handle] = Observation(state=Observed.RUNNING, started_at=now, node="n")

    def end(self, handle: Handle, cause: Cause | None, now: float) -> None:
        """It ends; without a cause, well."""
        if cause is None:
            self.start(handle, now)
            self.succeeded.add(handle.native_id)
        self.shown[handle] = Observation(state=Observed.ENDED, cause=cause, ended_at=now)


class Queue(RuleBasedStateMachine):
    """What members, the scheduler, time and misfortune may do."""

    @initialize()
    def build(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "bridge.db"
        file.write_bytes(_template())
        self.db = Database(f"sqlite:///{file}")
        self.scheduler = Scheduler()
        self.house = House(self.db, scheduler=self.scheduler)
        self.jobs: list[Job] = []
        self.retries = 0
        for limit in (10, 10_000):
            self.submit(limit, hold=False)

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
        finally:
            self.house.feeder.close()
            self.db.close()
            self.folder.cleanup()

    # Members

    @rule(limit=st.sampled_from([10, 10_000]), hold=st.booleans())
    def submit(self, limit: int, hold: bool) -> None:
        job = self.house.submit(time_limit_s=limit, hold=hold, oom_retry_mb=8000, set="s")
        assert self.house.submit(bucket_id=job.bucket_id).id == job.id
        self.jobs.append(job)

    @rule(data=st.data(), verb=st.sampled_from(VERBS))
    def ask(self, data: st.DataObject, verb: str) -> None:
        if verb.startswith("set-"):
            getattr(self.house.sets, verb.removeprefix("set-"))(self.house.ada, "s")
        else:
            self._ask(data.draw(st.sampled_from(self.jobs)), verb)

    def _ask(self, job: Job, verb: str) -> None:
        before = self.house.job(job)
        act: Callable[..., Job] = getattr(self.house.jobs, verb)
        try:
            act(self.house.ada, job.id)
        except Conflict:
            return
        if verb == "retry":
            assert before.state in {JobState.FAILED, JobState.CANCELED}
            assert before.prune_requested_at is None
            self.retries += 1

    # The service

    @rule()
    def step(self) -> None:
        self.house.step()

    @rule(data=st.data(), verb=st.sampled_from(["cancel", "hold", "retry", "step"]))
    def meanwhile(self, data: st.DataObject, verb: str) -> None:
        """While the service is between two steps, a member acts, or another process."""
        point = data.draw(st.sampled_from(PAUSES))
        self._interleave(point, data.draw(st.sampled_from(self.jobs)), verb)

    @rule(
        data=st.data(),
        cause=st.sampled_from([None, *FAULTS]),
        verb=st.sampled_from(["cancel", "step"]),
    )
    @precondition(lambda self: self.scheduler.alive())
    def meanwhile_one_has_ended(self, data: st.DataObject, cause: Cause | None, verb: str) -> None:
        handle = data.draw(st.sampled_from(self.scheduler.alive()))
        self.scheduler.end(handle, cause, self.house.clock.now)
        (job,) = (job for job in self.jobs if job.id == self.scheduler.jobs[handle.native_id])
        self._interleave(Point.OBSERVE_POLLED, job, verb)

    def _interleave(self, point: Point, job: Job, verb: str) -> None:
        done = False

        def act(here: Point) -> None:
            nonlocal done
            if here is point and not done:
                done = True
                self.house.step() if verb == "step" else self._ask(job, verb)

        with points.install(act):
            self.house.step()
            self.house.reconciler.sweep()

    @rule(point=st.sampled_from(DEATHS), time=st.integers(1, 2))
    def die(self, point: Point, time: int) -> None:
        with suppress(Survived), killed_at(point, time=time):
            self.house.step()
        self.house.feeder.close()
        self.house.restart()

    # The scheduler

    @rule(data=st.data(), seen=st.booleans())
    @precondition(lambda self: self.scheduler.alive())
    def start(self, data: st.DataObject, seen: bool) -> None:
        handle = data.draw(st.sampled_from(self.scheduler.alive()))
        self.scheduler.start(handle, self.house.clock.now)
        if seen:
            self.house.reconciler.step()

    @rule(data=st.data(), cause=st.sampled_from([None, *FAULTS]), seen=st.booleans())
    @precondition(lambda self: self.scheduler.alive())
    def end(self, data: st.DataObject, cause: Cause | None, seen: bool) -> None:
        handle = data.draw(st.sampled_from(self.scheduler.alive()))
        self.scheduler.end(handle, cause, self.house.clock.now)
        if seen:
            self.house.reconciler.step()

    @rule(data=st.data(), kind=st.sampled_from(["out of touch", "purged", "away"]))
    def trouble(self, data: st.DataObject, kind: str) -> None:
        alive, confirmed = self.scheduler.alive(), self._confirmed()
        if kind == "out of touch" and alive:
            handle = data.draw(st.sampled_from(alive))
            self.scheduler.shown[handle] = Observation(state=Observed.UNKNOWN)
        if kind == "purged" and confirmed:
            del self.scheduler.shown[data.draw(st.sampled_from(confirmed))]
        self.scheduler.away = kind == "away"
        self.house.step()
        self.scheduler.away = False
        self.house.pass_time(2)

    # Time

    @rule(seconds=st.sampled_from([1.0, 12.0, 31.0, 61.0, 601.0]))
    def pass_time(self, seconds: float) -> None:
        self.house.pass_time(seconds)
        self.house.step()
        self.house.reconciler.sweep()
        self.house.reconciler.forget()

    # What must hold

    @invariant()
    def states_change_by_legal_moves(self) -> None:
        moves = [(JobState(old), JobState(new)) for old, new in self._rows("SELECT * FROM moves")]
        assert all(new in MOVES[old] for old, new in moves), moves
        assert sum(old in FINAL for old, _ in moves) == self.retries, "final states stay"

    @invariant()
    def jobs_and_attempts_agree(self) -> None:
        of_job: dict[bytes, list[tuple[int, str, str | None, str]]] = {}
        for job_id, *one in self._rows(ATTEMPTS):
            of_job.setdefault(job_id, []).append(tuple(one))
        for job_id, state, count, canceled_at in self._rows(JOBS):
            found = of_job.get(job_id, [])
            assert [number for number, *_ in found] == list(range(1, count + 1))
            states = [attempt for _, attempt, *_ in found]
            assert set(states[:-1]) <= {"ended"}, "two attempts live"
            handed_over = state in {"submitted", "running"}
            assert handed_over == (bool(states) and states[-1] != "ended")
            succeeded = [one for one in found if one[1:3] == ("ended", None)]
            assert succeeded in ([], found[-1:]), "tried again after a success"
            assert bool(succeeded) == (state == "completed")
            assert {one[-1] for one in succeeded} <= self.scheduler.succeeded
            assert state != "received" or canceled_at is None, "a cancel was lost"

    @invariant()
    def every_run_is_charged_once(self) -> None:
        ((charged,),) = self._rows("SELECT coalesce(sum(attempts), 0) FROM usage")
        ((ended,),) = self._rows(CHARGEABLE)
        assert charged == ended

    def _comes_to_rest(self) -> None:
        """With a scheduler that works, every job that nobody holds ends."""
        for _ in range(12):
            self.house.pass_time(700)
            self.house.step()
            for handle in self.scheduler.alive():
                self.scheduler.end(handle, None, self.house.clock.now)
        states = {state for (state,) in self._rows("SELECT state FROM jobs WHERE NOT hold")}
        assert states <= FINAL, "stuck"

    def _confirmed(self) -> list[Handle]:
        claimed = {name for _, _, state, _, name in self._rows(ATTEMPTS) if state == "claimed"}
        return [one for one in self.scheduler.alive() if one.native_id not in claimed]

    def _rows(self, query: str) -> list[Any]:
        return self.db.read(partial(_execute, statement=query))


@cache
def _template() -> bytes:
    """A database that logs moves: migrating one for every example would take long."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bridge.db"
        db = Database(f"sqlite:///{file}")
        db.upgrade()
        for statement in LOG.split(";\n", 1):
            db.write(partial(_execute, statement=statement))
        db.close()
        return file.read_bytes()


def _execute(conn: Connection, statement: str) -> list[Any]:
    result = conn.exec_driver_sql(statement)
    return list(result.all()) if result.returns_rows else []


def test_queue() -> None:
    run_state_machine_as_test(
        Queue,
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
