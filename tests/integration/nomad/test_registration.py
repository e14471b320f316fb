"""Nomad answers whatever it is asked, but takes no jobs."""

from __future__ import annotations

import time

import pytest

from bridge.core.queue import Reserve
from bridge.models.job import JobState
from tests.integration.nomad.conftest import MakeHouse
from tests.support import nomad_proxy
from tests.support.fake_events import Refuse
from tests.support.nomad_cluster import NomadCluster
from tests.support.poll import eventually

pytestmark = pytest.mark.needs("nomad", "docker")


def registers(method: str, path: str) -> bool:
    return method in {"POST", "PUT"} and path.partition("?")[0] == "/v1/jobs"


def test_the_queue_keeps_its_jobs(open_house: MakeHouse, nomad: NomadCluster) -> None:
    with nomad_proxy.before(nomad) as door:
        house = open_house(nomad__address=door.url, nomad__client_cert=None, nomad__client_key=None)
        door.refused, door.refusal = registers, Refuse(500, "rpc error: no space left on device")
        node = nomad.call("GET", f"node/{nomad.node()['ID']}")
        cores = node["NodeResources"]["Cpu"]["CpuShares"] // 1000
        fits = cores + Reserve().least
        jobs = [house.submit("true") for _ in range(fits + 20)]
        eventually(lambda: not house.is_ready(), timeout=20)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            left = [one for one in jobs if house.look(one).state is not JobState.RECEIVED]
            assert 0 < len(left) <= fits + 10  # now and then another one is tried
            time.sleep(0.2)
        sentence = house.bridge.jobs.explain(house.ada, jobs[0].job.id).sentence
        assert "no space left on device" in sentence
        door.refusal = None
        house.bridge.patience.clear()
        for one in jobs:
            seen = house.end(one)
            assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1), seen
