"""How a run that is over ended. Pure.

The rules are asked in order and the first that knows answers: what was done to
the run (restarted, superseded, drained, stopped) comes before what its program
did, and success is what remains when everything went right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bridge.connectors.nomad.view import Run, Task
from bridge.models.attempt import Cause, Observation, Observed

_TAKEN: Final = (
    "Not run: the folder already belongs to another job, handed over before. If that has ended, "
    "its results are in the bucket"
)

# Exit codes of stage (its protocol, version 1) → cause and what to tell people.
STAGE_EXITS: Final[dict[int, tuple[Cause, str]]] = {
    10: (Cause.WITHDRAWN, "Superseded by another run of the same job"),
    11: (Cause.INPUT_MISSING, "Input files missing"),
    12: (Cause.INPUT_INVALID, "run.tgz is damaged or leaves its folder"),
    13: (Cause.STORAGE, "The storage could not be reached for too long"),
    14: (Cause.IMAGE_MISSING, "The image was not found"),
    15: (Cause.INTERNAL, "The machine is not set up correctly, or its disk is full"),
    16: (Cause.INPUT_INVALID, "The job replaced its run directory; nothing was uploaded"),
    18: (Cause.INPUT_INVALID, _TAKEN),
}
SUPERSEDED: Final = 10
CUT_OFF: Final = 17  # what there was is uploaded, but the program did not end by itself
RESTARTED: Final = 212  # main's entry found that it had run here before

# How Nomad words why it stops an allocation (scheduler/structs/const.go there).
_MIGRATED: Final = "alloc is being migrated"
_LOST: Final = "alloc is lost since its node is down"
_PREEMPTED: Final = "Preempted"
RESCHEDULED: Final = "alloc was rescheduled because it failed"  # it had ended by itself before
_OUTER_LIMIT: Final = "allocation exceeded max_run_duration"

_NO_ENGINE: Final = ("cannot connect to the docker daemon", "error during connect", "eof")
_NO_IMAGE: Final = ("failed to pull", "no such image", "failed to find docker image")
_NO_PROGRAM: Final = ("no such file or directory", "executable file not found")
_LONGEST: Final = 300

Verdict = tuple[Cause | None, str | None]


def judge(run: Run) -> Observation:
    """How it ended. Success means: exit code 0 and stage-out has uploaded everything."""
    cause, reason = next(verdict for rule in _RULES if (verdict := rule(run)) is not None)
    restarted = cause is Cause.NODE_LOST
    return Observation(
        state=Observed.ENDED,
        cause=cause,
        reason=reason,
        exit_code=None if restarted else run.main.exit_code,
        node=run.node,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def _superseded(run: Run) -> Verdict | None:
    if SUPERSEDED in (run.stage_in.exit_code, run.stage_out.exit_code):
        return STAGE_EXITS[SUPERSEDED]
    return None


def _restarted(run: Run) -> Verdict | None:
    main = run.main
    again = main.count("Started") > 1 or main.count("Failed Restoring Task") > 0
    if again or main.exit_code == RESTARTED:
        return Cause.NODE_LOST, f"Machine {run.node} was restarted while the job ran"
    return None


def _outer_limit(run: Run) -> Verdict | None:
    if run.alloc.client_description != _OUTER_LIMIT:
        return None
    if run.main.dead and run.stage_out.started:
        return Cause.TIMEOUT, "The upload of the results was cut off: it took too long"
    return Cause.TIMEOUT, "Stopped by Nomad at the outer time limit; nothing was uploaded"


def _staging_failed(run: Run) -> Verdict | None:
    task = run.stage_in
    if task.exit_code in (None, 0):
        return _not_started(run, task, "The stage program") if task.state.failed else None
    if task.killed:
        return None
    return _stage_exit(task.exit_code, "stage in")


def _stopped(run: Run) -> Verdict | None:
    unfinished = run.main.killed or run.main.exit_code is None or not run.stage_out.started
    why = run.alloc.desired_description
    if not run.stopped or not unfinished or why == RESCHEDULED:
        return None
    if why == _MIGRATED:
        return Cause.DRAINED, f"Machine {run.node} was drained"
    if why == _LOST:
        return Cause.NODE_LOST, f"Machine {run.node} was lost"
    if why.startswith(_PREEMPTED):
        return Cause.WITHDRAWN, "Gave way to a job of higher priority"
    return Cause.CANCELED, "Stopped"


def _cut_off(run: Run) -> Verdict | None:
    """When the engine dies under a container, Nomad tells of an end with code 0 and a
    message; or of a failed start, had the engine not told it yet that the container began.
    When it comes back it ends what it finds, which looks like any SIGKILL. In all but the
    first case stage-out finds that the program began and did not end by itself.
    """
    if run.main.out_of_memory:
        return None
    unexplained = run.main.started and run.main.exit_code == 0 and run.main.exit_message
    if not unexplained and run.stage_out.exit_code != CUT_OFF:
        return None
    return Cause.NODE_LOST, f"The container engine of machine {run.node} ended the job"


def _main_not_started(run: Run) -> Verdict | None:
    return None if run.main.started else _not_started(run, run.main, "The container")


def _not_started(run: Run, task: Task, what: str) -> Verdict:
    event = task.last("Driver Failure", "Setup Failure", "Failed Validation", "Killing")
    said = event.display_message if event else run.alloc.client_description
    words = " ".join((said or "no reason given").split())[:_LONGEST]
    lower = words.lower()
    if any(text in lower for text in _NO_ENGINE):
        # It may have begun the container all the same, after stage-out looked: the machine
        # is lost for this run, and nobody can say that the program did not begin.
        return Cause.NODE_LOST, f"The container engine of machine {run.node} did not answer"
    if any(text in lower for text in _NO_IMAGE):
        return Cause.IMAGE_MISSING, words
    if '"/bin/sh"' in lower and any(text in lower for text in _NO_PROGRAM):
        return Cause.IMAGE_MISSING, "The image has no /bin/sh, which starts run.sh"
    return Cause.INTERNAL, f"{what} could not be started: {words}"


def _program(run: Run) -> Verdict | None:
    code = run.main.exit_code
    if code == 0:
        return None
    if code is None:
        return Cause.INTERNAL, "Nomad does not say how the program ended"
    uploaded = run.stage_out.exit_code in (0, CUT_OFF)
    note = "" if uploaded else "; its results could not be uploaded"
    if run.main.out_of_memory:
        return Cause.OOM, f"Killed for using more memory than asked for{note}"
    return Cause.EXIT, f"Exit code {code}{note}"


def _upload(run: Run) -> Verdict:
    code = run.stage_out.exit_code
    if code == 0 and run.stage_out.dead:
        return None, None
    if code == 0:  # lost before its client had told all
        return Cause.NODE_LOST, f"Machine {run.node} was lost"
    if code is None:
        return Cause.INTERNAL, "The results were not uploaded"
    return _stage_exit(code, "stage out")


def _stage_exit(code: int | None, what: str) -> Verdict:
    unknown = (Cause.INTERNAL, f"The machine's program `{what}` ended with code {code}")
    return STAGE_EXITS.get(code or 0, unknown)


_RULES: Final[tuple[Callable[[Run], Verdict | None], ...]] = (
    _superseded,
    _restarted,
    _outer_limit,
    _staging_failed,
    _stopped,
    _cut_off,
    _main_not_started,
    _program,
    _upload,
)
