"""Machines that were out of touch, live on, and come back with news."""

from __future__ import annotations

import pytest

from bridge.models.attempt import Cause
from bridge.models.job import JobState, Phase
from tests.integration.nomad.conftest import MakeHouse
from tests.integration.nomad.house import RealStage
from tests.integration.nomad.test_house import allocs, exits, rundir
from tests.support.docker import docker
from tests.support.nomad_cluster import NomadCluster
from tests.support.poll import eventually

pytestmark = pytest.mark.needs("nomad", "docker")

FAILS = "echo ran >>ran.txt; while [ ! -e stop ]; do sleep 0.05; done; exit 3"


def test_a_program_that_fails_while_its_machine_is_out_of_touch_has_failed(
    real_house: MakeHouse, real_stage: RealStage, nomad: NomadCluster
) -> None:
    """Nomad places the job anew, whatever its specification says; the fence stops that."""
    house = real_house()
    hold = real_stage.hold_first
    given = house.submit(FAILS, before=lambda bucket: hold(bucket, "out"))
    house.running(given)
    native_id = house.native_id(given)
    container = f"main-{allocs(nomad, native_id)[0]['ID']}"
    with nomad.frozen():
        eventually(lambda: "out of touch" in (house.look(given).reason or ""), timeout=30)
        (rundir(nomad, native_id) / "stop").touch()
        docker("wait", container)
    eventually(lambda: len(allocs(nomad, native_id)) == 2, timeout=30)
    eventually(lambda: allocs(nomad, native_id)[1]["ClientStatus"] == "failed", timeout=30)
    assert exits(allocs(nomad, native_id)[1], "stage-in") == ["10"]  # superseded
    # Both allocations are over for Nomad, and the bucket belongs to the first.
    house.until(given, JobState.RUNNING, phase=Phase.UPLOADING, attempt=1)
    real_stage.go_on(given.bucket, "out")
    seen = house.end(given)
    assert (seen.state, seen.cause, seen.exit_code) == (JobState.FAILED, Cause.EXIT, 3), seen
    assert seen.attempt == 1
    assert (given.bucket / "ran.txt").read_text() == "ran\n"
