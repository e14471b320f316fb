"""Machines become Nomad clients by what the bridge gives them, and by nothing less."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bridge.connectors.base import Nodes
from bridge.connectors.nomad.certificates import Authority, fixed_pair
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.enrol import Enrolment
from bridge.errors import ConfigError, ConnectorUnavailable
from bridge.models.attempt import Observed
from bridge.models.node import EnrolRequest, NodeStatus, NodeView
from tests.integration.nomad.conftest import PREFIX, MakeTrial, Trial
from tests.support import needs
from tests.support.certificates import request_for
from tests.support.nomad_cluster import NODE, POOL, NomadCluster
from tests.support.poll import eventually
from tests.support.room import free

KEY = ec.generate_private_key(ec.SECP256R1())
KEY_PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
).decode()


@pytest.fixture(scope="session")
def enrolling(nomad: NomadCluster) -> NomadConnector:
    """A connector with the second token and the CA."""
    return NomadConnector(
        nomad.connection(),
        prefix=PREFIX,
        node_token=nomad.token_with('node { policy = "write" }'),
        enrolment=Enrolment(
            servers=nomad.servers,
            ca_file=nomad.ca_file,
            ca_cert_file=nomad.authority.ca_file,
            ca_key_file=nomad.authority.key_file,
        ),
    )


def ask(name: str, **changes: Any) -> EnrolRequest:
    wish = x509.SubjectAlternativeName([x509.DNSName("server.global.nomad")])
    fields: dict[str, Any] = {
        "name": name,
        "node_pool": POOL,
        "generation": "gen7",
        "signing_request": request_for(KEY, "server.global.nomad", wish),
        "limits": False,
    }
    return EnrolRequest(**(fields | changes))


def shown(connector: NomadConnector, name: str) -> NodeView | None:
    return next((node for node in connector.nodes() if node.name == name), None)


def until(
    connector: NomadConnector, name: str, fits: Callable[[NodeView], bool], timeout: float = 90
) -> NodeView:
    def there() -> NodeView | None:
        node = shown(connector, name)
        return node if node is not None and fits(node) else None

    node = eventually(there, timeout=timeout, every=0.1)
    assert node is not None
    return node


def ready(node: NodeView) -> bool:
    return node.status is NodeStatus.READY and node.trouble is None


def waits_for(trial: Trial, words: str) -> bool:
    return words in (trial.look().reason or "")


@pytest.fixture
def name() -> str:
    return f"n-{uuid.uuid4().hex[:8]}"


def test_an_enrolled_machine_runs_jobs_that_ask_for_its_generation(
    nomad: NomadCluster, enrolling: NomadConnector, trial: MakeTrial, name: str
) -> None:
    assert isinstance(enrolling, Nodes)
    admission = enrolling.enrol(ask(name))
    with nomad.enrolled_client(name, admission.files, KEY_PEM):
        node = until(enrolling, name, ready)
        assert (node.node_pool, node.generation, node.stage_protocol) == (POOL, "gen7", "1")
        assert node.eligible and not node.paused and not node.draining
        assert node.versions["nomad"].startswith("2.") and "docker" in node.versions
        assert node.cores_free == node.cores_total > 0
        assert node.memory_free_mb > 0 and node.disk_free_mb > 0 and node.attempts == 0
        one = trial("sleep 60", generations=("gen7", "gen6"), connector=enrolling)
        enrolling.submit(one.spec)
        seen = one.until(Observed.RUNNING)
        assert seen.node == name
        busy = until(enrolling, name, lambda node: node.attempts == 1)
        assert busy.cores_free == busy.cores_total - 1
        assert busy.memory_free_mb < node.memory_free_mb
        assert busy.disk_free_mb < node.disk_free_mb
        enrolling.cancel(one.handle)
        one.end()


@pytest.fixture
def node(nomad: NomadCluster, enrolling: NomadConnector, name: str) -> Iterator[NodeView]:
    """An enrolled node that is ready."""
    with nomad.enrolled_client(name, enrolling.enrol(ask(name)).files, KEY_PEM):
        yield until(enrolling, name, ready)


def test_a_job_goes_to_no_other_machine_than_it_may(
    enrolling: NomadConnector, node: NodeView, nomad: NomadCluster, trial: MakeTrial
) -> None:
    pinned = trial("true", native_node=node.id, connector=enrolling)
    enrolling.submit(pinned.spec)
    assert pinned.end().node == node.name
    elsewhere = trial("true", native_node=nomad.node(NODE)["ID"], connector=enrolling)
    enrolling.submit(elsewhere.spec)
    assert elsewhere.end().node == NODE
    stale = trial("true", generations=("gen8",), connector=enrolling)
    limited = trial("true", requires_limits=True, connector=enrolling)
    for one, words in ((stale, "not enrolled since"), (limited, "without limits of memory")):
        enrolling.submit(one.spec)
        eventually(partial(waits_for, one, words), timeout=20)


def test_what_its_owner_paused_gets_nothing(
    nomad: NomadCluster, enrolling: NomadConnector, trial: MakeTrial, name: str
) -> None:
    files = enrolling.enrol(ask(name)).files
    with nomad.enrolled_client(name, files, KEY_PEM, {"bridge_paused": "1"}):
        node = until(enrolling, name, ready)
        assert node.paused
        before, _ = free(enrolling.room(POOL, POOL))
        one = trial("true", native_node=node.id, connector=enrolling)
        enrolling.submit(one.spec)
        eventually(partial(waits_for, one, "paused by the owner"), timeout=20)
        assert before <= shown(enrolling, NODE).cores_free  # type: ignore[union-attr]


def test_a_drain_and_its_end(enrolling: NomadConnector, node: NodeView, trial: MakeTrial) -> None:
    long = trial("trap 'exit 9' TERM; sleep 60 & wait", native_node=node.id, connector=enrolling)
    enrolling.submit(long.spec)
    long.until(Observed.RUNNING)
    enrolling.drain(node.id, 3600)
    draining = until(enrolling, node.name, lambda seen: seen.draining)
    assert not draining.eligible and long.look().state is Observed.RUNNING
    enrolling.set_eligible(node.id, eligible=True)
    until(enrolling, node.name, lambda seen: seen.eligible and not seen.draining)
    enrolling.set_eligible(node.id, eligible=False)
    enrolling.set_eligible(node.id, eligible=False)
    until(enrolling, node.name, lambda seen: not seen.eligible)
    enrolling.drain(node.id, 0)
    assert (long.end().cause) == "drained"


def test_a_removed_machine_that_is_alive_is_stopped_for_good(
    enrolling: NomadConnector, node: NodeView, trial: MakeTrial, nomad: NomadCluster
) -> None:
    script = "echo partial >out; trap 'exit 9' TERM; sleep 60 & wait"
    long = trial(script, native_node=node.id, connector=enrolling)
    enrolling.submit(long.spec)
    long.until(Observed.RUNNING)
    long.await_output("out")
    enrolling.remove(node.id)
    assert long.end().cause == "drained"
    assert long.file("out") == "partial\n"  # stage-out had its time
    seen = until(enrolling, node.name, lambda seen: not seen.draining and seen.attempts == 0)
    assert not seen.eligible and seen.status is NodeStatus.READY
    nomad.kill_client(node.name)
    until(enrolling, node.name, lambda seen: seen.status is NodeStatus.DOWN)
    enrolling.remove(node.id)
    assert shown(enrolling, node.name) is None
    enrolling.remove(node.id)  # none of these is an error
    enrolling.drain(node.id, 1)
    enrolling.set_eligible(node.id, eligible=True)
    enrolling.set_eligible(node.id, eligible=False)


def is_refused(nomad: NomadCluster, agent: str) -> bool:
    return "Permission denied" in nomad.log(agent)


def test_who_was_not_introduced_does_not_register(
    nomad: NomadCluster, enrolling: NomadConnector, name: str
) -> None:
    files = dict(enrolling.enrol(ask(name)).files)
    settings = json.loads(files["bridge.json"])
    thieves = {
        "no introduction": {**files, "intro_token.jwt": ""},
        "another name": {**files, "bridge.json": json.dumps(settings | {"name": f"{name}-2"})},
        "another pool": {
            **files,
            "bridge.json": json.dumps(
                settings | {"client": settings["client"] | {"node_pool": "g-other"}}
            ),
        },
    }
    for number, what in enumerate(thieves):
        agent = f"{name}-thief-{number}"
        with nomad.enrolled_client(agent, thieves[what], KEY_PEM):
            eventually(partial(is_refused, nomad, agent), timeout=20, every=0.1)
            names = {node.name for node in enrolling.nodes()}
            assert not [one for one in names if one.startswith(name)], what


def test_the_first_token_lets_nobody_in(nomad: NomadCluster, name: str) -> None:
    connector = NomadConnector(
        nomad.connection(),
        prefix=PREFIX,
        node_token=nomad.bridge_token,
        enrolment=Enrolment(
            servers=nomad.servers,
            ca_cert_file=nomad.authority.ca_file,
            ca_key_file=nomad.authority.key_file,
        ),
    )
    with pytest.raises(ConnectorUnavailable) as caught:
        connector.enrol(ask(name))
    assert caught.value.hint == "The token of nomad.node_token_file lacks node write."
    node_id = nomad.node()["ID"]
    with pytest.raises(ConnectorUnavailable, match="Permission denied"):
        connector.set_eligible(node_id, eligible=False)
    with pytest.raises(ConnectorUnavailable, match="Permission denied"):
        connector.drain(node_id, 0)
    assert nomad.node()["SchedulingEligibility"] == "eligible"


def test_what_was_renewed_serves_a_node_that_runs(
    nomad: NomadCluster, enrolling: NomadConnector, node: NodeView
) -> None:
    """A node restarts with a new certificate; its old introduction is used up."""
    renewed = enrolling.enrol(ask(node.name, generation="gen8"))
    etc = nomad.home / node.name / "etc"
    for file in ("client.pem", "bridge.json"):
        (etc / file).write_text(renewed.files[file])
    nomad.restart_enrolled(node.name)
    again = until(enrolling, node.name, lambda seen: seen.generation == "gen8")
    assert again.id == node.id


def test_the_files_that_nomad_itself_makes_can_be_used(tmp_path: Path) -> None:
    needs.need("nomad")
    for words in (("ca",), ("cert", "-client"), ("cert", "-server")):
        subprocess.run(
            ["nomad", "tls", words[0], "create", *words[1:]],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            timeout=30,
        )
    ca = Authority(tmp_path / "nomad-agent-ca.pem", tmp_path / "nomad-agent-ca-key.pem")
    signed = ca.sign(ask("n").signing_request, region="global", lifetime_s=60, now=time.time())
    issued = x509.load_pem_x509_certificate(signed.chain.encode())
    root = x509.load_pem_x509_certificate((tmp_path / "nomad-agent-ca.pem").read_bytes())
    issued.verify_directly_issued_by(root)
    role = tmp_path / "global-client-nomad.pem"
    assert fixed_pair(role, tmp_path / "global-client-nomad-key.pem").key
    with pytest.raises(ConfigError, match="more than a node may have"):
        fixed_pair(tmp_path / "global-server-nomad.pem", tmp_path / "global-server-nomad-key.pem")
