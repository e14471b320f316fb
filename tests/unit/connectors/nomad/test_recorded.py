"""Every case that was recorded from a real Nomad, and what it means."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from bridge.connectors.nomad.observe import newest, observe, placed
from bridge.models.attempt import Cause, Observed
from bridge.models.job import Phase
from tests.unit.connectors.nomad import recorded


class Expected(NamedTuple):
    state: Observed
    cause: Cause | None = None
    exit_code: int | None = None
    phase: Phase | None = None
    reason: str | None = None


ENDED = Observed.ENDED
EXPECTED = {
    # Its stage was an old one, which failed after the cancel: still canceled.
    "cancel-in-stage-in": Expected(ENDED, Cause.CANCELED, reason="Stopped"),
    "cancel-in-stage-out": Expected(ENDED, None, 0),
    "cancel-while-staging": Expected(ENDED, Cause.CANCELED, reason="Stopped"),
    "canceled": Expected(ENDED, Cause.CANCELED, 143, reason="Stopped"),
    "cancel-stubborn": Expected(ENDED, Cause.CANCELED, 137, reason="Stopped"),
    # main trapped SIGTERM and ended with 0.
    "cancel": Expected(ENDED, Cause.CANCELED, 0, reason="Stopped"),
    "client-killed-in-stage-out": Expected(ENDED, None, 0),
    "disconnect-back": Expected(ENDED, None, 0),
    # Nomad placed the job anew; the newer allocation counts.
    "disconnect-lost": Expected(Observed.RUNNING, phase=Phase.EXECUTING),
    "drain": Expected(ENDED, Cause.DRAINED, 137, reason="Machine node-a1 was drained"),
    "engine-killed": Expected(
        ENDED, Cause.NODE_LOST, reason="The container engine of machine node-1 ended the job"
    ),
    "exit3": Expected(ENDED, Cause.EXIT, 3, reason="Exit code 3"),
    # Nomad placed the job anew when its machine was back, and the fence stopped that.
    "failed-while-away": Expected(ENDED, Cause.EXIT, 3, reason="Exit code 3"),
    "host-rebooted": Expected(
        ENDED, Cause.NODE_LOST, reason="Machine node-a1 was restarted while the job ran"
    ),
    "image-missing": Expected(
        ENDED,
        Cause.IMAGE_MISSING,
        reason="Failed to pull `nosuch/image:1`: Error response from daemon: Get "
        '"https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host',
    ),
    "input-missing": Expected(ENDED, Cause.INPUT_MISSING, reason="Input files missing"),
    "lost": Expected(Observed.RUNNING, phase=Phase.EXECUTING),
    "mrd": Expected(
        ENDED,
        Cause.TIMEOUT,
        reason="Stopped by Nomad at the outer time limit; nothing was uploaded",
    ),
    "never-lost": Expected(ENDED, Cause.CANCELED, 137, reason="Stopped"),
    # Its stage knew only code 2.
    "no-bucket": Expected(
        ENDED, Cause.INTERNAL, reason="The machine's program `stage in` ended with code 2"
    ),
    "oom": Expected(ENDED, Cause.OOM, 137, reason="Killed for using more memory than asked for"),
    "running": Expected(Observed.RUNNING, phase=Phase.EXECUTING),
    "staging": Expected(Observed.PENDING, phase=Phase.STAGING),
    "success": Expected(ENDED, None, 0),
    "superseded": Expected(
        ENDED, Cause.WITHDRAWN, reason="Superseded by another run of the same job"
    ),
    "symlink": Expected(ENDED, None, 0),
    "too-big": Expected(
        Observed.PENDING,
        reason="Waiting for a machine: not enough memory free on 1 machine "
        "(the job needs 900000 MiB)",
    ),
    "upload-failed": Expected(
        ENDED, Cause.STORAGE, 0, reason="The storage could not be reached for too long"
    ),
    "uploading-after-away": Expected(Observed.RUNNING, phase=Phase.UPLOADING),
    "uploading-after-cancel": Expected(Observed.RUNNING, phase=Phase.UPLOADING),
}


def test_every_recorded_case_is_judged() -> None:
    assert sorted(EXPECTED) == recorded.NAMES


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_recorded_case(name: str) -> None:
    case = recorded.load(name)
    seen = observe(case.job, case.allocs, case.evaluations)
    assert (
        Expected(seen.state, seen.cause, seen.exit_code, seen.phase, seen.reason)
        == (EXPECTED[name])
    )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_where_an_allocation_counts_the_rest_need_not_be_read(name: str) -> None:
    case = recorded.load(name)
    if placed(case.allocs):
        assert observe(None, case.allocs) == observe(case.job, case.allocs, case.evaluations)
    else:
        assert name == "too-big"


@pytest.mark.parametrize("name", ["lost", "disconnect-lost"])
def test_the_older_of_two_allocations_is_a_lost_one(name: str) -> None:
    allocs = recorded.load(name).allocs
    older = [alloc for alloc in allocs if alloc is not newest(allocs)]
    seen = observe(None, older)
    assert (seen.state, seen.cause) == (ENDED, Cause.NODE_LOST)


def test_times_and_node() -> None:
    seen = observe(*recorded.load("exit3"))
    assert seen.node == "node-a1"
    assert seen.started_at == pytest.approx(1795260862.403821, abs=1e-5)
    assert seen.ended_at is not None and seen.started_at is not None
    assert 0 < seen.ended_at - seen.started_at < 2
