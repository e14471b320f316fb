"""Why does it wait?"""

from __future__ import annotations

from typing import Any

import pytest

from bridge.connectors.base import Room
from bridge.core.explain import COUNTED, Facts, explain
from bridge.models.job import JobState, Phase
from tests.unit.core.test_verdict import NOW, job

FULL = Room(slots=9, cores_free=1, memory_free_mb=50, cores_total=8, memory_total_mb=1000)
EMPTY = Room(slots=0, cores_free=0, memory_free_mb=0, cores_total=0, memory_total_mb=0, ready=False)


def said(facts: dict[str, Any] | None = None, **job_is: Any) -> str:
    one = job(**{"state": JobState.RECEIVED} | job_is)
    return explain(one, Facts(connector="nomad", **(facts or {})), now=NOW).sentence


@pytest.mark.parametrize(
    ("job_is", "facts", "words"),
    [
        ({"hold": True}, {}, "It is held; release it"),
        ({"not_before": NOW + 7, "reason": "node lost"}, {}, "starts in 7 s (node lost)"),
        ({}, {"away": "no answer"}, "nomad cannot be reached: no answer"),
        ({}, {"mine_under_way": 3, "running_per_user": 3}, "the limit is 3"),
        ({}, {"group_under_way": 9, "running_per_group": 9}, "The group has 9 jobs under way"),
        ({}, {"room": EMPTY}, "no ready node"),
        ({"cores": 9}, {"room": FULL}, "the largest has 8 cores and 1000 MiB"),
        ({"cores": 4}, {"room": FULL}, "4 cores (1 free) and 100 MiB (50 MiB free)"),
        ({}, {}, "as soon as it is its turn. No job is ahead of it."),
        ({}, {"ahead": {"bob": 1}}, "1 job is ahead of it (bob 1)."),
        ({}, {"ahead": {"bob": COUNTED}}, "more than 10,000 jobs are ahead"),
        ({"state": JobState.SUBMITTED, "phase": Phase.STAGING}, {}, "phase staging"),
        ({"state": JobState.SUBMITTED}, {"away": "no answer"}, "cannot be asked now"),
        ({"state": JobState.RUNNING, "node": "n1"}, {}, "It runs on n1"),
        ({"state": JobState.RUNNING, "cancel_requested_at": 1.0}, {}, "asked to stop"),
        ({"state": JobState.FAILED, "reason": "exit code 3"}, {}, "failed: exit code 3"),
    ],
)
def test_says_what_is_missing(job_is: dict[str, Any], facts: dict[str, Any], words: str) -> None:
    assert words in said(facts, **job_is)


def test_counts_are_there_for_programs_too() -> None:
    one = job(state=JobState.RECEIVED)
    told = explain(one, Facts(connector="nomad", ahead={"bob": 2, "eve": 1}), now=NOW)
    assert (told.ahead, told.details["position"]) == (3, 4)
