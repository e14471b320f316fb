"""What follows the end of an attempt."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.core.retry import WORTH_ANOTHER, Rules, failed_on, follow_up
from bridge.core.verdict import End
from bridge.models.attempt import NOT_CHARGED, Cause
from bridge.models.job import JobState
from tests.unit.core.test_verdict import NOW, attempt, job

RULES = Rules(retries=1, delay_s=10, oom_factor=1.5, attempts_at_most=3)


def end(cause: Cause | None, state: JobState = JobState.FAILED) -> End:
    return End(job=state, cause=cause, reason="it was so", ended_at=NOW)


def after(cause: Cause | None, state: JobState = JobState.FAILED, **job_is: Any) -> End:
    return follow_up(job(**job_is), end(cause, state), now=NOW, rules=RULES)


class TestRetry:
    @pytest.mark.parametrize("cause", sorted(WORTH_ANOTHER))
    def test_a_fault_of_the_machine_is_tried_once_more(self, cause: Cause) -> None:
        again = after(cause)
        assert (again.job, again.retried, again.not_before) == (JobState.RECEIVED, True, NOW + 10)
        assert "it was so" in (again.reason or "")
        assert after(cause, retries=1).job is JobState.FAILED

    @pytest.mark.parametrize(
        ("retries", "delay_s"), [(0, 10.0), (3, 80.0), (9, 3600.0), (5000, 3600.0)]
    )
    def test_each_later_than_the_one_before_up_to_an_hour(
        self, retries: int, delay_s: float
    ) -> None:
        rules = msgspec.structs.replace(RULES, retries=9999)
        again = follow_up(job(retries=retries), end(Cause.NODE_LOST), now=NOW, rules=rules)
        assert again.not_before == NOW + delay_s

    def test_a_drained_machine_costs_no_retry(self) -> None:
        again = after(Cause.DRAINED, retries=1)
        assert (again.job, again.retried, again.not_before) == (JobState.RECEIVED, False, None)
        assert after(Cause.DRAINED, attempt=3).job is JobState.FAILED  # as of any cause

    @pytest.mark.parametrize("cause", sorted(set(Cause) - WORTH_ANOTHER - NOT_CHARGED))
    def test_what_the_job_did_is_not(self, cause: Cause) -> None:
        assert after(cause).job is JobState.FAILED

    def test_what_may_have_run_before_a_restore_is_not(self) -> None:
        assert after(Cause.WITHDRAWN).job is JobState.FAILED

    def test_never_what_somebody_canceled(self) -> None:
        assert after(Cause.NODE_LOST, cancel_requested_at=1.0).job is JobState.FAILED
        assert after(Cause.CANCELED, JobState.CANCELED).job is JobState.CANCELED

    def test_never_success(self) -> None:
        assert after(None, JobState.COMPLETED).job is JobState.COMPLETED

    def test_a_job_with_many_attempts_ends(self) -> None:
        withdrawn = after(Cause.WITHDRAWN, JobState.RECEIVED, attempt=3)
        assert withdrawn.job is JobState.FAILED
        assert "gave up after 3 attempts" in (withdrawn.reason or "")
        assert after(Cause.WITHDRAWN, JobState.RECEIVED, attempt=2).job is JobState.RECEIVED

    def test_attempts_before_somebody_wanted_another_do_not_count(self) -> None:
        assert after(Cause.NODE_LOST, attempt=5, attempts_before=3).job is JobState.RECEIVED
        assert after(Cause.NODE_LOST, attempt=6, attempts_before=3).job is JobState.FAILED
        withdrawn = after(Cause.WITHDRAWN, JobState.RECEIVED, attempt=6, attempts_before=3)
        assert "gave up after 3 attempts" in (withdrawn.reason or "")


def test_nodes_by_whose_fault_it_ended_are_to_be_avoided() -> None:
    earlier = [
        attempt(node="n1", cause=Cause.INTERNAL),
        attempt(node="n2", cause=Cause.DRAINED),
        attempt(node=None, cause=Cause.INTERNAL),
        attempt(node="n3", cause=Cause.NODE_LOST),
        attempt(node="n1", cause=Cause.STORAGE),
        attempt(node="n4", cause=Cause.OOM),
        attempt(node="n5", cause=None),
    ]
    assert failed_on(earlier) == ("n1", "n3")


class TestOutOfMemory:
    def test_more_memory_if_the_submitter_allows(self) -> None:
        again = after(Cause.OOM, memory_mb=1000, oom_retry_mb=4000)
        assert (again.job, again.memory_mb) == (JobState.RECEIVED, 1500)
        assert not again.retried

    def test_up_to_the_cap(self) -> None:
        assert after(Cause.OOM, memory_mb=1000, oom_retry_mb=1200).memory_mb == 1200
        assert after(Cause.OOM, memory_mb=1200, oom_retry_mb=1200).job is JobState.FAILED

    def test_not_unasked(self) -> None:
        assert after(Cause.OOM, memory_mb=1000).job is JobState.FAILED
