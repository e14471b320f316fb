"""Many jobs in few requests, slow servers, and nodes of which Nomad says too little."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from msgspec import structs

from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.connectors.nomad.looking import Lookout
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Cause, Handle, Observed
from tests.support.fake_nomad import Answer, FakeNomad, Request
from tests.unit.connectors.nomad import recorded

PREFIX = "bridge-x-"


@pytest.fixture
def lookout(client: NomadClient) -> Lookout:
    return Lookout(client, PREFIX)


def handles(count: int) -> list[Handle]:
    return [Handle(f"{PREFIX}{number}", "g-lab") for number in range(count)]


def alloc(case: str, native_id: str, **changes: Any) -> dict[str, Any]:
    return recorded.raw_alloc(case) | {"ID": f"alloc-{native_id}", "JobID": native_id} | changes


def stub(native_id: str, **counts: int) -> dict[str, Any]:
    """A pending job in a listing."""
    summary = {"Summary": {"job": {"Queued": 1, "Failed": 0, "Lost": 0} | counts}}
    return {"ID": native_id, "Status": "pending", "Stop": False, "JobSummary": summary}


def blocked(native_id: str) -> dict[str, Any]:
    short = {"NodesAvailable": {"dc1": 1}, "DimensionExhausted": {"memory": 1}}
    groups = {"job": {"NodesEvaluated": 1} | short}
    some = {"ID": "e", "CreateIndex": 1, "Status": "blocked", "FailedTGAllocs": groups}
    return some | {"JobID": native_id}


def test_many_that_wait_are_read_by_listings(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    many = handles(200)
    ids = [one.native_id for one in many]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    nomad.routes["GET", "/v1/jobs"] = Answer(200, [stub(one) for one in ids])
    nomad.routes["GET", "/v1/evaluations"] = Answer(200, [blocked(one) for one in ids])
    with client.within(5):
        seen = lookout.at(many)
    assert set(seen) == set(many)
    assert {(look.state, look.reason) for look in seen.values()} == {
        (Observed.PENDING, "Waiting for a machine: not enough memory free on 1 machine")
    }
    assert len(nomad.requests) == 3


def test_what_had_a_place_is_read_itself(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    """Its allocations are older than the listing goes back, and may tell of an end."""
    *waiting, lost = handles(20)
    jobs = [stub(one.native_id) for one in waiting] + [stub(lost.native_id, Lost=1)]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    nomad.routes["GET", "/v1/jobs"] = Answer(200, jobs)
    nomad.routes["GET", "/v1/evaluations"] = Answer(200, [])
    nomad.routes["GET", f"/v1/job/{lost.native_id}/allocations"] = Answer(
        200, [alloc("symlink", lost.native_id)]
    )
    with client.within(5):
        seen = lookout.at([*waiting, lost])
    assert seen[lost].state is Observed.ENDED
    assert {seen[one].state for one in waiting} == {Observed.PENDING}


def test_a_run_that_was_fenced_is_not_judged_without_the_one_that_has_the_bucket(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    """The listing goes back to the replacement, but not to what it replaced."""
    many = handles(20)
    ids = [one.native_id for one in many]
    both = [
        one | {"JobID": ids[0]}
        for one in json.loads((recorded.FOLDER / "failed-while-away.json").read_text())["allocs"]
    ]
    again = max(both, key=lambda one: int(one["CreateIndex"]))
    listed = [alloc("running", one) for one in ids[1:]] + [again]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, listed)
    nomad.routes["GET", f"/v1/job/{ids[0]}/allocations"] = Answer(200, both)
    with client.within(5):
        seen = lookout.at(many)
    assert (seen[many[0]].cause, seen[many[0]].exit_code) == (Cause.EXIT, 3)
    assert len(nomad.requests) == 2


def slow(nomad: FakeNomad, some: list[Handle], seconds: float) -> None:
    """Each job can be read, and it takes a while."""
    for handle in some:
        body = [alloc("symlink", handle.native_id)]

        def answer(_: Request, body: object = body) -> Answer:
            time.sleep(seconds)
            return Answer(200, body)

        nomad.routes["GET", f"/v1/job/{handle.native_id}/allocations"] = answer


def test_what_there_was_no_time_for_comes_first_the_next_time(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    some = handles(8)
    slow(nomad, some, 0.1)
    seen: set[Handle] = set()
    for _ in some:
        if seen == set(some):
            break
        with client.within(0.6):
            now = lookout.at(some)
        assert 0 < len(now) < len(some)
        assert set(now) - seen
        seen |= set(now)
    assert seen == set(some)


REFUSED = Answer(500, "json: error calling MarshalJSON for type time.Time: year outside of range")
FAULTY: dict[str, Answer] = {
    "refused": REFUSED,
    "no JSON": Answer(200, "<html>"),
    "another shape": Answer(200, [{"ID": 7}]),
    "a time that none is": Answer(
        200,
        [
            alloc(
                "symlink",
                f"{PREFIX}0",
                TaskStates={"stage-out": {"State": "dead", "FinishedAt": "0000-01-01T00:00:00Z"}},
            )
        ],
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("count", [5, 10])
def test_one_that_cannot_be_read_keeps_no_other_from_it(
    client: NomadClient,
    lookout: Lookout,
    nomad: FakeNomad,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    count: int,
) -> None:
    faulty, *others = some = handles(count)
    slow(nomad, some, 0)
    # It spoils listings, too.
    nomad.routes["GET", "/v1/allocations"] = REFUSED
    nomad.routes["GET", f"/v1/job/{faulty.native_id}/allocations"] = FAULTY[fault]
    for _ in range(3):
        with client.within(5):
            assert set(lookout.at(some)) == set(others)
    told = [record.getMessage() for record in caplog.records if "native_id" in record.getMessage()]
    assert len(told) == 1 and f"native_id={faulty.native_id} " in told[0]
    slow(nomad, [faulty], 0)
    with client.within(5):
        assert set(lookout.at(some)) == set(some)


def test_many_that_cannot_be_read_come_last(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    some = handles(8)
    slow(nomad, some[5:], 0)
    for one in some[:5]:
        nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = REFUSED
    nomad.routes["GET", "/v1/status/leader"] = Answer(200, b'"127.0.0.1:4647"')
    with client.within(5), pytest.raises(ConnectorUnavailable):
        lookout.at(some)
    with client.within(5):
        assert set(lookout.at(some)) == set(some[5:])


def test_one_that_takes_for_ever_keeps_no_other_waiting(
    connection: Connection, nomad: FakeNomad
) -> None:
    client = NomadClient(structs.replace(connection, request_timeout_s=1.0))
    lookout = Lookout(client, PREFIX)
    some = handles(3)
    slow(nomad, some[1:], 0)
    slow(nomad, some[:1], 3)
    nomad.routes["GET", "/v1/status/leader"] = Answer(200, b'"127.0.0.1:4647"')
    with client.within(5), pytest.raises(ConnectorUnavailable):
        lookout.at(some)
    with client.within(5):
        assert set(lookout.at(some)) == set(some[1:])


@pytest.mark.parametrize(
    ("leader", "narrow"),
    [
        (Answer(200, b'"127.0.0.1:4647"'), True),
        (Answer(200, b'""'), False),
        (Answer(500, "No cluster leader"), False),
    ],
)
def test_nothing_read_at_a_nomad_that_answers_is_the_fault_of_this_place(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad, leader: Answer, narrow: bool
) -> None:
    """Other groups are looked after meanwhile."""
    (one,) = handles(1)
    nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = REFUSED
    nomad.routes["GET", "/v1/status/leader"] = leader
    with client.within(5), pytest.raises(ConnectorUnavailable) as caught:
        lookout.at([one])
    assert caught.value.narrow is narrow and one.native_id in caught.value.message
    nomad.routes["GET", "/v1/jobs"] = REFUSED
    with client.within(5), pytest.raises(ConnectorUnavailable) as caught:
        lookout.living(["g-lab"])
    assert caught.value.narrow is narrow


def test_a_nomad_that_refuses_everything_is_not_asked_about_everything(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    with client.within(5), pytest.raises(ConnectorUnavailable):
        lookout.at(handles(200))
    assert len(nomad.requests) < 8


def test_what_lives_is_listed_with_what_cannot_be_read(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    faulty, other = handles(2)
    state = {"State": "running", "StartedAt": "0000-01-01T00:00:00Z"}
    nomad.routes["GET", "/v1/jobs"] = Answer(
        200, [{"ID": one.native_id, "Status": "running"} for one in (faulty, other)]
    )
    nomad.routes["GET", "/v1/allocations"] = Answer(
        200,
        [
            alloc("running", other.native_id),
            alloc("running", faulty.native_id, TaskStates={"main": state}),
        ],
    )
    with client.within(5):
        seen = lookout.living(["g-lab"])
    assert (seen[faulty].state, seen[other].state) == (Observed.UNKNOWN, Observed.RUNNING)


def test_a_server_too_slow_for_one_answer_cannot_be_asked(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    some = handles(2)
    slow(nomad, some, 0.5)
    with client.within(0.2), pytest.raises(ConnectorUnavailable):
        lookout.at(some)


def test_a_listing_of_what_lives_is_whole_or_none(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    """After a restore nothing is handed over until all of it was seen."""

    def page(request: Request) -> Answer:
        time.sleep(0.15)
        number = int(request.query.get("next_token", "0"))
        job = stub(f"{PREFIX}{number}")
        return Answer(200, [job], {"X-Nomad-NextToken": str(number + 1)} if number < 5 else {})

    nomad.routes["GET", "/v1/jobs"] = page
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    with client.within(0.5), pytest.raises(ConnectorUnavailable):
        lookout.living(["g-lab"])
    with client.within(5):
        assert set(lookout.living(["g-lab"])) == set(handles(6))


UPLOADS = "uploading-after-cancel"


@pytest.mark.parametrize("status", ["down", "disconnected", None])
def test_a_stopped_run_on_a_node_that_is_away_is_out_of_touch(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad, status: str | None
) -> None:
    some = handles(3)
    for one in some:
        nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = Answer(
            200, [alloc(UPLOADS, one.native_id, NodeID="n-1", NodeName="node-1")]
        )
    nomad.routes["GET", "/v1/node/n-1"] = (
        Answer(200, {"ID": "n-1", "ModifyIndex": 1, "Status": status})
        if status
        else Answer(404, "node not found")
    )
    with client.within(5):
        seen = lookout.at(some)
    assert {(look.state, look.node) for look in seen.values()} == {(Observed.UNKNOWN, "node-1")}
    assert sum(one.path == "/v1/node/n-1" for one in nomad.requests) == 1  # for all of them


def test_a_failed_run_that_uploads_on_a_node_that_is_there_goes_on(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad
) -> None:
    (one,) = handles(1)
    failed = alloc(UPLOADS, one.native_id, NodeID="n-1", ClientStatus="failed")
    nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = Answer(200, [failed])
    nomad.routes["GET", "/v1/node/n-1"] = Answer(
        200, {"ID": "n-1", "ModifyIndex": 1, "Status": "ready"}
    )
    with client.within(5):
        assert lookout.at([one])[one].state is Observed.RUNNING


@pytest.mark.parametrize("case", ["running", "success", "canceled", "staging"])
def test_the_node_is_asked_about_only_where_it_matters(
    client: NomadClient, lookout: Lookout, nomad: FakeNomad, case: str
) -> None:
    (one,) = handles(1)
    nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = Answer(
        200, [alloc(case, one.native_id)]
    )
    with client.within(5):
        lookout.at([one])
    assert len(nomad.requests) == 1
