"""What every connector must do. Each passes all of this, whatever its scheduler is; what
is its own is tested where it lives.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from bridge.connectors.base import Capacity, Connector, Room, Survey
from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import AttemptSpec, Cause, Handle, Observed
from tests.support.poll import eventually
from tests.support.room import free
from tests.support.schedulers import Program, Scheduler

Call = Callable[[Connector, AttemptSpec], object]

CALLS: dict[str, Call] = {
    "submit": lambda connector, spec: connector.submit(spec),
    "poll": lambda connector, spec: connector.poll([spec.handle]),
    "cancel": lambda connector, spec: connector.cancel(spec.handle),
    "forget": lambda connector, spec: connector.forget(spec.handle),
    "sweep": lambda connector, spec: connector.sweep([spec.handle.namespace]),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


def forget(scheduler: Scheduler, handle: Handle) -> None:
    """Forget; the scheduler may ask to wait while it cleans up."""

    def done() -> bool:
        try:
            scheduler.connector.forget(handle)
        except ConnectorUnavailable:
            return False
        return True

    eventually(done, timeout=20)


def sweep(scheduler: Scheduler) -> set[Handle]:
    return set(scheduler.connector.sweep([scheduler.namespace]))


# How an attempt goes


def test_success(scheduler: Scheduler) -> None:
    spec = scheduler.spec()
    seen = scheduler.run(spec)
    assert (seen.state, seen.cause, seen.exit_code) == (Observed.ENDED, None, 0)
    assert seen.node
    assert seen.started_at is not None and seen.ended_at is not None
    assert seen.started_at <= seen.ended_at <= time.time() + 1
    assert scheduler.result(spec, "ran.txt") == "ran\n"


def test_the_exit_code_and_what_there_is_come_back(scheduler: Scheduler) -> None:
    spec = scheduler.spec(Program.EXITS_3)
    seen = scheduler.run(spec)
    assert (seen.cause, seen.exit_code) == (Cause.EXIT, 3)
    assert seen.reason is not None and seen.reason.lower() == "exit code 3"
    assert scheduler.result(spec, "half.txt") == "half\n"


def test_before_its_program_starts_it_is_pending_then_running(scheduler: Scheduler) -> None:
    waiting = scheduler.spec()
    scheduler.hold_staging(waiting)
    scheduler.connector.submit(waiting)
    seen = scheduler.look(waiting)
    assert (seen.state, seen.started_at) == (Observed.PENDING, None)
    seen = scheduler.look(scheduler.running())
    assert seen.state is Observed.RUNNING
    assert seen.started_at is not None and seen.ended_at is None and seen.node


@pytest.mark.parametrize(
    ("step", "code", "cause"),
    [
        ("in", 10, Cause.WITHDRAWN),
        ("in", 11, Cause.INPUT_MISSING),
        ("out", 13, Cause.STORAGE),
    ],
)
def test_what_stage_says_is_the_cause(
    scheduler: Scheduler, step: str, code: int, cause: Cause
) -> None:
    """Without confirmed results there is no success, whatever the program returned."""
    spec = scheduler.spec()
    scheduler.fail(spec, step, code)
    seen = scheduler.run(spec)
    assert (seen.state, seen.cause) == (Observed.ENDED, cause)
    assert seen.exit_code == (0 if step == "out" else None)
    if cause is Cause.INPUT_MISSING:
        assert seen.reason == "Input files missing"
    assert scheduler.result(spec, "ran.txt") is None


# Handing over


def test_handed_over_again_it_runs_once(scheduler: Scheduler) -> None:
    """Twice at once, by another process, and when it has ended."""
    spec = scheduler.spec()
    scheduler.connector.submit(spec)
    scheduler.connector.submit(spec)
    scheduler.another().submit(spec)
    scheduler.until(spec, Observed.ENDED)
    scheduler.connector.submit(spec)
    scheduler.another().submit(spec)
    assert scheduler.look(spec).state is Observed.ENDED
    assert scheduler.result(spec, "ran.txt") == "ran\n"


def test_handed_over_by_many_at_once_it_runs_once(scheduler: Scheduler) -> None:
    spec = scheduler.spec()
    faults: list[BaseException] = []

    def submit() -> None:
        try:
            scheduler.connector.submit(spec)
        except BaseException as error:  # noqa: BLE001 (it is looked at below)
            faults.append(error)

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert scheduler.until(spec, Observed.ENDED).cause is None
    assert scheduler.result(spec, "ran.txt") == "ran\n"


def test_a_late_call_does_not_bring_a_canceled_one_back(scheduler: Scheduler) -> None:
    spec = scheduler.spec()
    scheduler.hold_staging(spec)
    scheduler.connector.submit(spec)
    scheduler.connector.cancel(spec.handle)
    scheduler.until(spec, Observed.ENDED)
    scheduler.connector.submit(spec)
    assert scheduler.look(spec).cause is Cause.CANCELED
    assert scheduler.result(spec, "ran.txt") is None


def test_what_can_never_run_is_rejected_and_leaves_nothing(scheduler: Scheduler) -> None:
    spec = scheduler.spec(**scheduler.too_much())
    with pytest.raises(JobRejected) as caught:
        scheduler.connector.submit(spec)
    assert caught.value.message
    assert str(spec.bucket_id) not in f"{caught.value.message}{caught.value.hint}"
    assert scheduler.look(spec).state is Observed.GONE
    assert sweep(scheduler) == set()


# Looking


def test_nothing_to_look_at(scheduler: Scheduler) -> None:
    assert scheduler.connector.poll([]) == {}


def test_what_was_never_handed_over_is_gone(scheduler: Scheduler) -> None:
    assert scheduler.look(scheduler.spec()).state is Observed.GONE


@pytest.mark.parametrize("others", [1, 10])
def test_every_handle_is_answered(scheduler: Scheduler, others: int) -> None:
    ended = scheduler.spec(Program.EXITS_3)
    scheduler.run(ended)
    waiting = scheduler.spec()
    scheduler.hold_staging(waiting)
    scheduler.connector.submit(waiting)
    never = [scheduler.spec() for _ in range(others)]
    seen = scheduler.connector.poll([one.handle for one in (ended, waiting, *never)])
    assert len(seen) == others + 2
    assert seen[ended.handle].exit_code == 3
    assert seen[waiting.handle].state is Observed.PENDING
    assert {seen[one.handle].state for one in never} == {Observed.GONE}
    again = scheduler.another().poll(list(seen))
    assert {one: look.state for one, look in again.items()} == {
        one: look.state for one, look in seen.items()
    }


def test_the_end_stays_what_it_was(scheduler: Scheduler) -> None:
    spec = scheduler.spec(Program.EXITS_3)
    seen = scheduler.run(spec)
    scheduler.connector.cancel(spec.handle)
    assert scheduler.look(spec) == seen
    assert scheduler.another().poll([spec.handle])[spec.handle] == seen


# Stopping


def test_cancel_brings_partial_results_home(scheduler: Scheduler) -> None:
    spec = scheduler.running()
    scheduler.connector.cancel(spec.handle)
    scheduler.connector.cancel(spec.handle)
    seen = scheduler.until(spec, Observed.ENDED)
    assert seen.cause is Cause.CANCELED
    assert scheduler.result(spec, "half.txt") == "half\n"
    scheduler.connector.cancel(spec.handle)
    assert scheduler.look(spec).cause is Cause.CANCELED


def test_cancel_while_staging(scheduler: Scheduler) -> None:
    spec = scheduler.spec()
    scheduler.hold_staging(spec)
    scheduler.connector.submit(spec)
    scheduler.connector.cancel(spec.handle)
    seen = scheduler.until(spec, Observed.ENDED)
    assert (seen.cause, seen.started_at, seen.exit_code) == (Cause.CANCELED, None, None)
    assert scheduler.result(spec, "ran.txt") is None


@pytest.mark.parametrize("call", ["cancel", "forget"])
def test_an_unknown_one_is_no_error(scheduler: Scheduler, call: str) -> None:
    spec = scheduler.spec()
    for _ in range(2):
        CALLS[call](scheduler.connector, spec)
    assert scheduler.look(spec).state is Observed.GONE
    # It is not a sign that would keep it from being handed over later.
    assert scheduler.run(spec).cause is None


# Forgetting


def test_forget(scheduler: Scheduler) -> None:
    spec = scheduler.spec()
    scheduler.run(spec)
    forget(scheduler, spec.handle)
    eventually(lambda: scheduler.look(spec).state is Observed.GONE, timeout=20)
    forget(scheduler, spec.handle)
    scheduler.connector.cancel(spec.handle)
    assert scheduler.look(spec).state is Observed.GONE
    assert scheduler.result(spec, "ran.txt") == "ran\n"


# Sweeping


def test_sweep_finds_what_lives_and_is_ours(scheduler: Scheduler) -> None:
    ended, running = scheduler.spec(), scheduler.running()
    scheduler.run(ended)
    stranger = scheduler.spec(
        Program.RUNS_ON, handle=Handle(f"other-{uuid4().hex}-1", scheduler.namespace)
    )
    never = scheduler.spec()
    scheduler.connector.submit(stranger)
    try:
        scheduler.until(stranger, Observed.RUNNING)
        assert sweep(scheduler) == {running.handle}
        assert set(scheduler.another().sweep([scheduler.namespace])) == {running.handle}
        seen = scheduler.connector.sweep([scheduler.namespace])[running.handle]
        assert seen.state is Observed.RUNNING
        assert scheduler.look(never).state is Observed.GONE
        if isinstance(scheduler.connector, Survey):
            places = scheduler.connector.inhabited()
            assert set(scheduler.connector.sweep(places)) == {running.handle}
    finally:
        scheduler.connector.cancel(stranger.handle)
    scheduler.until(stranger, Observed.ENDED)
    scheduler.connector.cancel(running.handle)
    scheduler.until(running, Observed.ENDED)
    assert sweep(scheduler) == set()


# Room


def test_what_lives_takes_its_room(scheduler: Scheduler) -> None:
    connector = scheduler.connector
    if not isinstance(connector, Capacity):
        return
    pool = scheduler.spec().node_pool
    before = room_at_rest(connector, scheduler.namespace, pool)
    for machine in before.machines:
        assert machine.name
        assert 0 < machine.cores_free <= machine.cores
        assert 0 < machine.memory_free_mb <= machine.memory_mb
    assert before.ready and before.slots > 0
    running = scheduler.running()
    during = connector.room(scheduler.namespace, pool)
    assert free(during)[0] == free(before)[0] - 1
    assert free(during)[1] < free(before)[1]
    connector.cancel(running.handle)
    scheduler.until(running, Observed.ENDED)
    again = eventually(
        lambda: (room := connector.room(scheduler.namespace, pool)) == before and room,
        timeout=40,
    )
    assert again == before


def room_at_rest(connector: Capacity, namespace: str, pool: str) -> Room:
    """The room, when what earlier tests left has ended."""
    looks: list[Room] = []

    def is_as_before() -> bool:
        looks.append(connector.room(namespace, pool))
        return looks[-1:] == looks[-2:-1]

    eventually(is_as_before, timeout=40, every=1)
    return looks[-1]


# A scheduler that cannot be asked


@every_call
def test_what_cannot_be_asked_is_unavailable(scheduler: Scheduler, call: Call) -> None:
    """And never an end, nor an empty answer."""
    with pytest.raises(ConnectorUnavailable) as caught:
        call(scheduler.away(), scheduler.spec())
    assert caught.value.message and caught.value.hint
    assert caught.value.retry_after > 0


def test_check_says_so_and_raises_nothing(scheduler: Scheduler) -> None:
    health = scheduler.away().check()
    assert not health.ok
    assert all(one.detail and one.remedy for one in health.findings if not one.ok)


@every_call
def test_every_call_has_a_deadline(scheduler: Scheduler, call: Call) -> None:
    spec = scheduler.spec()
    with scheduler.stuck() as connector:
        began = time.monotonic()
        with contextlib.suppress(ConnectorUnavailable):
            call(connector, spec)
        assert time.monotonic() - began < scheduler.deadline_s
