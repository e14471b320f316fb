"""Why a job is not placed, in words."""

from __future__ import annotations

import pytest

from bridge.connectors.nomad.waiting import why_waiting
from bridge.connectors.nomad.wire import Evaluation, Metric

READY = {"dc1": 2}


def reason(metric: Metric) -> str | None:
    return why_waiting(
        [Evaluation(id="e", create_index=1, status="blocked", failed_groups={"job": metric})]
    )


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric(), "none of the group's machines is connected"),
        (Metric(nodes_available={"dc1": 0}), "none of the group's machines is connected"),
        (
            Metric(nodes_available=READY, dimension_exhausted={"memory": 2, "cpu": 1}),
            "not enough cores free on 1 machine; not enough memory free on 2 machines",
        ),
        (
            Metric(
                nodes_available=READY,
                dimension_exhausted={"cpu": 2},
                resources_exhausted={"stage-in": {"CPU": 50}, "main": {"CPU": 16000}},
            ),
            "not enough cores free on 2 machines (the job needs 16 cores)",
        ),
        (
            Metric(nodes_available=READY, constraint_filtered={"${meta.bridge_home} is_set": 2}),
            "2 machines not set up for this bridge",
        ),
        (
            Metric(nodes_available=READY, constraint_filtered={"${meta.bridge_stage} = 1": 1}),
            "1 machine with a stage program of another version",
        ),
        (
            Metric(nodes_available=READY, constraint_filtered={"missing drivers": 1}),
            "1 machine without a healthy container engine",
        ),
        (
            Metric(nodes_available=READY, constraint_filtered={"${attr.arch} = arm64": 2}),
            "2 machines do not meet ${attr.arch} = arm64",
        ),
        (Metric(nodes_available=READY, nodes_evaluated=2), "none of 2 machines fits"),
    ],
)
def test_words(metric: Metric, words: str) -> None:
    assert reason(metric) == f"Waiting for a machine: {words}"


def test_the_generation_itself_is_not_shown() -> None:
    metric = Metric(
        nodes_available=READY, constraint_filtered={"${meta.bridge_generation} = 9f3c": 1}
    )
    words = reason(metric)
    assert words is not None
    assert "not enrolled since the compute secret was rotated" in words and "9f3c" not in words


def test_the_newest_answer_counts() -> None:
    old = Metric(nodes_available=READY, dimension_exhausted={"memory": 1})
    new = Metric(nodes_available=READY, dimension_exhausted={"cpu": 1})
    evaluations = [
        Evaluation(id="b", create_index=2, status="blocked", failed_groups={"job": new}),
        Evaluation(id="a", create_index=1, status="complete", failed_groups={"job": old}),
    ]
    words = why_waiting(evaluations)
    assert words is not None and "cores" in words and "memory" not in words
    assert why_waiting(list(reversed(evaluations))) == words


def test_a_scheduler_that_gave_up_says_so() -> None:
    failed = Evaluation(id="e", create_index=1, status="failed", status_description="too often")
    assert why_waiting([failed]) == "Nomad could not place it yet: too often"


def test_no_answer_yet() -> None:
    assert why_waiting([Evaluation(id="e", create_index=1, status="pending")]) is None
