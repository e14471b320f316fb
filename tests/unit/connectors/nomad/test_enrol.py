"""What a machine is given when it enrols."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from bridge.connectors.nomad.client import Connection
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.enrol import Enrolment
from bridge.errors import ConfigError, ConnectorUnavailable, InvalidRequest
from bridge.models.node import EnrolRequest
from tests.support.certificates import Authority, request_for
from tests.support.fake_nomad import Answer, FakeNomad

MINT = "/v1/acl/identity/client-introduction-token"
REQUEST = request_for(ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "nomad")


@pytest.fixture
def enrolment(authority: Authority) -> Enrolment:
    return Enrolment(
        servers=("nomad.example:4647", "10.0.0.2:4647"),
        ca_file=authority.ca_file,
        ca_cert_file=authority.ca_file,
        ca_key_file=authority.key_file,
        certificate_s=86400,
    )


def connector(connection: Connection, enrolment: Enrolment | None) -> NomadConnector:
    return NomadConnector(connection, prefix="b-", node_token="second", enrolment=enrolment)


def ask(**changes: Any) -> EnrolRequest:
    fields: dict[str, Any] = {
        "name": "node-7",
        "node_pool": "g-lab",
        "generation": "gen7",
        "signing_request": REQUEST,
        "limits": True,
    }
    return EnrolRequest(**(fields | changes))


def test_certificate_introduction_and_configuration(
    connection: Connection, nomad: FakeNomad, enrolment: Enrolment, authority: Authority
) -> None:
    nomad.routes["POST", MINT] = Answer(200, {"JWT": "a.b.c"})
    admission = connector(connection, enrolment).enrol(ask())
    assert set(admission.files) == {"client.pem", "ca.pem", "intro_token.jwt", "bridge.json"}
    assert admission.files["intro_token.jwt"] == "a.b.c"
    assert admission.files["ca.pem"] == authority.ca_file.read_text()
    (minted,) = nomad.requests
    assert minted.body == {"NodeName": "node-7", "NodePool": "g-lab", "TTL": "600s"}
    assert minted.headers["X-Nomad-Token"] == "second"
    settings = json.loads(admission.files["bridge.json"])
    assert settings["name"] == "node-7" and settings["region"] == "global"
    client = settings["client"]
    assert client["servers"] == ["nomad.example:4647", "10.0.0.2:4647"]
    assert client["node_pool"] == "g-lab" and client["disable_remote_exec"] is True
    assert client["meta"] == {
        "bridge_stage": "1",
        "bridge_generation": "gen7",
        "bridge_limits": "1",
    }
    assert settings["tls"] == dict.fromkeys(
        ("http", "rpc", "verify_server_hostname", "verify_https_client"), True
    )
    assert settings["acl"] == {"enabled": True}


def test_what_the_bridge_decides_names_no_secret_and_no_path(
    connection: Connection, nomad: FakeNomad, enrolment: Enrolment
) -> None:
    nomad.routes["POST", MINT] = Answer(200, {"JWT": "a.b.c"})
    text = connector(connection, enrolment).enrol(ask(limits=False)).files["bridge.json"]
    assert json.loads(text)["client"]["meta"]["bridge_limits"] == "0"
    assert not [word for word in ("a.b.c", "second", "PRIVATE", "/") if word in text]


def test_a_machine_of_any_name_is_a_client_only(
    connection: Connection, nomad: FakeNomad, enrolment: Enrolment
) -> None:
    nomad.routes["POST", MINT] = Answer(200, {"JWT": "a.b.c"})
    files = connector(connection, enrolment).enrol(ask(name="server.global.nomad")).files
    assert "server.global.nomad" not in _text(files["client.pem"])
    assert "client.global.nomad" in _text(files["client.pem"])


def _text(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).tbs_certificate_bytes.decode("latin-1")


def test_a_bad_request_is_refused_before_anything_is_made(
    connection: Connection, nomad: FakeNomad, enrolment: Enrolment
) -> None:
    with pytest.raises(InvalidRequest):
        connector(connection, enrolment).enrol(ask(signing_request="nothing"))
    assert nomad.requests == []


def test_without_a_ca_key_every_machine_gets_the_fixed_pair(
    connection: Connection, nomad: FakeNomad, authority: Authority
) -> None:
    nomad.routes["POST", MINT] = Answer(200, {"JWT": "a.b.c"})
    pair = authority.issue("client.global.nomad")
    fixed = Enrolment(
        servers=("n:4647",),
        ca_file=authority.ca_file,
        node_cert_file=pair.cert,
        node_key_file=pair.key,
    )
    files = connector(connection, fixed).enrol(ask()).files
    assert (files["client.pem"], files["client.key"]) == (
        pair.cert.read_text(),
        pair.key.read_text(),
    )


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"servers": ()}, "nomad.servers"),
        ({"ca_cert_file": None, "ca_key_file": None}, "nomad.ca_cert_file and nomad.ca_key_file"),
        ({"ca_file": None, "ca_cert_file": None, "ca_key_file": None}, "nomad.ca_file"),
    ],
)
def test_what_the_operator_has_not_set_is_named_when_a_machine_comes(
    connection: Connection, enrolment: Enrolment, changes: dict[str, Any], missing: str
) -> None:
    unset = connector(connection, msgspec.structs.replace(enrolment, **changes))
    with pytest.raises(ConnectorUnavailable, match=missing):
        unset.enrol(ask())
    with pytest.raises(ConnectorUnavailable, match="lacks"):
        connector(connection, None).enrol(ask())


def test_files_that_cannot_be_used_stop_the_bridge_at_its_start(
    connection: Connection, enrolment: Enrolment, tmp_path: Path
) -> None:
    gone = msgspec.structs.replace(enrolment, ca_key_file=tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"nomad\.ca_key_file: cannot read"):
        connector(connection, gone)


def test_files_that_went_away_since_are_no_fault_of_the_machine(
    connection: Connection, enrolment: Enrolment, authority: Authority, tmp_path: Path
) -> None:
    key = tmp_path / "ca.key"
    key.write_bytes(authority.key_file.read_bytes())
    here = connector(connection, msgspec.structs.replace(enrolment, ca_key_file=key))
    key.unlink()
    with pytest.raises(ConnectorUnavailable, match=r"nomad\.ca_key_file"):
        here.enrol(ask())


def test_nomad_refusing_an_introduction_is_said(
    connection: Connection, nomad: FakeNomad, enrolment: Enrolment
) -> None:
    nomad.routes["POST", MINT] = Answer(403, "Permission denied")
    nomad.routes["GET", "/v1/acl/token/self"] = Answer(200, {})
    with pytest.raises(ConnectorUnavailable) as caught:
        connector(connection, enrolment).enrol(ask())
    assert caught.value.hint == "The token of nomad.node_token_file lacks node write."
