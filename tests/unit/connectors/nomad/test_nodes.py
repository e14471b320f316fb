"""Nodes as Nomad lists them and shows them in full, and the calls that change them."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
import pytest

from bridge.connectors.base import Links, Nodes
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.keeper import NodeKeeper, second
from bridge.connectors.nomad.nodes import NodeRoom, view
from bridge.connectors.nomad.use import Use
from bridge.connectors.nomad.wire import FullNode, Held, Node
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle
from bridge.models.node import NodeStatus
from tests.support.fake_nomad import Answer, FakeNomad, Request
from tests.unit.connectors.nomad import test_capacity

SECOND_TOKEN = "7e57-second-token-of-the-bridge"
META = {"bridge_home": "/srv", "bridge_stage": "1", "bridge_generation": "gen7"}


def stub(name: str = "n1", **changes: Any) -> Any:
    raw = test_capacity.raw_node(name, cores=4, memory=8000)
    raw["NodeResources"]["Disk"] = {"DiskMB": 100_000}
    return raw | {"Name": f"name-of-{name}", "ModifyIndex": 5, "Drain": False} | changes


def full(name: str = "n1", **changes: Any) -> Any:
    return {
        "ID": name,
        "ModifyIndex": 5,
        "Status": "ready",
        "Meta": META,
        "Attributes": {"nomad.version": "2.0.5", "driver.docker.version": "29.1"},
        "StatusUpdatedAt": 1_700_000_000,
    } | changes


def held(job: str, node: str = "n1", cores: int = 1) -> Any:
    raw = test_capacity.raw_held(job, node, cores=cores, memory=1000)
    raw["AllocatedResources"]["Shared"] = {"DiskMB": 300}
    return raw


def seen(raw: Any, whole: Any, *allocs: Any) -> Any:
    use = Use.of([msgspec.convert(one, Held) for one in allocs], "bridge-x-")
    return view(msgspec.convert(raw, Node), msgspec.convert(whole, FullNode), use)


def test_what_a_node_has_and_what_is_free() -> None:
    node = seen(stub(), full(), held("bridge-x-1", cores=2), held("other"), held("b", "n2"))
    assert (node.id, node.name, node.node_pool) == ("n1", "name-of-n1", "g-lab")
    assert (node.cores_total, node.cores_free) == (4, 1)
    assert (node.memory_total_mb, node.memory_free_mb) == (8000, 6000)
    # Nomad counts MiB.
    assert (node.disk_total_mb, node.disk_free_mb) == (104857, 104228)
    assert node.attempts == 1  # of this bridge
    assert node.generation == "gen7" and node.stage_protocol == "1"
    assert node.versions == {"nomad": "2.0.5", "docker": "29.1", "stage": "1"}
    assert node.changed_at == 1_700_000_000
    assert node.status is NodeStatus.READY and node.trouble is None
    assert (node.eligible, node.draining, node.paused) == (True, False, False)


def test_more_on_it_than_it_has_is_nothing_free() -> None:
    node = seen(stub(), full(), held("bridge-x-1", cores=9))
    assert (node.cores_free, node.memory_free_mb) == (0, 7000)


def test_what_keeps_a_node_from_taking_jobs() -> None:
    drivers = {
        "docker": {"Healthy": False, "HealthDescription": "Failed to connect to docker daemon"},
        "raw_exec": {"Healthy": True},
    }
    assert "connect to docker daemon" in (seen(stub(Drivers=drivers), full()).trouble or "")
    assert "raw_exec" in (seen(stub(Drivers={"docker": {"Healthy": True}}), full()).trouble or "")
    drained = seen(stub(Drain=True, SchedulingEligibility="ineligible"), full())
    assert drained.draining and not drained.eligible
    assert seen(stub(), full(Meta=META | {"bridge_paused": "1"})).paused


def test_a_stranger_says_nothing_of_the_bridge() -> None:
    node = seen(stub(), full(Meta=None, Attributes=None, StatusUpdatedAt=0))
    assert (node.generation, node.stage_protocol, node.changed_at) == (None, None, None)
    assert node.versions == {}


@pytest.fixture
def connector(connection: Connection) -> NomadConnector:
    return NomadConnector(connection, prefix="bridge-x-", node_token=SECOND_TOKEN)


def listing(nomad: FakeNomad, *stubs: Any) -> None:
    nomad.routes["GET", "/v1/nodes"] = Answer(200, list(stubs))
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    for one in stubs:
        node = full(one["ID"], ModifyIndex=one["ModifyIndex"], Status=one["Status"])
        nomad.routes["GET", f"/v1/node/{one['ID']}"] = Answer(200, node)


def test_a_node_is_read_in_full_only_when_it_has_changed(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    assert isinstance(connector, Nodes)
    listing(nomad, stub("n1"), stub("n2"))
    for _ in range(3):
        assert [node.id for node in connector.nodes()] == ["n1", "n2"]
    listing(nomad, stub("n1", ModifyIndex=6), stub("n2"))
    connector.nodes()
    read = [one.path for one in nomad.requests if one.path.startswith("/v1/node/")]
    assert read == ["/v1/node/n1", "/v1/node/n2", "/v1/node/n1"]
    assert next(one.query["namespace"] for one in nomad.requests if "alloc" in one.path) == "*"


def test_a_node_is_read_again_when_nomads_state_went_back(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    """Restored from a snapshot, it counts from there once more."""
    listing(nomad, stub("n1"))
    connector.nodes()
    listing(nomad, stub("n1", ModifyIndex=4))
    nomad.routes["GET", "/v1/node/n1"] = Answer(
        200, full(ModifyIndex=4, Meta=META | {"bridge_generation": "gen6"})
    )
    assert [node.generation for node in connector.nodes()] == ["gen6"]


def test_listings_come_in_pages(connector: NomadConnector, nomad: FakeNomad) -> None:
    listing(nomad, stub("n1"), stub("n2"))

    def page(request: Request) -> Answer:
        if "next_token" in request.query:
            return Answer(200, [stub("n2")])
        return Answer(200, [stub("n1")], {"X-Nomad-NextToken": "n2"})

    nomad.routes["GET", "/v1/nodes"] = page
    assert [node.id for node in connector.nodes()] == ["n1", "n2"]


def test_a_node_forgotten_between_listing_and_reading_is_no_error(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    listing(nomad, stub("n1"))
    nomad.routes["GET", "/v1/node/n1"] = Answer(404, "node not found")
    (node,) = connector.nodes()
    assert node.generation is None


def test_what_cannot_be_asked_is_never_no_nodes(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    listing(nomad, stub("n1"))
    nomad.routes["GET", "/v1/node/n1"] = Answer(500, "No cluster leader")
    with pytest.raises(ConnectorUnavailable):
        connector.nodes()
    nomad.routes["GET", "/v1/nodes"] = Answer(404, "Invalid URL path")
    with pytest.raises(ConnectorUnavailable):
        connector.nodes()


def test_a_pool_larger_than_one_call_has_time_for_is_read_in_several(
    connection: Connection, nomad: FakeNomad
) -> None:
    client = NomadClient(connection)
    room = NodeRoom(client, NodeKeeper(second(connection, SECOND_TOKEN)), "bridge-x-")
    names = [f"n{number}" for number in range(8)]
    listing(nomad, *(stub(name) for name in names))
    for name in names:

        def answer(_: Request, name: str = name) -> Answer:
            time.sleep(0.1)
            return Answer(200, full(name))

        nomad.routes["GET", f"/v1/node/{name}"] = answer
    for _ in range(20):
        with contextlib.suppress(ConnectorUnavailable), client.within(0.5):
            assert [node.id for node in room.views()] == names
            break
    else:
        raise AssertionError("never read all of them")
    listing(nomad, stub("n7"))
    with client.within(5):
        assert [node.id for node in room.views()] == ["n7"]


def test_a_node_that_cannot_be_read_now_is_as_it_was(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    listing(nomad, stub("n1"), stub("n2"))
    connector.nodes()
    listing(nomad, stub("n1", ModifyIndex=6, Status="down"), stub("n2", ModifyIndex=6))
    nomad.routes["GET", "/v1/node/n1"] = Answer(500, "rpc error")
    nomad.routes["GET", "/v1/node/n2"] = Answer(
        200, full("n2", ModifyIndex=6, Meta=META | {"bridge_generation": "gen8"})
    )
    for _ in range(2):
        one, two = connector.nodes()
        assert (one.status, one.generation, two.generation) == (NodeStatus.DOWN, "gen7", "gen8")


def test_a_node_that_never_could_be_read_is_not_left_out(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    """It would be taken for one that Nomad has forgotten."""
    some = [stub(f"n{number}") for number in range(8)]
    listing(nomad, *some)
    for number in range(4):
        nomad.routes["GET", f"/v1/node/n{number}"] = Answer(500, "rpc error")
    for _ in range(3):
        with pytest.raises(ConnectorUnavailable):
            connector.nodes()
    listing(nomad, *some)
    asked = len(nomad.requests)
    assert len(connector.nodes()) == 8
    # The others had been read.
    read = [one.path for one in nomad.requests[asked:] if one.path.startswith("/v1/node/")]
    assert sorted(read) == [f"/v1/node/n{number}" for number in range(4)]


def accept(nomad: FakeNomad, *paths: str) -> None:
    for path in paths:
        nomad.routes["POST", path] = Answer(200, {})


def test_nodes_are_changed_with_the_second_token(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    accept(nomad, "/v1/node/n1/drain", "/v1/node/n1/eligibility")
    connector.set_eligible("n1", eligible=True)
    connector.set_eligible("n1", eligible=False)
    connector.drain("n1", 90)
    connector.drain("n1", 0)
    end, out, soon, now = nomad.requests
    assert end.body == {"NodeID": "n1", "DrainSpec": None, "MarkEligible": True}
    assert (out.path, out.body["Eligibility"]) == ("/v1/node/n1/eligibility", "ineligible")
    assert soon.body["DrainSpec"] == {"Deadline": 90 * 10**9, "IgnoreSystemJobs": True}
    assert now.body["DrainSpec"]["Deadline"] == -1
    assert {one.headers["X-Nomad-Token"] for one in nomad.requests} == {SECOND_TOKEN}


@pytest.mark.parametrize(
    ("status", "asked"), [("down", "purge"), ("ready", "drain"), ("disconnected", "drain")]
)
def test_only_a_node_that_is_down_is_forgotten(
    connector: NomadConnector, nomad: FakeNomad, status: str, asked: str
) -> None:
    listing(nomad, stub("n1", Status=status))
    accept(nomad, "/v1/node/n1/drain", "/v1/node/n1/purge")
    connector.remove("n1")
    assert [one.path for one in nomad.requests if one.method == "POST"] == [f"/v1/node/n1/{asked}"]


def test_a_node_that_nomad_does_not_know_needs_nothing(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    nomad.routes["GET", "/v1/node/n1"] = Answer(404, "node not found")
    for path in ("drain", "eligibility"):
        nomad.routes["POST", f"/v1/node/n1/{path}"] = Answer(500, "node not found")
    connector.remove("n1")
    connector.drain("n1", 1)
    connector.set_eligible("n1", eligible=False)


@pytest.mark.parametrize(
    ("refusal", "hint"),
    [
        (Answer(403, "Permission denied"), "nomad.node_token_file lacks node write"),
        (Answer(500, "No cluster leader"), "log"),
        (Answer(404, "Invalid URL path"), "nomad.address"),
    ],
)
def test_what_was_not_done_is_said(
    connector: NomadConnector, nomad: FakeNomad, refusal: Answer, hint: str
) -> None:
    nomad.routes["GET", "/v1/acl/token/self"] = Answer(200, {})
    nomad.routes["POST", "/v1/node/n1/drain"] = refusal
    with pytest.raises(ConnectorUnavailable) as caught:
        connector.drain("n1", 60)
    assert hint in caught.value.hint
    assert SECOND_TOKEN not in caught.value.message + caught.value.hint


def test_pages_of_nomads_own_interface(connection: Connection) -> None:
    handle = Handle("bridge-x-1-1", "g-lab")
    silent = NomadConnector(connection, prefix="bridge-x-")
    assert isinstance(silent, Links)
    assert (silent.job_url(handle), silent.node_url("n1")) == (None, None)
    for given in ("https://nomad.example:4646", "https://nomad.example:4646/ui/"):
        linked = NomadConnector(connection, prefix="bridge-x-", ui_url=given)
        assert linked.job_url(handle) == ("https://nomad.example:4646/ui/jobs/bridge-x-1-1@g-lab")
        assert linked.node_url("n1") == "https://nomad.example:4646/ui/clients/n1"
    elsewhere = msgspec.structs.replace(connection, region="eu west")
    far = NomadConnector(elsewhere, prefix="bridge-x-", ui_url="https://n")
    assert far.node_url("n1") == "https://n/ui/clients/n1?region=eu+west"
