"""One job with its attempts, as the database has them, for a state machine."""

from __future__ import annotations

from typing import Final

import msgspec

from bridge.core.verdict import End
from bridge.models.attempt import Attempt, AttemptState, Cause
from bridge.models.ids import new_id
from bridge.models.job import MOVES, Job, JobState
from tests.unit.core import test_verdict

CLAIM_S: Final = 60
LIMIT_S: Final = 100
HANDED_OVER: Final = frozenset({JobState.SUBMITTED, JobState.RUNNING})


class Stored:
    """What is stored, and how it changes: the job by legal moves only."""

    now: float
    job: Job
    attempts: list[Attempt]

    @property
    def live(self) -> Attempt:
        return self.attempts[-1]

    def is_handed_over(self) -> bool:
        return self.job.state in HANDED_OVER

    def is_claimed(self) -> bool:
        return self.is_handed_over() and self.live.state is AttemptState.CLAIMED

    def is_looked_at(self) -> bool:
        """As ``attempts.live`` has it."""
        if not self.is_claimed():
            return self.is_handed_over()
        ran_out = self.now >= (self.live.claim_expires_at or 0.0)
        return ran_out and self.live.stop_cause is not None

    def store(self, oom_retry_mb: int) -> None:
        """A new job that waits."""
        self.attempts = []
        self.job = test_verdict.job(
            state=JobState.RECEIVED,
            attempt=0,
            created_at=self.now,
            time_limit_s=LIMIT_S,
            oom_retry_mb=oom_retry_mb,
        )

    def claim(self) -> None:
        """As soon as the job may be."""
        self.now = max(self.now, self.job.not_before or 0.0)
        self.move(JobState.SUBMITTED, attempt=self.job.attempt + 1)
        new = test_verdict.attempt(
            id=new_id(),
            number=self.job.attempt,
            state=AttemptState.CLAIMED,
            node=None,
            claimed_at=self.now,
            claim_expires_at=self.now + CLAIM_S,
            submitted_at=None,
        )
        self.attempts.append(new)

    def ask_to_cancel(self) -> None:
        """As ``jobs.cancel_job`` does it."""
        if self.job.state is JobState.RECEIVED:
            self.move(JobState.CANCELED, cancel_requested_at=self.now)
        else:
            self.move(self.job.state, cancel_requested_at=self.now)
            self.request_stop(Cause.CANCELED)

    def record(self, end: End) -> None:
        """As ``write.end_attempt`` does it."""
        to, canceled = end.job, self.job.cancel_requested_at is not None
        if canceled and (to is JobState.RECEIVED or end.cause is Cause.REJECTED):
            to = JobState.CANCELED
        self.change_attempt(state=AttemptState.ENDED, cause=end.cause, node=end.node)
        self.move(
            to,
            phase=None,
            retries=self.job.retries + int(end.retried),
            memory_mb=end.memory_mb or self.job.memory_mb,
            not_before=end.not_before,
        )

    def retry(self) -> None:
        """As ``jobs.again`` does it."""
        again = {"cancel_requested_at": None, "retries": 0, "not_before": None}
        self.move(JobState.RECEIVED, attempts_before=self.job.attempt, **again)

    def request_stop(self, cause: Cause) -> None:
        """The first wish stands."""
        if self.live.stop_cause is None:
            self.change_attempt(stop_cause=cause, stop_requested_at=self.now)

    def move(self, to: JobState, **changes: object) -> None:
        assert to is self.job.state or to in MOVES[self.job.state], (self.job.state, to)
        self.job = msgspec.structs.replace(self.job, state=to, **changes)

    def change_attempt(self, **changes: object) -> None:
        self.attempts[-1] = msgspec.structs.replace(self.live, **changes)
