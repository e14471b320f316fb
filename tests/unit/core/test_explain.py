"""Why does it wait?"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from bridge.connectors.base import Machine, Room
from bridge.core.explain import COUNTED, Facts, explain
from bridge.models.attempt import AttemptState
from bridge.models.job import JobState, Phase
from tests.unit.core.test_verdict import NOW, job

FULL = Room(
    slots=9,
    machines=(
        Machine(name="n1", cores=8, memory_mb=1000, cores_free=1, memory_free_mb=50),
        Machine(name="n2", cores=8, memory_mb=500, cores_free=6, memory_free_mb=20),
        Machine(name="big", cores=64, memory_mb=4000, cores_free=0, memory_free_mb=0, ready=False),
    ),
)
EMPTY = Room(slots=0)


def said(facts: dict[str, Any] | None = None, **job_is: Any) -> str:
    one = job(**{"state": JobState.RECEIVED} | job_is)
    return explain(one, Facts(connector="nomad", **(facts or {})), now=NOW).sentence


@pytest.mark.parametrize(
    ("job_is", "facts", "words"),
    [
        ({"hold": True}, {}, "It is held; release it"),
        ({"not_before": NOW + 7, "reason": "node lost"}, {}, "starts in 7 s (node lost)"),
        ({}, {"away": "no answer"}, "nomad cannot be reached: no answer. No job is"),
        ({}, {"away": "it is slow."}, "nomad cannot be reached: it is slow. No job is"),
        ({}, {"refused": "denied"}, "nomad takes no jobs now: denied. No job is"),
        ({}, {"mine_under_way": 3, "running_per_user": 3}, "the limit is 3"),
        ({}, {"group_under_way": 9, "running_per_group": 9}, "The group has 9 jobs under way"),
        ({}, {"room": EMPTY}, "no ready node"),
        ({"cores": 65}, {"room": FULL}, "needs 65 cores and 100 MiB, big has 64 cores and 4000"),
        ({"cores": 65}, {"room": FULL}, "It waits for a larger one"),
        ({"cores": 65}, {"room": structs.replace(FULL, complete=True)}, "It will be refused"),
        ({"cores": 9}, {"room": FULL}, "what has so much is not ready: big."),
        ({"cores": 4}, {"room": FULL}, "4 cores and 100 MiB, and what has so much is busy: "),
        ({"cores": 4}, {"room": FULL}, "n2 (20 MiB free), n1 (1 core and 50 MiB free)."),
        ({"memory_mb": 600}, {"room": FULL}, "is busy: n1 (50 MiB free)."),
        ({}, {}, "as soon as it is its turn. No job is ahead of it."),
        ({}, {"ahead": {"bob": 1}}, "1 job is ahead of it (bob 1)."),
        ({}, {"ahead": {"bob": COUNTED}}, "turn. 1,000 jobs are ahead"),
        ({}, {"ahead": {"bob": COUNTED + 1}}, "more than 1,000 jobs are ahead"),
        ({}, {"unlisted": ""}, "until all that runs at the schedulers is known. No job"),
        ({}, {"unlisted": "denied."}, "at the schedulers is known: denied. No job"),
        ({"state": JobState.SUBMITTED, "phase": Phase.STAGING}, {}, "phase staging"),
        ({"state": JobState.SUBMITTED}, {"away": "no answer"}, "cannot be asked now"),
        (
            {"state": JobState.SUBMITTED, "attempt": 2},
            {"attempt": AttemptState.CLAIMED, "refused": "denied"},
            "nomad has not taken it yet, as attempt 2: denied. The hand-over is repeated",
        ),
        ({"state": JobState.RUNNING, "node": "n1"}, {}, "It runs on n1, phase executing."),
        (
            {"state": JobState.RUNNING, "node": "n1", "reason": "out of touch"},
            {"away": "no answer"},
            "executing: out of touch. The connector nomad cannot be asked now: no answer.",
        ),
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
