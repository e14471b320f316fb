"""What is seen between the recorded ends, and of allocations nobody recorded."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.nomad.observe import observe
from bridge.connectors.nomad.wire import Alloc, Evaluation, Job, TaskState
from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import Phase
from tests.unit.connectors.nomad import recorded

STARTED = "2026-11-21T11:34:22Z"
LIVE = Job(id="j", status="running")


def event(kind: str, message: str = "", **details: str) -> dict[str, Any]:
    return {"Type": kind, "DisplayMessage": message, "Details": details}


def terminated(code: int, oom: bool = False) -> dict[str, Any]:
    return event("Terminated", exit_code=str(code), oom_killed=str(oom).lower())


def task(state: str, *events: dict[str, Any], failed: bool = False) -> dict[str, Any]:
    ran = any(one["Type"] == "Started" for one in events)
    return {
        "State": state,
        "Failed": failed,
        "StartedAt": STARTED if ran else None,
        "FinishedAt": STARTED if state == "dead" else None,
        "Events": list(events),
    }


def ran(code: int, *more: dict[str, Any], oom: bool = False) -> dict[str, Any]:
    return task("dead", event("Started"), terminated(code, oom), *more, failed=code != 0)


def ran_with(code: int, message: str) -> dict[str, Any]:
    told = event("Terminated", exit_code=str(code), oom_killed="false", exit_message=message)
    return task("dead", event("Started"), told, failed=True)


PENDING = task("pending", event("Received"))
RUNNING = task("running", event("Started"))
OK = ran(0)
NEVER = task("dead", event("Received"))


def look(stage_in: Any, main: Any, stage_out: Any, **changes: Any) -> Observation:
    alloc = {
        "ID": "a",
        "JobID": "j",
        "CreateIndex": 1,
        "NodeName": "n1",
        "ClientStatus": "running",
        "DesiredStatus": "run",
        "TaskStates": {"stage-in": stage_in, "main": main, "stage-out": stage_out},
    }
    return observe(LIVE, [msgspec.convert(alloc | changes, Alloc)])


def test_unknown_to_nomad_is_gone() -> None:
    assert observe(None, []) == Observation(state=Observed.GONE)


def test_just_registered_is_pending_without_a_reason() -> None:
    just = [Evaluation(id="e", create_index=1, status="pending")]
    assert observe(Job(id="j"), [], just) == Observation(state=Observed.PENDING)


def test_stopped_before_it_was_placed_is_canceled() -> None:
    seen = observe(Job(id="j", status="dead", stop=True), [])
    assert (seen.state, seen.cause) == (Observed.ENDED, Cause.CANCELED)


def test_stopped_but_not_yet_dead_is_not_over() -> None:
    assert observe(Job(id="j", status="running", stop=True), []).state is Observed.PENDING


def test_garbage_collected_allocation_is_neither_success_nor_failure() -> None:
    assert observe(Job(id="j", status="dead"), []).state is Observed.UNKNOWN


def test_placed_but_not_yet_reported() -> None:
    seen = look(None, None, None, TaskStates=None, ClientStatus="pending")
    assert (seen.state, seen.phase, seen.node) == (Observed.PENDING, Phase.STAGING, "n1")


def test_staging() -> None:
    assert look(RUNNING, PENDING, PENDING).phase is Phase.STAGING


@pytest.mark.parametrize("message", ["Downloading image", "Docker image pull progress: 1/3 layers"])
def test_pulling(message: str) -> None:
    seen = look(OK, task("pending", event("Driver", message)), PENDING, ClientStatus="pending")
    assert (seen.state, seen.phase) == (Observed.PENDING, Phase.PULLING)


def test_executing() -> None:
    seen = look(OK, RUNNING, PENDING)
    assert (seen.state, seen.phase) == (Observed.RUNNING, Phase.EXECUTING)
    assert seen.started_at == 1795260862.0


@pytest.mark.parametrize(
    ("placed_at", "started_at"), [(1795260862 + 700, 1795260862.0 + 700), (1795260861, 1795260862)]
)
def test_a_slow_clock_of_a_node_is_set_right(placed_at: int, started_at: float) -> None:
    """Nothing starts before the server has placed it."""
    seen = look(OK, RUNNING, PENDING, CreateTime=placed_at * 10**9)
    assert seen.started_at == started_at
    over = look(OK, OK, OK, CreateTime=placed_at * 10**9)
    assert (over.started_at, over.ended_at) == (started_at, started_at)


@pytest.mark.parametrize("stage_out", [PENDING, RUNNING])
def test_failed_allocation_that_still_uploads(stage_out: Any) -> None:
    seen = look(OK, ran(3), stage_out, ClientStatus="failed", ClientDescription="Failed tasks")
    assert (seen.state, seen.phase) == (Observed.RUNNING, Phase.UPLOADING)


def test_between_tasks_the_allocation_is_pending_again() -> None:
    assert look(OK, OK, PENDING, ClientStatus="pending").phase is Phase.UPLOADING


def test_after_a_failed_stage_in_no_phase_is_claimed() -> None:
    seen = look(ran(11), NEVER, RUNNING, ClientStatus="failed")
    assert (seen.state, seen.phase) == (Observed.PENDING, None)


def test_out_of_touch() -> None:
    seen = look(OK, RUNNING, PENDING, ClientStatus="unknown")
    assert seen.state is Observed.UNKNOWN
    assert (seen.reason, seen.started_at) == ("Machine n1 is out of touch", 1795260862.0)


def test_lost_before_main_is_placed_again_by_nomad() -> None:
    seen = look(RUNNING, PENDING, PENDING, ClientStatus="lost", DesiredStatus="stop")
    assert seen.state is Observed.PENDING


def test_lost_while_running() -> None:
    lost = {"ClientStatus": "lost", "DesiredStatus": "stop"}
    why = "alloc is lost since its node is down"
    seen = look(OK, RUNNING, PENDING, DesiredDescription=why, **lost)
    assert (seen.state, seen.cause) == (Observed.ENDED, Cause.NODE_LOST)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (10, Cause.WITHDRAWN),
        (11, Cause.INPUT_MISSING),
        (12, Cause.INPUT_INVALID),
        (13, Cause.STORAGE),
        (14, Cause.IMAGE_MISSING),
        (15, Cause.INTERNAL),
        (16, Cause.INPUT_INVALID),
        (18, Cause.INPUT_INVALID),
        (1, Cause.INTERNAL),
    ],
)
def test_stage_codes(code: int, cause: Cause) -> None:
    at_in = look(ran(code), NEVER, OK)
    at_out = look(OK, OK, ran(code))
    assert (at_in.cause, at_in.exit_code) == (cause, None)
    assert (at_out.cause, at_out.exit_code) == (cause, 0)


def test_input_missing_is_worded_as_clients_expect() -> None:
    assert look(ran(11), NEVER, OK).reason == "Input files missing"


def test_an_upload_that_was_cut_off_is_told_from_a_program_that_was() -> None:
    cut = {"ClientStatus": "complete", "ClientDescription": "allocation exceeded max_run_duration"}
    killed = task("dead", event("Started"), event("Killing"), terminated(143), failed=True)
    late = look(OK, OK, killed, **cut)
    assert (late.cause, late.exit_code) == (Cause.TIMEOUT, 0)
    assert late.reason == "The upload of the results was cut off: it took too long"
    never = look(OK, killed, NEVER, **cut)
    assert never.cause is Cause.TIMEOUT and "nothing was uploaded" in (never.reason or "")


def test_own_failure_is_not_hidden_by_a_failed_upload() -> None:
    seen = look(OK, ran(3), ran(13))
    assert (seen.cause, seen.exit_code) == (Cause.EXIT, 3)
    assert seen.reason == "Exit code 3; its results could not be uploaded"


@pytest.mark.parametrize(
    "code", ["²", "--5", "9" * 5000, "٣", "1\n", "", "4294967296", "-9999999999"]
)
def test_an_exit_code_that_is_none_is_not_known(code: str) -> None:
    """Nomad passes on whatever a node says."""
    told = event("Terminated", exit_code=code, oom_killed="false")
    seen = look(OK, task("dead", event("Started"), told, failed=True), OK)
    assert (seen.cause, seen.exit_code) == (Cause.INTERNAL, None)


@pytest.mark.parametrize("code", [-1, 2**31 - 1, -(2**31) + 1])
def test_exit_codes_of_other_systems(code: int) -> None:
    assert look(OK, ran(code), OK).exit_code == code


def test_superseded_counts_whatever_the_program_did() -> None:
    assert look(OK, ran(3), ran(10)).cause is Cause.WITHDRAWN


def test_out_of_memory_that_the_program_survived_is_success() -> None:
    assert look(OK, ran(0, oom=True), OK).cause is None


@pytest.mark.parametrize(
    ("main", "stage_out"),
    [
        # Nomad lost the engine and takes that for code 0.
        (ran_with(0, "unexpected EOF"), 0),
        (ran_with(0, "unexpected EOF"), 17),
        (ran_with(0, "unexpected EOF"), 13),
        # The engine came back and ended what it found; main's entry left no mark.
        (ran(137), 17),
        (ran(143), 17),
        # The engine died before it could say that the container had begun.
        (task("dead", event("Driver Failure", "error during connect: EOF"), failed=True), 17),
    ],
)
def test_a_container_that_its_engine_ended(main: Any, stage_out: int) -> None:
    seen = look(OK, main, ran(stage_out))
    assert (seen.state, seen.cause, seen.exit_code) == (Observed.ENDED, Cause.NODE_LOST, None)
    assert seen.reason == "The container engine of machine n1 ended the job"


def test_who_stops_a_job_cuts_it_off_too() -> None:
    main = task("dead", event("Started"), event("Killing"), terminated(137))
    assert look(OK, main, ran(17), DesiredStatus="stop").cause is Cause.CANCELED


def test_out_of_memory_cuts_a_job_off_too() -> None:
    seen = look(OK, ran(137, oom=True), ran(17))
    assert (seen.cause, seen.exit_code) == (Cause.OOM, 137)
    assert seen.reason is not None and "uploaded" not in seen.reason


RESCHEDULED = {
    "DesiredStatus": "stop",
    "DesiredDescription": "alloc was rescheduled because it failed",
    "ClientStatus": "failed",
}
FENCED = ran(10)


def looks(*runs: Any) -> Observation:
    """Allocations of one job, the oldest first."""
    raw = [
        {"ID": f"a{number}", "JobID": "j", "CreateIndex": number, "NodeName": f"n{number}"}
        | {"DesiredStatus": "run", "ClientStatus": "failed"}
        | {"TaskStates": dict(zip(("stage-in", "main", "stage-out"), tasks, strict=True))}
        | changes
        for number, (*tasks, changes) in enumerate(runs, 1)
    ]
    return observe(LIVE, msgspec.convert(raw, list[Alloc]))


@pytest.mark.parametrize(
    ("main", "stage_out", "cause", "exit_code"),
    [
        (ran(3), OK, Cause.EXIT, 3),
        (ran(137, oom=True), ran(17), Cause.OOM, 137),
        (ran(3), NEVER, Cause.EXIT, 3),
        (OK, ran(13), Cause.STORAGE, 0),
        (ran(212), OK, Cause.NODE_LOST, None),
    ],
)
@pytest.mark.parametrize("again", [(RUNNING, PENDING, PENDING, {}), (FENCED, NEVER, FENCED, {})])
def test_what_ended_out_of_touch_counts_before_its_replacement(
    again: Any, main: Any, stage_out: Any, cause: Cause, exit_code: int | None
) -> None:
    seen = looks((OK, main, stage_out, RESCHEDULED), again)
    assert (seen.state, seen.cause, seen.exit_code) == (Observed.ENDED, cause, exit_code)
    assert seen.node == "n1"


def test_while_that_uploads_the_run_goes_on() -> None:
    seen = looks((OK, ran(3), RUNNING, RESCHEDULED), (FENCED, NEVER, FENCED, {}))
    assert (seen.state, seen.phase, seen.node) == (Observed.RUNNING, Phase.UPLOADING, "n1")


def test_what_failed_out_of_touch_before_it_ran_is_replaced() -> None:
    seen = looks((ran(13), NEVER, OK, RESCHEDULED), (OK, RUNNING, PENDING, {}))
    assert (seen.state, seen.phase, seen.node) == (Observed.RUNNING, Phase.EXECUTING, "n2")


def test_137_alone_is_no_out_of_memory() -> None:
    assert look(OK, ran(137), OK).cause is Cause.EXIT


@pytest.mark.parametrize(
    "main",
    [
        ran(212),
        task("dead", event("Started"), event("Failed Restoring Task"), terminated(0)),
        task("dead", event("Started"), event("Started"), terminated(0)),
    ],
)
def test_restarted_machine(main: Any) -> None:
    seen = look(OK, main, OK, ClientStatus="complete")
    assert (seen.cause, seen.exit_code) == (Cause.NODE_LOST, None)


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ("alloc not needed due to job update", Cause.CANCELED),
        ("alloc is being migrated", Cause.DRAINED),
        ("alloc is lost since its node is down", Cause.NODE_LOST),
        ("Preempted by alloc ID 1234", Cause.WITHDRAWN),
    ],
)
def test_stopped_while_running(why: str, cause: Cause) -> None:
    killed = task("dead", event("Started"), event("Killing"), terminated(0), event("Killed"))
    stop = {"DesiredStatus": "stop", "DesiredDescription": why, "ClientStatus": "complete"}
    assert look(OK, killed, OK, **stop).cause is cause


def test_stopped_too_late_is_success() -> None:
    stop = {"DesiredStatus": "stop", "DesiredDescription": "alloc not needed due to job update"}
    assert look(OK, ran(0, event("Killing")), OK, **stop).cause is None


@pytest.mark.parametrize(
    ("kind", "message", "cause"),
    [
        ("Driver Failure", "Failed to pull `x:1`: not found", Cause.IMAGE_MISSING),
        ("Driver Failure", "No such image: bridge.invalid/x:1", Cause.IMAGE_MISSING),
        (
            "Driver Failure",
            'exec: "/bin/sh": stat /bin/sh: no such file or directory',
            Cause.IMAGE_MISSING,
        ),
        ("Driver Failure", "cannot connect to the Docker daemon", Cause.NODE_LOST),
        (
            "Driver Failure",
            "Failed to pull `x:1`: Cannot connect to the Docker daemon at unix:///x. Is it up?",
            Cause.NODE_LOST,
        ),
        ("Setup Failure", "failed to build task dir", Cause.INTERNAL),
        ("Failed Validation", "invalid config", Cause.INTERNAL),
    ],
)
def test_container_that_did_not_start(kind: str, message: str, cause: Cause) -> None:
    main = task("dead", event(kind, message), failed=True)
    seen = look(OK, main, OK, ClientStatus="failed")
    assert (seen.cause, seen.exit_code, seen.started_at) == (cause, None, None)
    assert seen.reason


def test_stage_program_that_did_not_start() -> None:
    stage_in = task("dead", event("Driver Failure", "no such file: bin/stage"), failed=True)
    seen = look(stage_in, NEVER, NEVER, ClientStatus="failed")
    assert seen.cause is Cause.INTERNAL
    assert seen.reason == "The stage program could not be started: no such file: bin/stage"


def test_allocation_the_client_could_not_set_up() -> None:
    seen = look(
        None, None, None, TaskStates=None, ClientStatus="failed", ClientDescription="disk full"
    )
    assert (seen.state, seen.cause) == (Observed.ENDED, Cause.INTERNAL)
    assert seen.reason is not None and "disk full" in seen.reason


def test_upload_that_never_ran_is_no_success() -> None:
    assert look(OK, OK, NEVER, ClientStatus="complete").cause is Cause.INTERNAL


def test_finish_times_are_stamped_on_running_tasks_and_mean_nothing() -> None:
    raw = recorded.raw_alloc("client-killed-in-stage-out")
    raw["TaskStates"]["stage-out"] |= {"State": "running", "FinishedAt": STARTED}
    raw["ClientStatus"] = "complete"
    seen = observe(LIVE, [msgspec.convert(raw, Alloc)])
    assert (seen.state, seen.phase) == (Observed.RUNNING, Phase.UPLOADING)


EVENTS = st.lists(
    st.sampled_from(
        [
            event("Received"),
            event("Started"),
            event("Killing"),
            event("Killed"),
            event("Driver Failure", "x"),
            event("Failed Restoring Task"),
            *(terminated(code) for code in (0, 1, 10, 11, 137, 212)),
            terminated(137, oom=True),
            {"Type": "Terminated", "DisplayMessage": "", "Details": None},
        ]
    ),
    max_size=6,
)
TASKS = st.none() | st.builds(
    lambda state, events, failed: task(state, *events, failed=failed),
    st.sampled_from(["pending", "running", "dead"]),
    EVENTS,
    st.booleans(),
)


def test_a_lost_one_whose_end_was_not_told_whole_is_no_success() -> None:
    states = {
        "stage-in": task("dead", event("Started"), terminated(0)),
        "main": task("dead", event("Started"), terminated(0)),
        "stage-out": task("running", event("Started"), terminated(0)),
    }
    seen = look(None, None, None, TaskStates=states, ClientStatus="lost", DesiredStatus="run")
    assert (seen.state, seen.cause) == (Observed.ENDED, Cause.NODE_LOST)


@given(
    tasks=st.tuples(TASKS, TASKS, TASKS),
    client=st.sampled_from(["pending", "running", "complete", "failed", "lost", "unknown"]),
    desired=st.sampled_from(["run", "stop", "evict"]),
    why=st.sampled_from(["", "alloc is being migrated", "alloc not needed due to job update"]),
)
def test_success_is_never_guessed(
    tasks: tuple[Any, Any, Any], client: str, desired: str, why: str
) -> None:
    names = ("stage-in", "main", "stage-out")
    states = {n: copy.deepcopy(t) for n, t in zip(names, tasks, strict=True) if t is not None}
    seen = look(
        None,
        None,
        None,
        TaskStates=states or None,
        ClientStatus=client,
        DesiredStatus=desired,
        DesiredDescription=why,
    )
    if seen.state is Observed.ENDED and seen.cause is None:
        assert seen.exit_code == 0
        out = msgspec.convert(states["stage-out"], TaskState)
        ends = [e.details for e in out.events or () if e.type == "Terminated"]
        assert out.state == "dead" and ends[-1] is not None
        assert ends[-1]["exit_code"] == "0"
    if client == "unknown":
        assert seen.state is Observed.UNKNOWN
