"""What Nomad shows of a job → one Observation. Pure.

An allocation is judged by its tasks, never by its ``ClientStatus``: canceled
and timed-out allocations end ``complete``, and ``failed`` shows while stage-out
still uploads. It is over when stage-out is dead.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.connectors.nomad.verdict import RESCHEDULED, SUPERSEDED, judge
from bridge.connectors.nomad.view import Run, Task
from bridge.connectors.nomad.waiting import why_waiting
from bridge.connectors.nomad.wire import Alloc, Evaluation, Job
from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import Phase

_PULLING = ("Downloading image", "Docker image pull progress")


def newest(allocs: Sequence[Alloc]) -> Alloc | None:
    """The allocation that counts: the newest. A job has several only where Nomad replaced
    one that never got to run; the fence in the bucket stops it, should it live.

    Where Nomad replaced one whose program ended badly while its machine was out of touch,
    that one counts: its bucket lets no other in.
    """
    return max(allocs, key=lambda one: (_ended_out_of_touch(one), one.create_index), default=None)


def fenced(allocs: Sequence[Alloc]) -> bool:
    """Whether another run of the same job has the bucket, which may be missing here: it is
    older, and listings go back only so far.
    """
    alloc = newest(allocs)
    return alloc is not None and Run.of(alloc).stage_in.exit_code == SUPERSEDED


def placed(allocs: Sequence[Alloc]) -> bool:
    """Whether the allocations alone tell everything; if not, job and evaluations do."""
    alloc = newest(allocs)
    return alloc is not None and not _to_be_replaced(Run.of(alloc))


def in_question(allocs: Sequence[Alloc]) -> str | None:
    """The id of a node of which must be known whether it is there, to tell how things are."""
    alloc = newest(allocs)
    return (alloc.node_id or None) if alloc and Run.of(alloc).stays_as_shown else None


def observe(
    job: Job | None,
    allocs: Sequence[Alloc],
    evaluations: Sequence[Evaluation] = (),
    *,
    node_away: bool = False,
) -> Observation:
    """What is known of a job. ``job`` is None when Nomad says there is none; job
    and evaluations are looked at only where ``placed`` is false. ``node_away``: the node
    ``in_question`` is down, out of touch or forgotten.
    """
    alloc = newest(allocs)
    if alloc is None or _to_be_replaced(Run.of(alloc)):
        return _waiting(job, evaluations)
    run = Run.of(alloc)
    if alloc.client_status == "unknown" or node_away:
        return Observation(
            state=Observed.UNKNOWN,
            reason=f"Machine {run.node} is out of touch" if run.node else None,
            node=run.node,
            started_at=run.started_at,
        )
    if run.is_over:
        return judge(run)
    return _under_way(run)


def _ended_out_of_touch(alloc: Alloc) -> bool:
    # Nomad does so with whatever has failed when its machine is back, neither
    # `replace = false` nor `reschedule { attempts = 0 }` keeps it from that.
    return alloc.desired_description == RESCHEDULED and Run.of(alloc).main.exit_code is not None


def _to_be_replaced(run: Run) -> bool:
    """Lost before the user's program started: Nomad looks for another node itself."""
    return run.alloc.client_status == "lost" and not run.main.started


def _waiting(job: Job | None, evaluations: Sequence[Evaluation]) -> Observation:
    if job is None:
        return Observation(state=Observed.GONE)
    if job.status != "dead":
        return Observation(state=Observed.PENDING, reason=why_waiting(evaluations))
    if job.stop:
        return Observation(
            state=Observed.ENDED, cause=Cause.CANCELED, reason="Stopped before it started"
        )
    # Garbage collection took the allocation and not yet the job: how it ended
    # cannot be learned any more.
    return Observation(state=Observed.UNKNOWN, reason="Nomad has dropped how this run ended")


def _under_way(run: Run) -> Observation:
    if not run.main.started:
        pulling = run.stage_in.dead and _pulls(run.main)
        phase = None if run.main.dead else Phase.PULLING if pulling else Phase.STAGING
        return Observation(state=Observed.PENDING, phase=phase, node=run.node)
    return Observation(
        state=Observed.RUNNING,
        phase=Phase.UPLOADING if run.main.dead else Phase.EXECUTING,
        node=run.node,
        started_at=run.started_at,
    )


def _pulls(main: Task) -> bool:
    return bool(main.events) and main.events[-1].display_message.startswith(_PULLING)
