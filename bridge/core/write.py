"""Recording what became of an attempt: attempt and job in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

import msgspec

from bridge import points
from bridge.core.node_rules import Outcome, tally
from bridge.core.verdict import End, Progress
from bridge.db import attempts, usage
from bridge.db import jobs as jobs_db
from bridge.db import nodes as nodes_db
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection
from bridge.models.attempt import LIVE_ATTEMPT, NOT_CHARGED, Attempt, AttemptState, Cause
from bridge.models.job import Job, JobState
from bridge.points import Point


def end_attempt(
    conn: Connection, one: AttemptOfJob, end: End, half_life_s: float, *, now: float
) -> bool:
    """End an attempt, charge it and move its job; False when somebody else already did."""
    end = _unless_canceled(conn, one.job, end)
    ended = attempts.change(
        conn,
        one.attempt.id,
        frm=LIVE_ATTEMPT,
        state=AttemptState.ENDED.value,
        started_at=end.started_at,
        ended_at=end.ended_at,
        recorded_at=now,
        node=end.node,
        exit_code=end.exit_code,
        cause=end.cause.value if end.cause else None,
        reason=end.reason,
        claim_token=None,
        claim_expires_at=None,
    )
    if not ended:
        return False
    _charge(conn, one.job, end, half_life_s)
    again = end.job is JobState.RECEIVED
    points.reach(Point.REQUEUE_HALFWAY if again else Point.END_HALFWAY)
    return _move_job(conn, one.job, end)


def _move_job(conn: Connection, job: Job, end: End) -> bool:
    """What the attempt was like becomes the job's only with a final state."""
    final = end.job is not JobState.RECEIVED
    canceled = end.job is JobState.CANCELED
    cause = Cause.CANCELED if canceled else end.cause
    return jobs_db.move(
        conn,
        job.id,
        frm={JobState.SUBMITTED, JobState.RUNNING},
        to=end.job,
        phase=None,
        reason=None if canceled else end.reason,
        retries=job.retries + int(end.retried),
        memory_mb=end.memory_mb or job.memory_mb,
        not_before=end.not_before,
        cause=cause.value if cause and final else None,
        exit_code=end.exit_code if final else None,
        node=end.node if final else None,
        started_at=end.started_at if final else None,
        ended_at=end.ended_at if final else None,
    )


def _unless_canceled(conn: Connection, job: Job, end: End) -> End:
    """``end``, or canceled where somebody asked for that while we judged.

    Back in the queue nobody would look at the wish again, and of what was never taken
    nothing ran that could have failed. The lock makes a wish that is being stored right
    now come first, or find the job where it then is. The attempt ended by itself and
    keeps its cause: by that it is charged or not.
    """
    again = end.job is JobState.RECEIVED
    if not again and end.cause is not Cause.REJECTED:
        return end
    stored = jobs_db.lock(conn, job.id)
    if stored is None or stored.cancel_requested_at is None:
        return end
    return End(
        job=JobState.CANCELED,
        cause=end.cause,
        reason=None if again else end.reason,  # there is no other attempt to give one for
        exit_code=end.exit_code,
        node=end.node,
        started_at=end.started_at,
        ended_at=end.ended_at,
    )


def _charge(conn: Connection, job: Job, end: End, half_life_s: float) -> None:
    """Core-seconds of what ran; not of what was taken back, nor of self-tests."""
    if end.started_at is None or end.cause in NOT_CHARGED or job.pinned_to is not None:
        return
    usage.charge(
        conn,
        job.user_id,
        cores=job.cores,
        seconds=max(end.ended_at - end.started_at, 0.0),
        at=end.ended_at,
        half_life_s=half_life_s,
    )


def count_on_nodes(conn: Connection, ended: Iterable[tuple[AttemptOfJob, End]]) -> None:
    """Add what ended, each once, to what is held against the nodes it ran on."""
    outcomes: dict[tuple[UUID, str], list[Outcome]] = {}
    for one, end in sorted(ended, key=lambda pair: pair[1].ended_at):
        if end.node is not None and one.job.pinned_to is None:
            where = (one.job.group_id, end.node)
            outcomes.setdefault(where, []).append(Outcome(end.cause, end.reason))
    # In one order, so that two who write at once do not wait for each other.
    for (group_id, name), all_of_it in sorted(outcomes.items()):
        sum_of_it = tally(all_of_it)
        if sum_of_it:
            nodes_db.count(
                conn,
                group_id,
                name,
                failures=sum_of_it.failures,
                from_zero=sum_of_it.from_zero,
                last=sum_of_it.last,
            )


class News(msgspec.Struct, frozen=True):
    """What a look at a live attempt adds to what is stored."""

    attempt: dict[str, object]
    job: dict[str, object]
    to: JobState

    def __bool__(self) -> bool:
        return bool(self.attempt or self.job)


def news_of(one: AttemptOfJob, seen: Progress) -> News:
    """The columns that ``seen`` changes; empty for most looks at most attempts."""
    attempt = {
        "state": seen.attempt,
        "node": seen.node,
        "started_at": seen.started_at,
        "missing_since": seen.missing_since,
        "unknown_since": seen.unknown_since,
        "stop_cause": seen.stop_cause,
        "stop_requested_at": seen.stop_requested_at,
        "cause": seen.given_up,
    }
    job = {
        "state": seen.job,
        "phase": seen.phase,
        "reason": seen.reason,
        "node": seen.node,
        "started_at": seen.started_at,
    }
    return News(_changed(one.attempt, attempt), _changed(one.job, job), seen.job)


def record_progress(conn: Connection, one: AttemptOfJob, news: News) -> None:
    """Record news of a live attempt, unless it has ended meanwhile."""
    if news.attempt and not attempts.change(conn, one.attempt.id, frm=LIVE_ATTEMPT, **news.attempt):
        return
    rest = {name: value for name, value in news.job.items() if name != "state"}
    if "state" in news.job:
        jobs_db.move(conn, one.job.id, frm={one.job.state}, to=news.to, **rest)
    elif rest:
        jobs_db.touch(conn, one.job.id, state={one.job.state}, **rest)


def _changed(stored: Attempt | Job, seen: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in seen.items() if getattr(stored, name) != value}
