"""From recorded steps to what the core is told."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.connectors.local.observe import keeps_results, observe
from bridge.connectors.local.steps import Fault, Mark, Step, Stop
from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import Phase


def record(*steps: tuple[Mark, dict[str, Any]] | Mark) -> list[Step]:
    """Steps one second apart, from second 1."""
    pairs = [step if isinstance(step, tuple) else (step, {}) for step in steps]
    return [Step(mark=mark, at=float(at), **more) for at, (mark, more) in enumerate(pairs, 1)]


def look(steps: list[Step], **facts: Any) -> Observation:
    known: dict[str, Any] = {"supervised": True, "same_boot": True, "phase": None, "node": "here"}
    return observe(steps, **(known | facts))


BEGUN = (Mark.SUPERVISED, Mark.STAGE_IN)
STAGED = (*BEGUN, (Mark.STAGE_IN_ENDED, {"code": 0}))
RAN = (*STAGED, Mark.MAIN)
UPLOADED = (Mark.STAGE_OUT, (Mark.STAGE_OUT_ENDED, {"code": 0}), Mark.DONE)


def ended(main: dict[str, Any], out: dict[str, Any] | None = None) -> list[Step]:
    closing = (Mark.STAGE_OUT, (Mark.STAGE_OUT_ENDED, out or {"code": 0}), Mark.DONE)
    return record(*RAN, (Mark.MAIN_ENDED, main), *closing)


@pytest.mark.parametrize(
    ("steps", "said", "state", "phase"),
    [
        ((Mark.SUPERVISED,), None, Observed.PENDING, Phase.STAGING),
        (BEGUN, "staging", Observed.PENDING, Phase.STAGING),
        (BEGUN, "pulling", Observed.PENDING, Phase.PULLING),
        (BEGUN, "rubbish", Observed.PENDING, Phase.STAGING),
        (STAGED, "staging", Observed.PENDING, Phase.STAGING),
        (RAN, "staging", Observed.RUNNING, Phase.EXECUTING),
        ((*RAN, (Mark.MAIN_ENDED, {"code": 0})), "staging", Observed.RUNNING, Phase.UPLOADING),
    ],
)
def test_while_the_supervisor_lives(
    steps: tuple[Mark, ...], said: str | None, state: Observed, phase: Phase
) -> None:
    seen = look(record(*steps), phase=said)
    assert (seen.state, seen.phase, seen.cause, seen.node) == (state, phase, None, "here")


def test_a_failed_stage_in_is_no_end_before_the_last_line() -> None:
    steps = record(*BEGUN, (Mark.STAGE_IN_ENDED, {"code": 11}))
    assert look(steps).state is Observed.PENDING


def test_success_needs_exit_code_0_and_a_confirmed_upload() -> None:
    seen = look(ended({"code": 0}), supervised=False)
    assert seen == Observation(
        state=Observed.ENDED, exit_code=0, node="here", started_at=4.0, ended_at=8.0
    )


@pytest.mark.parametrize(
    ("main", "cause", "reason"),
    [
        ({"code": 3}, Cause.EXIT, "exit code 3"),
        (
            {"code": 139, "sentence": "killed by SIGSEGV"},
            Cause.EXIT,
            "exit code 139 (killed by SIGSEGV)",
        ),
        (
            {"code": 137, "oom": True},
            Cause.OOM,
            "killed for using more memory than it asked for",
        ),
        ({"code": 143, "stop": Stop.CANCEL}, Cause.CANCELED, "canceled"),
        ({"code": 0, "stop": Stop.CANCEL}, Cause.CANCELED, "canceled"),
        ({"code": 137, "stop": Stop.TIME_LIMIT}, Cause.TIMEOUT, "time limit reached"),
        ({"code": 143, "stop": Stop.SHUTDOWN}, Cause.NODE_LOST, "the machine was shut down"),
        ({"fault": Fault.ENGINE_LOST, "sentence": "gone"}, Cause.NODE_LOST, "gone"),
    ],
)
def test_how_the_program_ended(main: dict[str, Any], cause: Cause, reason: str) -> None:
    seen = look(ended(main))
    assert (seen.state, seen.cause, seen.reason) == (Observed.ENDED, cause, reason)
    assert seen.exit_code == main.get("code")


@pytest.mark.parametrize(
    ("code", "cause", "reason"),
    [
        (10, Cause.WITHDRAWN, "said"),
        (11, Cause.INPUT_MISSING, "Input files missing"),
        (12, Cause.INPUT_INVALID, "said"),
        (13, Cause.STORAGE, "said"),
        (14, Cause.IMAGE_MISSING, "said"),
        (15, Cause.INTERNAL, "said"),
        (16, Cause.INPUT_INVALID, "said"),
        (1, Cause.INTERNAL, "stage in ended with exit code 1"),
        (137, Cause.INTERNAL, "stage in ended with exit code 137"),
    ],
)
def test_exit_codes_of_stage_in(code: int, cause: Cause, reason: str) -> None:
    steps = record(*BEGUN, (Mark.STAGE_IN_ENDED, {"code": code, "sentence": "said"}), Mark.DONE)
    seen = look(steps)
    assert (seen.state, seen.cause, seen.reason) == (Observed.ENDED, cause, reason)
    assert seen.exit_code is None and seen.started_at is None


@pytest.mark.parametrize(
    ("stop", "cause"), [(Stop.CANCEL, Cause.CANCELED), (Stop.TIME_LIMIT, Cause.STORAGE)]
)
def test_a_stage_in_that_was_stopped(stop: Stop, cause: Cause) -> None:
    steps = record(*BEGUN, (Mark.STAGE_IN_ENDED, {"code": 143, "stop": stop}), Mark.DONE)
    assert look(steps).cause is cause


def test_canceled_before_the_program_started() -> None:
    steps = record(*STAGED, (Mark.MAIN_ENDED, {"stop": Stop.CANCEL}), Mark.DONE)
    seen = look(steps)
    assert (seen.cause, seen.exit_code, seen.started_at) == (Cause.CANCELED, None, None)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault.IMAGE_MISSING, Cause.IMAGE_MISSING),
        (Fault.IMAGE_UNUSABLE, Cause.INPUT_INVALID),
        (Fault.ENGINE_AWAY, Cause.INTERNAL),
        (Fault.INTERNAL, Cause.INTERNAL),
    ],
)
def test_a_program_that_could_not_be_started(fault: Fault, cause: Cause) -> None:
    main = (Mark.MAIN_ENDED, {"fault": fault, "sentence": "why"})
    seen = look(record(*STAGED, main, Mark.DONE))
    assert (seen.state, seen.cause, seen.reason) == (Observed.ENDED, cause, "why")


@pytest.mark.parametrize(
    ("main", "out", "cause", "reason"),
    [
        ({"code": 0}, {"code": 13, "sentence": "full"}, Cause.STORAGE, "full"),
        ({"code": 0}, {"code": 10}, Cause.WITHDRAWN, "Superseded by another attempt"),
        ({"code": 3}, {"code": 10}, Cause.WITHDRAWN, "Superseded by another attempt"),
        (
            {"code": 3},
            {"code": 13, "sentence": "full"},
            Cause.EXIT,
            "exit code 3; results not uploaded: full",
        ),
        (
            {"code": 143, "stop": Stop.CANCEL},
            {"code": 13, "sentence": "full"},
            Cause.CANCELED,
            "canceled; results not uploaded: full",
        ),
        ({"code": 0}, {"code": 16, "sentence": "swapped"}, Cause.INPUT_INVALID, "swapped"),
        ({"code": 0}, {"code": 9}, Cause.INTERNAL, "stage out ended with exit code 9"),
    ],
)
def test_a_failed_upload_is_no_success(
    main: dict[str, Any], out: dict[str, Any], cause: Cause, reason: str
) -> None:
    seen = look(ended(main, out))
    assert (seen.cause, seen.reason, seen.exit_code) == (cause, reason, main["code"])


@pytest.mark.parametrize("steps", [(Mark.SUPERVISED,), STAGED, RAN])
@pytest.mark.parametrize(
    ("same_boot", "reason"),
    [(True, "the job's supervisor was killed"), (False, "the machine was restarted")],
)
def test_without_its_supervisor_an_open_record_is_lost(
    steps: tuple[Mark, ...], same_boot: bool, reason: str
) -> None:
    seen = look(record(*steps), supervised=False, same_boot=same_boot)
    assert (seen.state, seen.cause, seen.reason) == (Observed.ENDED, Cause.NODE_LOST, reason)


def test_a_record_of_nothing_is_lost_too() -> None:
    assert look([], supervised=False, same_boot=False).cause is Cause.NODE_LOST


def test_a_finished_record_counts_also_after_a_restart() -> None:
    assert look(ended({"code": 0}), supervised=False, same_boot=False).cause is None


def test_a_fault_of_the_supervisor() -> None:
    steps = record(*RAN, (Mark.DONE, {"fault": Fault.INTERNAL, "sentence": "disk full"}))
    seen = look(steps)
    assert seen.cause is Cause.INTERNAL
    assert seen.reason == "the job's supervisor failed: disk full"


@pytest.mark.parametrize(
    ("main", "reason"),
    [([], "the job's program was never started"), (["ended"], "the results were never uploaded")],
)
def test_an_end_without_its_steps_is_no_success(main: list[str], reason: str) -> None:
    steps = record(*RAN, *[(Mark.MAIN_ENDED, {"code": 0}) for _ in main], Mark.DONE)
    seen = look(steps)
    assert (seen.cause, seen.reason) == (Cause.INTERNAL, reason)


@pytest.mark.parametrize(
    ("code", "kept"),
    [(0, False), (10, False), (11, False), (16, False), (13, True), (15, True), (137, True)],
)
def test_results_that_exist_nowhere_else_are_kept(code: int, kept: bool) -> None:
    assert keeps_results(ended({"code": 0}, {"code": code})) is kept


def test_nothing_to_keep_without_an_upload() -> None:
    assert not keeps_results(record(*BEGUN, (Mark.STAGE_IN_ENDED, {"code": 13}), Mark.DONE))
