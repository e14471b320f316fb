"""Named places in the code where a test may pause, or end the process.

What must hold when the service dies between two steps, or when somebody else
acts there, can only be shown by a test that is able to stop exactly there. In
the service no hook is installed, and ``reach`` does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum


class Point(StrEnum):
    """The places. BEFORE_COMMIT and HALFWAY are within a transaction: what was done
    there is not stored yet, and a hook that waits keeps other writers waiting.
    """

    SUBMIT_BEFORE_COMMIT = "submit-before-commit"
    SUBMIT_COMMITTED = "submit-committed"  # the caller has no answer yet
    CLAIM_CHOSEN = "claim-chosen"  # who goes next is known, nobody is claimed
    CLAIM_BEFORE_COMMIT = "claim-before-commit"
    CLAIM_COMMITTED = "claim-committed"
    RECLAIM_COMMITTED = "reclaim-committed"  # claims that had run out are ours
    HAND_OVER_BEFORE_CALL = "hand-over-before-call"
    HAND_OVER_CALLED = "hand-over-called"  # the scheduler knows it, we have not noted that
    REJECT_BEFORE_COMMIT = "reject-before-commit"
    RECORD_BEFORE_COMMIT = "record-before-commit"
    RECORD_COMMITTED = "record-committed"
    OBSERVE_READ = "observe-read"  # what is stored is read, the scheduler not asked
    OBSERVE_POLLED = "observe-polled"
    OBSERVE_BEFORE_COMMIT = "observe-before-commit"
    OBSERVE_COMMITTED = "observe-committed"
    END_HALFWAY = "end-halfway"  # the attempt has ended, its job not
    REQUEUE_HALFWAY = "requeue-halfway"  # the same, for a job that goes back to the queue
    STOP_COMMITTED = "stop-committed"  # the wish is stored, the scheduler not told
    STOP_CALLED = "stop-called"
    STOP_SENT = "stop-sent"  # that it was told is stored, too
    SWEEP_LISTED = "sweep-listed"  # what lives at the scheduler is known
    STRAY_STOPPED = "stray-stopped"
    FORGET_BEFORE_CALL = "forget-before-call"
    FORGET_CALLED = "forget-called"
    FORGET_COMMITTED = "forget-committed"
    CANCEL_HALFWAY = "cancel-halfway"  # the job does not wait; is it handed over?
    CANCEL_BEFORE_COMMIT = "cancel-before-commit"
    CANCEL_COMMITTED = "cancel-committed"
    RETRY_BEFORE_COMMIT = "retry-before-commit"
    RETRY_COMMITTED = "retry-committed"
    PRUNE_BEFORE_COMMIT = "prune-before-commit"
    PRUNE_COMMITTED = "prune-committed"
    ENROL_ADMITTED = "enrol-admitted"  # the scheduler lets the node in, we have not noted it
    ENROL_BEFORE_COMMIT = "enrol-before-commit"
    ROTATE_BEFORE_COMMIT = "rotate-before-commit"
    SET_CHUNK_COMMITTED = "set-chunk-committed"  # some jobs of the set are changed


Hook = Callable[[Point], object]

_hook: Hook | None = None


def reach(point: Point) -> None:
    """Tell the hook, if a test installed one, that ``point`` is reached."""
    if _hook is not None:
        _hook(point)


@contextmanager
def install(hook: Hook) -> Iterator[None]:
    """Call ``hook`` at every point, in whatever thread gets there, until the end. For tests.

    It may wait, raise, or end the process.
    """
    global _hook  # noqa: PLW0603 (one process, one hook: what is tested is a whole process)
    before, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = before
