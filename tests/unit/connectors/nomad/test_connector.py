"""How the connector asks: few one by one, many by listing, and never GONE by a list."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from bridge.connectors.base import Connector, Survey
from bridge.connectors.nomad.client import Connection
from bridge.connectors.nomad.connector import NomadConnector
from bridge.errors import ConfigError
from bridge.models.attempt import AttemptSpec, Handle, Observed
from tests.support.fake_nomad import Answer, FakeNomad, Request
from tests.unit.connectors.nomad import recorded

PREFIX = "bridge-x-"


@pytest.fixture
def connector(connection: Connection) -> NomadConnector:
    return NomadConnector(connection, prefix=PREFIX)


def ended(native_id: str, index: int = 1) -> dict[str, Any]:
    raw = recorded.raw_alloc("symlink")
    return raw | {"ID": f"alloc-{native_id}", "JobID": native_id, "CreateIndex": index}


def handles(count: int) -> list[Handle]:
    return [Handle(f"{PREFIX}{number}", "g-lab") for number in range(count)]


def test_it_is_a_connector(connector: NomadConnector) -> None:
    as_contract: Connector = connector
    assert as_contract.name == "nomad"


def test_few_are_read_directly(connector: NomadConnector, nomad: FakeNomad) -> None:
    (one,) = handles(1)
    nomad.routes["GET", f"/v1/job/{one.native_id}/allocations"] = Answer(
        200, [ended(one.native_id)]
    )
    assert connector.poll([one])[one].state is Observed.ENDED
    assert len(nomad.requests) == 1


def test_many_are_read_by_one_listing(connector: NomadConnector, nomad: FakeNomad) -> None:
    many = handles(50)
    listing = [ended(one.native_id) for one in many] + [ended("somebody-elses")]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, listing)
    seen = connector.poll(many)
    assert set(seen) == set(many)
    assert {look.state for look in seen.values()} == {Observed.ENDED}
    assert len(nomad.requests) == 1
    assert nomad.requests[0].query["per_page"] == "100"


def test_what_the_listing_lacks_is_asked_for_directly(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    *listed, old, gone = handles(20)

    def page(request: Request) -> Answer:
        # More pages than are worth reading.
        token = int(request.query.get("next_token", "0"))
        body = [ended(one.native_id) for one in listed] if token == 0 else []
        return Answer(200, body, {"X-Nomad-NextToken": str(token + 1)})

    nomad.routes["GET", "/v1/allocations"] = page
    nomad.routes["GET", f"/v1/job/{old.native_id}/allocations"] = Answer(
        200, [ended(old.native_id)]
    )
    nomad.routes["GET", f"/v1/job/{gone.native_id}/allocations"] = Answer(200, [])
    nomad.routes["GET", f"/v1/job/{gone.native_id}"] = Answer(404, "job not found")
    seen = connector.poll([*listed, old, gone])
    assert seen[old].state is Observed.ENDED
    assert seen[gone].state is Observed.GONE
    assert sum(one.path == "/v1/allocations" for one in nomad.requests) == 2


def test_the_newest_allocation_counts_in_a_listing_too(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    many = handles(10)
    newer = ended(many[0].native_id, 9) | {"ClientStatus": "unknown"}
    listing = [newer, *(ended(one.native_id) for one in many)]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, listing)
    assert connector.poll(many)[many[0]].state is Observed.UNKNOWN


def test_namespaces_are_asked_apart(connector: NomadConnector, nomad: FakeNomad) -> None:
    one, two = Handle("j", "g-a"), Handle("j", "g-b")

    def allocations(request: Request) -> Answer:
        return Answer(200, [ended("j")] if request.query["namespace"] == "g-a" else [])

    nomad.routes["GET", "/v1/job/j/allocations"] = allocations
    nomad.routes["GET", "/v1/job/j"] = Answer(404, "job not found")
    seen = connector.poll([one, two])
    assert (seen[one].state, seen[two].state) == (Observed.ENDED, Observed.GONE)


def test_one_that_cannot_be_read_is_left_out_of_a_poll(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    bad, good = handles(2)
    nomad.routes["GET", f"/v1/job/{good.native_id}/allocations"] = Answer(
        200, [ended(good.native_id)]
    )
    assert set(connector.poll([bad, good])) == {good}


def test_nothing_to_poll_asks_nothing(connector: NomadConnector, nomad: FakeNomad) -> None:
    assert connector.poll([]) == {}
    assert nomad.requests == []


def test_sweep_asks_for_what_lives_and_bears_the_prefix(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    alive, over = handles(2)
    jobs = [{"ID": one.native_id, "Status": "running", "Stop": False} for one in (alive, over)]
    nomad.routes["GET", "/v1/jobs"] = Answer(200, jobs)
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [ended(over.native_id)])
    assert set(connector.sweep(["g-lab", "g-lab"])) == {alive}
    listing = nomad.requests[0]
    assert listing.query["prefix"] == PREFIX
    assert listing.query["filter"] == 'Status != "dead"'


def test_a_survey_asks_for_what_lives_in_any_namespace(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    assert isinstance(connector, Survey)
    job = {"ID": f"{PREFIX}1", "Status": "running"}
    places = ["g-lab", "g-den", "g-lab"]
    nomad.routes["GET", "/v1/jobs"] = Answer(200, [job | {"Namespace": one} for one in places])
    assert connector.inhabited() == {"g-lab", "g-den"}
    [asked] = nomad.requests
    assert (asked.query["namespace"], asked.query["prefix"]) == ("*", PREFIX)
    assert asked.query["filter"] == 'Status != "dead"'


def test_the_job_file_is_parsed_once(connector: NomadConnector, nomad: FakeNomad) -> None:
    nomad.routes["POST", "/v1/jobs/parse"] = Answer(200, recorded.template())
    nomad.routes["POST", "/v1/validate/job"] = Answer(200, {"ValidationErrors": None})
    nomad.routes["POST", "/v1/jobs"] = Answer(200, {})
    for number in (1, 2):
        connector.submit(spec(number))
    paths = [one.path for one in nomad.requests]
    assert paths == ["/v1/jobs/parse", "/v1/validate/job", "/v1/jobs", "/v1/jobs"]
    assert nomad.requests[0].query["namespace"] == "g-lab"


def test_a_job_file_that_cannot_be_read(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        NomadConnector(connection, prefix=PREFIX, job_file=tmp_path / "missing.hcl")


def spec(number: int) -> AttemptSpec:
    return AttemptSpec(
        handle=Handle(f"{PREFIX}{number}", "g-lab"),
        job_id=uuid.uuid4(),
        number=number,
        group="lab",
        code_bucket="code-abc",
        node_pool="g-lab",
        bucket_id=uuid.uuid4(),
        image="psi4:1.5",
        input_sha256=None,
        cores=1,
        memory_mb=64,
        time_limit_s=60,
    )


def healthy(nomad: FakeNomad) -> None:
    nomad.routes |= {
        ("GET", "/v1/status/leader"): Answer(200, '"127.0.0.1:4647"'),
        ("GET", "/v1/acl/token/self"): Answer(200, {"Type": "client", "Policies": ["bridge"]}),
        ("GET", "/v1/agent/members"): Answer(200, {"Members": [{"Tags": {"build": "2.0.5"}}]}),
        ("GET", "/v1/namespaces"): Answer(200, [{"Name": "g-lab"}]),
        ("GET", "/v1/job/bridge-check"): Answer(404, "job not found"),
        ("GET", "/v1/jobs"): Answer(200, []),
        ("POST", "/v1/jobs/parse"): Answer(200, recorded.template()),
        ("POST", "/v1/validate/job"): Answer(200, {"ValidationErrors": None}),
    }


def test_check_of_a_healthy_cluster(connector: NomadConnector, nomad: FakeNomad) -> None:
    healthy(nomad)
    health = connector.check()
    assert health.ok, health


@pytest.mark.parametrize(
    ("path", "answer", "what", "words"),
    [
        ("status/leader", Answer(500, "No cluster leader"), "reachable", "No cluster leader"),
        ("acl/token/self", Answer(403, "Permission denied"), "token", "Permission denied"),
        (
            "acl/token/self",
            Answer(200, {"Type": "client", "ExpirationTime": "2020-01-01T00:00:00Z"}),
            "token",
            "expires",
        ),
        (
            "agent/members",
            Answer(200, {"Members": [{"Tags": {"build": "2.0.3"}}]}),
            "version",
            "2.0.3",
        ),
        ("agent/members", Answer(403, "Permission denied"), "version", "Permission denied"),
        ("namespaces", Answer(200, []), "namespaces", "nothing in any namespace"),
        ("namespaces", Answer(500, "oh"), "namespaces", "oh"),
        ("job/bridge-check", Answer(403, "no"), "namespace g-lab", "no"),
    ],
)
def test_check_names_what_is_wrong(
    connector: NomadConnector, nomad: FakeNomad, path: str, answer: Answer, what: str, words: str
) -> None:
    healthy(nomad)
    nomad.routes["GET", f"/v1/{path}"] = answer
    wrong = [finding for finding in connector.check().findings if not finding.ok]
    assert [finding.what for finding in wrong] == [what]
    assert words in wrong[0].detail and wrong[0].remedy


def test_check_of_a_cluster_without_acls(connector: NomadConnector, nomad: FakeNomad) -> None:
    healthy(nomad)
    nomad.routes["GET", "/v1/acl/token/self"] = Answer(400, "ACL support disabled")
    health = connector.check()
    assert health.ok
    assert any("without ACLs" in finding.detail for finding in health.findings)


def test_check_says_when_the_job_file_is_faulty(
    connector: NomadConnector, nomad: FakeNomad
) -> None:
    healthy(nomad)
    nomad.routes["POST", "/v1/jobs/parse"] = Answer(200, {"TaskGroups": []})
    finding = connector.check().findings[-1]
    assert (finding.what, finding.ok) == ("job file", False)
    assert "0 groups" in finding.detail and "nomad.job_file" in finding.remedy


def test_check_of_an_open_wire_beyond_this_machine() -> None:
    connector = NomadConnector(
        Connection(address="http://nomad.invalid:4646", request_timeout_s=0.01), prefix=PREFIX
    )
    transport = next(iter(connector._findings()))
    assert (transport.what, transport.ok) == ("transport", False)
