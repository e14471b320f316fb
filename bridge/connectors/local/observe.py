"""What an attempt's steps mean: pure, from facts to an Observation.

Success is said only when the program ended with 0 by itself and the upload was
confirmed. While the supervisor lives nothing but its last line is an end; once
it is dead without that line nothing more will come, and the attempt is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from bridge.connectors.local.steps import Fault, Mark, Step, Stop
from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import Phase

# Exit codes of the stage program, protocol version 1.
_STAGED: Final = {
    10: (Cause.WITHDRAWN, "Superseded by another attempt"),
    11: (Cause.INPUT_MISSING, "Input files missing"),
    12: (Cause.INPUT_INVALID, "The input archive cannot be used"),
    13: (Cause.STORAGE, "The storage did not answer for longer than we wait"),
    14: (Cause.IMAGE_MISSING, "The image cannot be had"),
    15: (Cause.INTERNAL, "The node is not set up as it must be"),
    16: (Cause.INPUT_INVALID, "The job replaced its run directory"),
    18: (Cause.INPUT_INVALID, "The folder already belongs to another job"),
}
_INPUT_MISSING: Final = 11
# Of stage out: uploaded, superseded, the bucket was deleted, no run directory.
_NOTHING_TO_KEEP: Final = (0, 10, 11, 16)

_FAULTS: Final = {
    Fault.IMAGE_MISSING: Cause.IMAGE_MISSING,
    Fault.IMAGE_UNUSABLE: Cause.INPUT_INVALID,
    Fault.ENGINE_AWAY: Cause.INTERNAL,
    Fault.ENGINE_LOST: Cause.NODE_LOST,
    Fault.INTERNAL: Cause.INTERNAL,
}
_STOPS: Final = {
    Stop.CANCEL: (Cause.CANCELED, "canceled"),
    Stop.TIME_LIMIT: (Cause.TIMEOUT, "time limit reached"),
    Stop.SHUTDOWN: (Cause.NODE_LOST, "the machine was shut down"),
}

RESTARTED: Final = "the machine was restarted"
KILLED: Final = "the job's supervisor was killed"


class Verdict(msgspec.Struct, frozen=True):
    """Why an attempt did not succeed."""

    cause: Cause
    reason: str


def observe(
    steps: Sequence[Step],
    *,
    supervised: bool,
    same_boot: bool,
    phase: str | None,
    node: str,
) -> Observation:
    """Judge the steps of one attempt.

    ``supervised``: its supervisor lives. ``same_boot``: the machine was not
    restarted since. ``phase``: the stage program's last word, only shown.
    """
    marks = {step.mark: step for step in steps}
    main, ended = marks.get(Mark.MAIN), marks.get(Mark.MAIN_ENDED)
    started_at = None if main is None else main.at
    if Mark.DONE not in marks and supervised:
        running = main is not None
        return Observation(
            state=Observed.RUNNING if running else Observed.PENDING,
            phase=_phase(running=running, main_ended=ended is not None, stage=phase),
            node=node,
            started_at=started_at,
        )
    verdict = _verdict(marks, same_boot=same_boot)
    return Observation(
        state=Observed.ENDED,
        reason=None if verdict is None else verdict.reason,
        cause=None if verdict is None else verdict.cause,
        exit_code=None if ended is None else ended.code,
        node=node,
        started_at=started_at,
        ended_at=steps[-1].at if steps else None,
    )


def keeps_results(steps: Sequence[Step]) -> bool:
    """Whether the run directory holds results that exist nowhere else: the
    program ran to its end, and the storage would not take them.
    """
    outs = [step for step in steps if step.mark is Mark.STAGE_OUT_ENDED]
    return any(step.code not in _NOTHING_TO_KEEP for step in outs)


def _phase(*, running: bool, main_ended: bool, stage: str | None) -> Phase:
    if running:
        return Phase.UPLOADING if main_ended else Phase.EXECUTING
    return Phase.PULLING if stage == Phase.PULLING else Phase.STAGING


def _verdict(marks: dict[Mark, Step], *, same_boot: bool) -> Verdict | None:
    done = marks.get(Mark.DONE)
    if done is None:
        return Verdict(Cause.NODE_LOST, KILLED if same_boot else RESTARTED)
    if done.fault is not None:
        return Verdict(Cause.INTERNAL, f"the job's supervisor failed: {done.sentence}")
    staged = marks.get(Mark.STAGE_IN_ENDED)
    if staged is not None and (failed := _stage_verdict(staged, "in")):
        return failed
    return _run_verdict(marks.get(Mark.MAIN_ENDED), marks.get(Mark.STAGE_OUT_ENDED))


def _run_verdict(ended: Step | None, out: Step | None) -> Verdict | None:
    if ended is None:
        return Verdict(Cause.INTERNAL, "the job's program was never started")
    failed = _main_verdict(ended)
    if out is None:
        return failed or Verdict(Cause.INTERNAL, "the results were never uploaded")
    lost = _stage_verdict(out, "out")
    if failed is None or lost is None:
        return failed or lost
    if lost.cause is Cause.WITHDRAWN:
        return lost
    # The program's own end tells more; that results are missing is added.
    return Verdict(failed.cause, f"{failed.reason}; results not uploaded: {lost.reason}")


def _stage_verdict(step: Step, verb: str) -> Verdict | None:
    if step.code == 0:
        return None
    if step.stop is Stop.TIME_LIMIT:
        return Verdict(Cause.STORAGE, f"stage {verb} took too long and was stopped")
    if step.stop is not None:
        return Verdict(*_STOPS[step.stop])
    known = _STAGED.get(step.code or 0)
    if known is None:
        return Verdict(Cause.INTERNAL, f"stage {verb} ended with exit code {step.code}")
    cause, reason = known
    # This sentence is fixed: clients look for it word by word.
    fixed = step.code == _INPUT_MISSING and verb == "in"
    return Verdict(cause, reason if fixed else step.sentence or reason)


def _main_verdict(step: Step) -> Verdict | None:
    if step.stop is not None:
        return Verdict(*_STOPS[step.stop])
    if step.fault is not None:
        return Verdict(_FAULTS[step.fault], step.sentence)
    if step.oom:
        return Verdict(Cause.OOM, "killed for using more memory than it asked for")
    if step.code == 0:
        return None
    said = f" ({step.sentence})" if step.sentence else ""
    return Verdict(Cause.EXIT, f"exit code {step.code}{said}")
