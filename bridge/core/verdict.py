"""Attempt + observation + now → what to do: pure, the heart of reconciliation.

A scheduler that cannot be asked never gets here; ``UNKNOWN`` and ``GONE``
become an end only after their grace, and never a success.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge.models.attempt import (
    NOT_CHARGED,
    Attempt,
    AttemptState,
    Cause,
    Observation,
    Observed,
)
from bridge.models.job import Job, JobState, Phase


class Policy(msgspec.Struct, frozen=True):
    """How long we wait for what, in seconds."""

    node_lost_after_s: float = 600
    gone_grace_s: float = 30
    stop_again_s: float = 30  # a stop that shows no effect is asked for again
    call_deadline_s: float = 60  # after a claim ran out, its call may still be under way
    restored_at: float | None = None  # when the database came from a backup, Unix seconds


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt is over. ``job`` RECEIVED means: another attempt."""

    job: JobState
    cause: Cause | None
    reason: str | None
    for_good: bool = False  # no other attempt, whatever the cause
    retried: bool = False  # counts as a retry
    memory_mb: int | None = None  # for the next attempt, where it changes
    not_before: float | None = None  # the next attempt waits at least until then
    exit_code: int | None = None
    node: str | None = None
    started_at: float | None = None
    ended_at: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt goes on; what is known of it now."""

    attempt: AttemptState
    job: JobState
    phase: Phase | None = None
    reason: str | None = None
    node: str | None = None
    started_at: float | None = None
    missing_since: float | None = None
    unknown_since: float | None = None
    stop_cause: Cause | None = None  # the wish that stands
    stop_requested_at: float | None = None
    given_up: Cause | None = None  # the wish that has lapsed, while its call may yet show effect


class Decision(msgspec.Struct, frozen=True):
    """What to record (end or progress), and whether to ask for a stop first."""

    end: End | None = None
    progress: Progress | None = None
    stop: Cause | None = None


_WORDS: Final = {
    Cause.NODE_LOST: "the node running it was lost",
    Cause.OOM: "killed: out of memory",
    Cause.INPUT_MISSING: "Input files missing",
    Cause.IMAGE_MISSING: "image not found",
    Cause.STORAGE: "the storage could not be reached",
    Cause.DRAINED: "the node was drained",
    Cause.CANCELED: "stopped at the scheduler, not by the bridge",
    Cause.INTERNAL: "an internal fault",
}

# Ends after which the results are in the bucket, as far as there are any.
_UPLOADED: Final = frozenset({Cause.CANCELED, Cause.EXIT, Cause.OOM, Cause.TIMEOUT})
# Why we stop what we end without the scheduler's word. It may yet come back.
_GIVEN_UP: Final = frozenset({Cause.NODE_LOST, Cause.INTERNAL})


def decide(
    job: Job,
    attempt: Attempt,
    seen: Observation,
    *,
    now: float,
    watched_since: float,
    policy: Policy,
) -> Decision:
    """What one look at one attempt means.

    It was looked at without a pause since ``watched_since``: what was absent before that may
    have been back meanwhile, so its grace counts from there. Its use still ends where it was
    first missed.
    """
    match seen.state:
        case Observed.ENDED:
            return Decision(end=_ended(job, attempt, seen, now, policy))
        case Observed.GONE:
            return _gone(job, attempt, now, watched_since, policy)
        case Observed.UNKNOWN:
            return _unknown(job, attempt, seen, now, watched_since, policy)
        case _:
            return _alive(job, attempt, seen, now, policy)


def _ended(job: Job, attempt: Attempt, seen: Observation, now: float, policy: Policy) -> End:
    lost = _given_up(job, attempt, now, policy)
    state, cause, reason = _outcome(job, attempt, seen, lost, policy)
    started_at, ended_at = _span(attempt, seen, now)
    # What the scheduler itself had lost is no fault of the node.
    blameless = cause is lost is Cause.INTERNAL and seen.cause is Cause.CANCELED
    end = End(
        job=state,
        cause=cause,
        reason=reason,
        exit_code=seen.exit_code,
        node=None if blameless else seen.node or attempt.node,
        started_at=started_at,
        ended_at=ended_at,
    )
    return end if lost is None else _unless_overdue(job, attempt, seen, now, end)


def _started_at(attempt: Attempt, seen: Observation, now: float) -> float | None:
    """By our clock, as good as we know it: deadlines are kept by it, and the clock of a node
    may be wrong. What was stored at the first look stays.
    """
    if attempt.started_at is not None or seen.started_at is None:
        return attempt.started_at
    return min(max(seen.started_at, attempt.claimed_at), now)


def _span(attempt: Attempt, seen: Observation, now: float) -> tuple[float | None, float]:
    """Start and end. How long it ran is known by one clock, whatever that shows."""
    started_at = _started_at(attempt, seen, now)
    again = seen.cause is Cause.NODE_LOST and attempt.started_at is not None
    # After a reboot the scheduler shows the start that came to nothing, not the run before.
    if again or seen.started_at is None or seen.ended_at is None:
        return started_at, min(max(seen.ended_at or now, started_at or attempt.claimed_at), now)
    longest_s = max(now - attempt.claimed_at, 0.0)
    ran_s = min(max(seen.ended_at - seen.started_at, 0.0), longest_s)
    ended_at = min(max(seen.ended_at, attempt.claimed_at + ran_s), now)
    return ended_at - ran_s, ended_at


def _outcome(
    job: Job, attempt: Attempt, seen: Observation, lost: Cause | None, policy: Policy
) -> tuple[JobState, Cause | None, str | None]:
    if seen.cause is None:
        return JobState.COMPLETED, None, None
    if job.cancel_requested_at is not None:
        # What was taken from it is not charged, wanted or not.
        taken = seen.cause in NOT_CHARGED
        return JobState.CANCELED, seen.cause if taken else Cause.CANCELED, None
    if attempt.stop_cause is Cause.TIMEOUT:
        return JobState.FAILED, Cause.TIMEOUT, _timed_out(job, seen)
    stopped = seen.cause in (Cause.CANCELED, Cause.EXIT)
    if seen.cause is Cause.CANCELED and lost is not None:
        # The end reached us before ours was stored.
        return JobState.FAILED, lost, _WORDS[lost]
    if seen.cause is Cause.WITHDRAWN or (stopped and attempt.stop_cause is Cause.WITHDRAWN):
        return _withdrawn(job, seen, policy)
    return JobState.FAILED, seen.cause, seen.reason or _words(seen.cause, seen.exit_code)


def _withdrawn(job: Job, seen: Observation, policy: Policy) -> tuple[JobState, Cause, str | None]:
    if seen.cause is Cause.WITHDRAWN and job.created_at < (policy.restored_at or 0.0):
        # The bucket knows of an attempt that the backup does not.
        return JobState.FAILED, Cause.WITHDRAWN, "already handed over before the restore"
    return JobState.RECEIVED, Cause.WITHDRAWN, seen.reason


def _words(cause: Cause, exit_code: int | None) -> str:
    if cause is Cause.EXIT:
        return f"exit code {exit_code}"
    return _WORDS.get(cause, cause.value.replace("_", " "))


def _time_limit(job: Job) -> str:
    return f"time limit of {job.time_limit_s} s reached"


def _timed_out(job: Job, seen: Observation) -> str:
    """Its time is over whatever else came: another attempt would only use it up again."""
    if seen.cause in _UPLOADED:
        return _time_limit(job)
    why = seen.reason or _words(seen.cause or Cause.INTERNAL, seen.exit_code)
    return f"{_time_limit(job)}; its results were not uploaded: {why}"


def _asked_to_stop(
    job: Job, attempt: Attempt, lost: Cause, reason: str, *, node: str | None, last: float
) -> End:
    """End an attempt of which nothing more will be heard; ``last`` is when there last was."""
    state, cause = JobState.FAILED, lost
    words: str | None = reason
    if job.cancel_requested_at is not None:
        state, cause, words = JobState.CANCELED, Cause.CANCELED, None
    elif attempt.stop_cause is Cause.TIMEOUT:
        cause, words = Cause.TIMEOUT, _time_limit(job)
    elif attempt.stop_cause is Cause.WITHDRAWN:
        state, cause = JobState.RECEIVED, Cause.WITHDRAWN
    return End(
        job=state,
        cause=cause,
        reason=words,
        node=node,
        started_at=attempt.started_at,
        ended_at=max(last, attempt.started_at or last),
    )


def _gone(job: Job, attempt: Attempt, now: float, watched_since: float, policy: Policy) -> Decision:
    if attempt.state is AttemptState.CLAIMED:
        # Only looked at after the claim ran out and a stop was asked for. The
        # call may still be on its way; wait until it cannot be any more.
        if now < (attempt.claim_expires_at or now) + policy.call_deadline_s:
            return Decision()
        words = "never reached the scheduler"
        return Decision(end=_vanished(job, attempt, words, last=now, policy=policy))
    since = attempt.missing_since or now
    if now - max(since, watched_since) >= policy.gone_grace_s:
        words = "the scheduler no longer knows the job"
        return Decision(end=_vanished(job, attempt, words, last=since, policy=policy))
    return Decision(progress=_same(job, attempt, missing_since=since))


def _vanished(job: Job, attempt: Attempt, words: str, *, last: float, policy: Policy) -> End:
    end = _asked_to_stop(job, attempt, Cause.INTERNAL, words, node=attempt.node, last=last)
    if end.job is JobState.CANCELED or attempt.claimed_at >= (policy.restored_at or 0.0):
        return end
    # It may have ended well since the backup was made, so it must not run again.
    reason = "handed over before the restore, and unknown to the scheduler now"
    return msgspec.structs.replace(end, job=JobState.FAILED, cause=Cause.WITHDRAWN, reason=reason)


def _unknown(
    job: Job,
    attempt: Attempt,
    seen: Observation,
    now: float,
    watched_since: float,
    policy: Policy,
) -> Decision:
    since = attempt.unknown_since or now
    if seen.node is None and seen.reason is not None:
        # The scheduler itself has lost it: no fault of the node, wherever it ran.
        lost, node, reason = Cause.INTERNAL, None, seen.reason
    else:
        lost, node = Cause.NODE_LOST, seen.node or attempt.node
        reason = seen.reason or f"node {node or '?'} is out of touch"
    if now - max(since, watched_since) >= policy.node_lost_after_s:
        words = reason if node is None else f"node {node} out of touch for {now - since:.0f} s"
        started = msgspec.structs.replace(attempt, started_at=_started_at(attempt, seen, now))
        end = _asked_to_stop(job, started, lost, words, node=node, last=since)
        return Decision(end=_unless_overdue(job, attempt, seen, now, end), stop=end.cause)
    # Its time limit stops nothing now: the program may have ended in time, out there.
    progress = _same(job, attempt, unknown_since=since, reason=reason)
    if _lapses(job, attempt, progress):
        return Decision(progress=_without_wish(progress, now))
    return Decision(progress=progress, stop=_wanted_stop(job, attempt, now, policy))


def _unless_overdue(job: Job, attempt: Attempt, seen: Observation, now: float, end: End) -> End:
    """``end``, for good if its node was lost and its time is over by now: where nodes stay, what
    takes too long is not tried again either.
    """
    started_at = _started_at(attempt, seen, now)
    if end.cause is not Cause.NODE_LOST or not _is_overdue(job, job.phase, started_at, now):
        return end
    reason = f"{end.reason}; {_time_limit(job)}, so it is not tried again"
    return msgspec.structs.replace(end, for_good=True, reason=reason)


def _is_overdue(job: Job, phase: Phase | None, started_at: float | None, now: float) -> bool:
    """Whether its program has run for too long; uploads may take as long as they need."""
    if started_at is None or phase is Phase.UPLOADING:
        return False
    return now - started_at > job.time_limit_s


def _same(
    job: Job,
    attempt: Attempt,
    *,
    missing_since: float | None = None,
    unknown_since: float | None = None,
    reason: str | None = None,
) -> Progress:
    return Progress(
        attempt=attempt.state,
        job=job.state,
        phase=job.phase,
        reason=reason,
        node=attempt.node,
        started_at=attempt.started_at,
        missing_since=missing_since,
        unknown_since=unknown_since,
        stop_cause=attempt.stop_cause,
        stop_requested_at=attempt.stop_requested_at,
        given_up=attempt.cause,
    )


def _alive(job: Job, attempt: Attempt, seen: Observation, now: float, policy: Policy) -> Decision:
    running = seen.state is Observed.RUNNING or attempt.state is AttemptState.RUNNING
    started_at = _started_at(attempt, seen, now)
    lapsed = _lapsed(job, attempt, now, policy)
    progress = Progress(
        attempt=AttemptState.RUNNING if running else AttemptState.SUBMITTED,
        job=JobState.RUNNING if running else JobState.SUBMITTED,
        phase=seen.phase,
        reason=seen.reason,
        node=seen.node or attempt.node,
        started_at=started_at,
        stop_cause=attempt.stop_cause,
        stop_requested_at=_asked_at(attempt, lapsed, now),
        given_up=lapsed,
    )
    if _lapses(job, attempt, progress):
        progress = _without_wish(progress, now)
    else:
        stop = _wanted_stop(job, attempt, now, policy)
        if stop is not None:
            return Decision(progress=progress, stop=stop)
    overdue = seen.state is Observed.RUNNING and _is_overdue(job, seen.phase, started_at, now)
    timed_out = overdue and progress.stop_cause is None
    return Decision(progress=progress, stop=Cause.TIMEOUT if timed_out else None)


def _lapses(job: Job, attempt: Attempt, seen: Progress) -> bool:
    """Whether nobody wants any more that it stops, and no scheduler has confirmed that it will:
    a withdrawal that meets what has a machine by now, or what we gave up and is not lost.
    """
    if attempt.stop_sent_at is not None or job.cancel_requested_at is not None:
        return False
    placed = seen.attempt is AttemptState.RUNNING or seen.node is not None
    withdrawn = attempt.stop_cause is Cause.WITHDRAWN
    return (withdrawn and placed) or attempt.stop_cause in _GIVEN_UP


def _without_wish(progress: Progress, now: float) -> Progress:
    """Until now it may have been asked to stop: see ``_lapsed``."""
    lapsed = progress.stop_cause if progress.stop_cause in _GIVEN_UP else None
    asked = None if lapsed is None else now
    return msgspec.structs.replace(
        progress, stop_cause=None, stop_requested_at=asked, given_up=lapsed
    )


def _given_up(job: Job, attempt: Attempt, now: float, policy: Policy) -> Cause | None:
    """Why a stop is our doing, where it is, because we took it for lost."""
    if attempt.stop_cause is not None:
        return attempt.stop_cause if attempt.stop_cause in _GIVEN_UP else None
    return _lapsed(job, attempt, now, policy)


def _lapsed(job: Job, attempt: Attempt, now: float, policy: Policy) -> Cause | None:
    """Why we had given it up, as long as a call that was never answered may show effect: what
    is away hears of it when it is back, and what has stopped uploads first.
    """
    if attempt.stop_cause is not None:
        return None
    asked = attempt.stop_requested_at or 0.0
    until = asked + policy.call_deadline_s + policy.stop_again_s
    away, uploads = attempt.unknown_since is not None, job.phase is Phase.UPLOADING
    return attempt.cause if away or uploads or now <= until else None


def _asked_at(attempt: Attempt, lapsed: Cause | None, now: float) -> float | None:
    """When its stop was asked for, as far as that matters still."""
    if attempt.stop_cause is not None:
        return attempt.stop_requested_at
    if lapsed is None:
        return None
    return attempt.stop_requested_at if attempt.unknown_since is None else now


def _wanted_stop(job: Job, attempt: Attempt, now: float, policy: Policy) -> Cause | None:
    """The stop to ask the scheduler for now: a new one, or one that had no effect."""
    if attempt.stop_cause is None:
        return Cause.CANCELED if job.cancel_requested_at is not None else None
    asked = attempt.stop_requested_at or 0.0
    sent = attempt.stop_sent_at
    if sent is None or now - max(asked, sent) >= policy.stop_again_s:
        return attempt.stop_cause
    return None
