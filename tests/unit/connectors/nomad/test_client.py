"""What goes over the wire, and what is made of strange answers."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bridge.connectors.nomad.client import Connection, NomadClient
from bridge.errors import ConfigError, ConnectorUnavailable, JobRejected
from tests.support.fake_nomad import Answer, FakeNomad, Request
from tests.support.poll import free_port
from tests.unit.connectors.nomad.conftest import TOKEN

JOB = {"ID": "bridge-x", "Namespace": "g-lab"}


def test_the_token_is_sent_as_a_header_only(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["GET", "/v1/job/j/allocations"] = Answer(200, [])
    nomad.routes["GET", "/v1/allocations"] = Answer(200, [])
    client.allocations("j", "g-lab")
    list(client.recent_allocations("g-lab", 10))
    for request in nomad.requests:
        assert request.headers["X-Nomad-Token"] == TOKEN
        assert request.headers["User-Agent"] == "nomad-bridge"
        assert TOKEN not in f"{request.raw_path}{request.query}"
        assert request.query["namespace"] == "g-lab"
        assert request.query["region"] == "global"


def test_reads_are_never_stale(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["GET", "/v1/job/j"] = Answer(404, "job not found")
    client.job("j", "g-lab")
    assert "stale" not in nomad.requests[0].query


def test_ids_are_quoted(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["GET", "/v1/job/a/b?c#d/allocations"] = Answer(200, [])
    client.allocations("a/b?c#d", "g-lab")
    assert nomad.requests[0].raw_path == "/v1/job/a%2Fb%3Fc%23d/allocations"


def test_a_job_nomad_does_not_know_is_none(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["GET", "/v1/job/j"] = Answer(404, "job not found")
    assert client.job("j", "g-lab") is None


def test_any_other_404_means_nothing(client: NomadClient) -> None:
    with pytest.raises(ConnectorUnavailable, match="404"):
        client.job("j", "g-lab")


def test_register_is_create_only(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["POST", "/v1/jobs"] = Answer(200, {"EvalID": "e"})
    client.register(JOB)
    assert nomad.requests[0].body == {"Job": JOB, "EnforceIndex": True, "JobModifyIndex": 0}


def test_a_job_that_exists_is_registered(client: NomadClient, nomad: FakeNomad) -> None:
    text = "Enforcing job modify index 0: job already exists"
    nomad.routes["POST", "/v1/jobs"] = Answer(500, text)
    client.register(JOB)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(500, "1 error occurred: * memory exceeds"), JobRejected),
        (Answer(500, "No cluster leader"), ConnectorUnavailable),
        (Answer(403, "Permission denied"), ConnectorUnavailable),
        (Answer(429, "", {"Retry-After": "3"}), ConnectorUnavailable),
        (Answer(200, "<html>a proxy</html>"), ConnectorUnavailable),
        (Answer(302, "", {"Location": "http://127.0.0.1:9/"}), ConnectorUnavailable),
    ],
)
def test_register_refused(
    client: NomadClient, nomad: FakeNomad, answer: Answer, error: type[Exception]
) -> None:
    nomad.routes["POST", "/v1/jobs"] = answer
    with pytest.raises(error) as caught:
        client.register(JOB)
    assert type(caught.value) is error
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "not json"),
        Answer(200, {"not": "a list"}),
        Answer(200, [{"ID": "no other field"}]),
        Answer(500, "validation failed"),
        Answer(302, "", {"Location": "/elsewhere"}),
    ],
)
def test_strange_answers_to_reads_change_nothing(
    client: NomadClient, nomad: FakeNomad, answer: Answer
) -> None:
    nomad.routes["GET", "/v1/job/j/allocations"] = answer
    nomad.routes["GET", "/v1/allocations"] = answer
    nomad.routes["GET", "/elsewhere"] = Answer(200, [])
    with pytest.raises(ConnectorUnavailable):
        client.allocations("j", "g-lab")
    with pytest.raises(ConnectorUnavailable):
        list(client.recent_allocations("g-lab", 10))
    assert not [one for one in nomad.requests if one.path == "/elsewhere"]


def test_deregister(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["DELETE", "/v1/job/j"] = Answer(200, {"EvalID": ""})
    client.deregister("j", "g-lab", purge=False)
    client.deregister("j", "g-lab", purge=True)
    assert [one.query["purge"].lower() for one in nomad.requests] == ["false", "true"]


def alloc(name: str) -> dict[str, Any]:
    fields = {"CreateIndex": 1, "ClientStatus": "running", "DesiredStatus": "run"}
    return {"ID": name, "JobID": name, **fields}


def test_pages_are_followed(client: NomadClient, nomad: FakeNomad) -> None:
    def page(request: Request) -> Answer:
        if "next_token" not in request.query:
            return Answer(200, [alloc("a")], {"X-Nomad-NextToken": "5.b"})
        assert request.query["next_token"] == "5.b"
        return Answer(200, [alloc("b")])

    nomad.routes["GET", "/v1/allocations"] = page
    pages = list(client.recent_allocations("g-lab", 1))
    assert [[one.id for one in listed] for listed in pages] == [["a"], ["b"]]
    assert all(one.query["reverse"] == "true" for one in nomad.requests)


def test_a_listing_that_breaks_off_is_no_listing(client: NomadClient, nomad: FakeNomad) -> None:
    def page(request: Request) -> Answer:
        if "next_token" in request.query:
            return Answer(500, "No cluster leader")
        return Answer(200, [alloc("a")], {"X-Nomad-NextToken": "5.b"})

    nomad.routes["GET", "/v1/allocations"] = page
    with pytest.raises(ConnectorUnavailable, match="No cluster leader"):
        list(client.recent_allocations("g-lab", 1))


def test_an_answer_in_drops_is_given_up() -> None:
    """Each drop comes in time; all of them would take as long as the server likes."""
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[")
            while not ended.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=[listener])
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = NomadClient(Connection(address=address, request_timeout_s=0.4))
        began = time.monotonic()
        try:
            with pytest.raises(ConnectorUnavailable, match="did not answer in time"):
                client.allocations("j", "g-lab")
            assert time.monotonic() - began < 20
        finally:
            ended.set()
            thread.join()


def test_a_compressed_answer_is_read_whole(client: NomadClient, nomad: FakeNomad) -> None:
    listing = [alloc(f"a{number}") for number in range(5000)]
    body = gzip.compress(json.dumps(listing).encode())
    nomad.routes["GET", "/v1/allocations"] = Answer(200, body, {"Content-Encoding": "gzip"})
    for _ in range(2):  # on the same connection
        (page,) = client.recent_allocations("g-lab", 5000)
        assert [one.id for one in page] == [one["ID"] for one in listing]


def test_an_answer_that_breaks_off_is_no_answer(client: NomadClient, nomad: FakeNomad) -> None:
    cut = gzip.compress(json.dumps([alloc("a")]).encode())[:-20]
    nomad.routes["GET", "/v1/allocations"] = Answer(200, cut, {"Content-Encoding": "gzip"})
    with pytest.raises(ConnectorUnavailable):
        list(client.recent_allocations("g-lab", 10))


def test_a_server_that_hangs_is_given_up(connection: Connection, nomad: FakeNomad) -> None:
    released = threading.Event()

    def hang(_: Request) -> Answer:
        released.wait(60)
        return Answer(200, [])

    nomad.routes["GET", "/v1/job/j/allocations"] = hang
    impatient = NomadClient(
        Connection(address=connection.address, request_timeout_s=0.5),
    )
    began = time.monotonic()
    with pytest.raises(ConnectorUnavailable, match="did not answer in time"):
        impatient.allocations("j", "g-lab")
    patient = NomadClient(connection)
    with pytest.raises(ConnectorUnavailable, match="did not answer in time"), patient.within(0.5):
        patient.allocations("j", "g-lab")
    released.set()
    assert time.monotonic() - began < 30


def test_many_calls_share_one_deadline(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["GET", "/v1/job/j/allocations"] = Answer(200, [])
    with pytest.raises(ConnectorUnavailable, match="too slowly"), client.within(0.0):
        client.allocations("j", "g-lab")
    assert nomad.requests == []
    client.allocations("j", "g-lab")  # afterwards the deadline is gone


def test_the_environment_is_ignored(
    connection: Connection, nomad: FakeNomad, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "NOMAD_ADDR"):
        monkeypatch.setenv(name, nobody)
    monkeypatch.setenv("NOMAD_TOKEN", "somebody-else")
    monkeypatch.setenv("NOMAD_NAMESPACE", "g-other")
    monkeypatch.setenv("NOMAD_REGION", "mars")
    nomad.routes["GET", "/v1/status/leader"] = Answer(200, "127.0.0.1:4647".join('""'))
    NomadClient(connection).leader()
    (request,) = nomad.requests
    assert request.headers["X-Nomad-Token"] == TOKEN
    assert request.query == {"region": "global"}


def test_every_thread_has_a_session_of_its_own(client: NomadClient) -> None:
    sessions = [client._session(), client._session()]
    other = threading.Thread(target=lambda: sessions.append(client._session()))
    other.start()
    other.join()
    assert sessions[0] is sessions[1] is not sessions[2]
    assert all(not session.trust_env and session.verify is True for session in sessions)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"address": ""}, "nomad.address"),
        ({"address": "nomad.example:4646"}, "nomad.address"),
        ({"address": "ftp://nomad.example"}, "nomad.address"),
        ({"address": "https://user:word@nomad.example"}, "nomad.address"),
        ({"client_cert": Path(__file__)}, "belong together"),
        ({"ca_file": Path("/no/such/file")}, "nomad.ca_file"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NomadClient(Connection(**({"address": "https://nomad.example:4646"} | changes)))


def test_the_token_is_not_shown_by_accident(connection: Connection) -> None:
    assert TOKEN not in f"{connection!r}{connection}"


def test_a_denial_names_what_the_token_lacks(client: NomadClient, nomad: FakeNomad) -> None:
    nomad.routes["POST", "/v1/jobs"] = Answer(403, "Permission denied")
    nomad.routes["GET", "/v1/acl/token/self"] = Answer(200, {"Type": "client"})
    with pytest.raises(ConnectorUnavailable) as caught:
        client.register(JOB)
    assert "lacks register-job." in caught.value.hint
    assert caught.value.narrow


def test_a_token_that_is_no_good_is_refused_everywhere(
    client: NomadClient, nomad: FakeNomad
) -> None:
    nomad.routes["POST", "/v1/jobs"] = Answer(403, "Permission denied")
    nomad.routes["GET", "/v1/acl/token/self"] = Answer(403, "ACL token not found")
    with pytest.raises(ConnectorUnavailable) as caught:
        client.register(JOB)
    assert not caught.value.narrow
