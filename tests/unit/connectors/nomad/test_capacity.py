"""How much room a pool has."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest
from msgspec import structs

from bridge.connectors.base import Backlog, Pending
from bridge.connectors.base import Capacity as CapacityContract
from bridge.connectors.nomad.capacity import Capacity, Wish, measure
from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.wire import Held, Node
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptSpec, Handle
from tests.support.fake_nomad import Answer, FakeNomad, Request, Route
from tests.support.room import free, largest
from tests.unit.connectors.nomad import recorded

HEALTHY = {"docker": {"Healthy": True}, "raw_exec": {"Healthy": True}}


def raw_node(name: str = "n1", *, cores: int = 4, memory: int = 8000, **changes: Any) -> Any:
    return {
        "ID": name,
        "NodePool": "g-lab",
        "Status": "ready",
        "SchedulingEligibility": "eligible",
        "Drivers": HEALTHY,
        "NodeResources": {"Cpu": {"CpuShares": 1000 * cores}, "Memory": {"MemoryMB": memory}},
        "ReservedResources": {"Cpu": {"CpuShares": 0}, "Memory": {"MemoryMB": 0}},
    } | changes


def raw_held(
    job: str, node: str = "n1", *, cores: int = 1, memory: int = 1000, stage: int = 16
) -> Any:
    def task(mhz: int, mib: int) -> Any:
        return {"Cpu": {"CpuShares": mhz}, "Memory": {"MemoryMB": mib}}

    tasks = {
        "stage-in": task(50, stage),
        "main": task(1000 * cores, memory),
        "stage-out": task(50, stage),
    }
    return {"JobID": job, "NodeID": node, "AllocatedResources": {"Tasks": tasks}}


def node(*args: Any, **changes: Any) -> Node:
    return msgspec.convert(raw_node(*args, **changes), Node)


def held(*args: Any, **changes: Any) -> Held:
    return msgspec.convert(raw_held(*args, **changes), Held)


def test_free_is_what_ready_nodes_have_besides_their_allocations() -> None:
    nodes = [node("n1"), node("n2", cores=8, memory=16000)]
    room = measure(nodes, [held("a", "n1", cores=3, memory=2000), held("b", "n2")], [])
    assert free(room) == (1 + 7, 6000 + 15000)
    assert largest(room) == (8, 16000)
    assert room.slots > 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"Status": "down"},
        {"Status": "disconnected"},
        {"Status": "initializing"},
        {"SchedulingEligibility": "ineligible"},
        {"Drivers": {"docker": {"Healthy": False}, "raw_exec": {"Healthy": True}}},
        {"Drivers": None},
    ],
)
def test_a_pool_with_no_ready_node_gets_nothing(changes: dict[str, Any]) -> None:
    room = measure([node(**changes)], [], [])
    assert (room.slots, *free(room)) == (0, 0, 0)
    # It may come back: a job that fits it is not too big.
    assert largest(room) == (4, 8000)


def test_a_pool_without_nodes_is_not_ready() -> None:
    room = measure([], [], [])
    assert (room.slots, room.ready) == (0, False)


def test_what_a_node_keeps_for_itself_is_not_room() -> None:
    reserved = {"Cpu": {"CpuShares": 500}, "Memory": {"MemoryMB": 1000}}
    room = measure([node(ReservedResources=reserved)], [], [])
    assert free(room) == (3, 7000)
    assert largest(room)[0] == 3


def test_what_lives_on_a_node_out_of_touch_takes_no_room_elsewhere() -> None:
    nodes = [node("n1"), node("n2", Status="disconnected")]
    assert free(measure(nodes, [held("a", "n2", cores=4)], []))[0] == 4


def test_half_a_core_on_each_of_two_nodes_is_no_core() -> None:
    nodes = [node("n1", cores=1), node("n2", cores=1)]
    allocs = [held("a", "n1"), held("b", "n2")]
    assert free(measure(nodes, allocs, []))[0] == 0


def test_what_was_just_handed_over_counts() -> None:
    room = measure([node()], [], [Wish("g-lab", 3, 7500, 0.0)])
    assert free(room) == (1, 500)


def test_a_machine_is_kept_for_what_was_handed_over_and_fits_none_now() -> None:
    nodes = [node("n1", cores=8), node("n2", cores=4)]
    room = measure(nodes, [held("a", "n1", cores=2)], [Wish("g-lab", 8, 500, 0.0)])
    assert {one.name: one.cores_free for one in room.machines} == {"n1": 0, "n2": 4}
    assert (room.waiting_cores, room.waiting_memory_mb) == (8, 500)


def test_what_fits_no_machine_takes_no_room() -> None:
    room = measure([node()], [], [Wish("g-lab", 99, 99_000, 0.0)])
    assert free(room) == (4, 8000)
    assert room.waiting_cores == 0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def listing(nodes: list[Any], paused: tuple[str, ...] = ()) -> Route:
    """As Nomad, which lists no meta but filters by it."""

    def answer(request: Request) -> Answer:
        only_paused = "Meta.bridge_paused is not empty" in request.query["filter"]
        return Answer(200, [node for node in nodes if not only_paused or node["ID"] in paused])

    return answer


@pytest.fixture
def capacity(client: NomadClient, nomad: FakeNomad, clock: Clock) -> Capacity:
    other = raw_node("n9", cores=64, NodePool="g-other")
    nomad.routes["GET", "/v1/nodes"] = listing([raw_node(), other])
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [raw_held("bridge-x-1")])
    return Capacity(client, stage_protocol=1, clock=clock)


def spec(native_id: str, cores: int = 1) -> AttemptSpec:
    return AttemptSpec(
        handle=Handle(native_id, "g-lab"),
        job_id=uuid.uuid4(),
        number=1,
        group="lab",
        code_bucket="code-abc",
        node_pool="g-lab",
        bucket_id=uuid.uuid4(),
        image="a:1",
        input_sha256=None,
        cores=cores,
        memory_mb=1000,
        time_limit_s=60,
    )


def test_only_the_pools_own_nodes_count(capacity: Capacity, nomad: FakeNomad) -> None:
    room = capacity.room("g-lab", "g-lab")
    assert (free(room)[0], largest(room)[0]) == (3, 4)
    nodes, _, allocations = nomad.requests
    assert 'Meta.bridge_stage == "1"' in nodes.query["filter"]
    assert allocations.query["namespace"] == "g-lab"
    assert allocations.query["task_states"] == "false"


def test_a_machine_that_its_owner_paused_is_no_room(
    capacity: Capacity, nomad: FakeNomad, clock: Clock
) -> None:
    nodes = [raw_node("n1"), raw_node("n2", cores=2)]
    nomad.routes["GET", "/v1/nodes"] = listing(nodes, paused=("n1",))
    assert free(capacity.room("g-lab", "g-lab"))[0] == 2
    nomad.routes["GET", "/v1/nodes"] = listing(nodes, paused=("n1", "n2"))
    clock.now += 1
    room = capacity.room("g-lab", "g-lab")
    assert (room.ready, free(room)[0], largest(room)[0]) == (False, 0, 4)


def test_listings_last_a_second(capacity: Capacity, nomad: FakeNomad, clock: Clock) -> None:
    for _ in range(5):
        capacity.room("g-lab", "g-lab")
        clock.now += 0.15
    assert len(nomad.requests) == 3
    clock.now += 0.5
    capacity.room("g-lab", "g-lab")
    assert len(nomad.requests) == 6


def test_a_node_that_was_made_ineligible_is_no_room_at_once(
    capacity: Capacity, nomad: FakeNomad
) -> None:
    capacity.room("g-lab", "g-lab")
    asked = len(nomad.requests)
    capacity.room("g-lab", "g-lab")
    assert len(nomad.requests) == asked
    capacity.nodes_changed()
    capacity.room("g-lab", "g-lab")
    assert "/v1/nodes" in [one.path for one in nomad.requests[asked:]]


def test_a_change_of_jobs_is_seen_sooner_but_not_each_one(
    capacity: Capacity, nomad: FakeNomad, clock: Clock
) -> None:
    capacity.room("g-lab", "g-lab")
    for _ in range(10):
        capacity.changed()
        capacity.room("g-lab", "g-lab")
    assert len(nomad.requests) == 3
    clock.now += 0.25
    capacity.room("g-lab", "g-lab")
    assert [one.path for one in nomad.requests[3:]] == ["/v1/allocations"]


def test_a_hand_over_takes_room_until_it_is_listed(
    capacity: Capacity, nomad: FakeNomad, clock: Clock
) -> None:
    capacity.room("g-lab", "g-lab")
    capacity.handed_over(spec("bridge-x-2", cores=2))
    assert free(capacity.room("g-lab", "g-lab"))[0] == 1
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [raw_held("bridge-x-2", cores=2)])
    clock.now += 1
    assert free(capacity.room("g-lab", "g-lab"))[0] == 2


def test_a_hand_over_that_ended_unlisted_gives_its_room_back(
    capacity: Capacity, clock: Clock
) -> None:
    for number in range(2, 5):
        capacity.handed_over(spec(f"bridge-x-{number}"))
    assert free(capacity.room("g-lab", "g-lab"))[0] == 0
    capacity.ended(["bridge-x-2", "bridge-x-9"])
    assert free(capacity.room("g-lab", "g-lab"))[0] == 1
    clock.now += 61  # not heard of since
    assert free(capacity.room("g-lab", "g-lab"))[0] == 3


def test_a_hand_over_that_nomad_has_no_place_for_keeps_its_claim(
    capacity: Capacity, clock: Clock
) -> None:
    capacity.room("g-lab", "g-lab")
    capacity.handed_over(spec("bridge-x-2", cores=4))
    for _ in range(10):
        clock.now += 50
        capacity.still_waiting(["bridge-x-2", "bridge-x-9"])
    room = capacity.room("g-lab", "g-lab")
    assert (free(room)[0], room.waiting_cores) == (0, 4)


def test_what_others_handed_over_counts(capacity: Capacity, clock: Clock) -> None:
    waiting = Pending(Handle("bridge-x-2", "g-lab"), 4, 64)
    capacity.handed_over(spec("bridge-x-3", cores=1))
    capacity.recall([waiting, Pending(Handle("bridge-x-3", "g-lab"), 3, 64)])
    room = capacity.room("g-lab", "g-lab")
    assert (free(room)[0], room.waiting_cores) == (0, 4)
    capacity.ended(["bridge-x-2"])
    assert free(capacity.room("g-lab", "g-lab"))[0] == 2
    capacity.recall([waiting])
    clock.now += 61
    assert free(capacity.room("g-lab", "g-lab"))[0] == 3


def test_a_small_attempt_takes_what_staging_needs(capacity: Capacity) -> None:
    """As Nomad counts, once it shows it: the largest of its tasks."""
    capacity.handed_over(spec("bridge-x-2"))
    capacity.recall([Pending(Handle("bridge-x-3", "g-lab"), 1, 64)])
    capacity.takes_at_least(256)
    assert free(capacity.room("g-lab", "g-lab")) == (1, 8000 - 1000 - 1000 - 256)


def test_the_connector_knows_what_staging_needs(connection: Connection, nomad: FakeNomad) -> None:
    nomad.routes["POST", "/v1/jobs/parse"] = Answer(200, recorded.template())
    nomad.routes["POST", "/v1/validate/job"] = Answer(200, {})
    nomad.routes["POST", "/v1/jobs"] = Answer(200, {})
    nomad.routes["GET", "/v1/nodes"] = listing([raw_node()])
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    connector = NomadConnector(connection, prefix="bridge-x-")
    connector.submit(structs.replace(spec("bridge-x-1"), memory_mb=64))
    room = connector.room("g-lab", "g-lab")
    small = raw_held("bridge-x-1", memory=64, stage=256)
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [small])
    shown = NomadConnector(connection, prefix="bridge-x-").room("g-lab", "g-lab")
    assert free(room) == free(shown) == (3, 8000 - 256)


def test_the_connector_has_it(connection: Connection, nomad: FakeNomad) -> None:
    connector = NomadConnector(connection, prefix="bridge-x-")
    assert isinstance(connector, CapacityContract)
    assert isinstance(connector, Backlog)
    with pytest.raises(ConnectorUnavailable):
        connector.room("g-lab", "g-lab")
    nomad.routes["GET", "/v1/nodes"] = Answer(403, "Permission denied")
    with pytest.raises(ConnectorUnavailable) as caught:
        connector.room("g-lab", "g-lab")
    assert "node read" in caught.value.hint
