"""Tokens that may too little, servers that are not there, job files that do not do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.connectors.nomad.connector import NomadConnector
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle, Observed
from tests.integration.nomad.conftest import PREFIX, MakeTrial, Trial
from tests.support.certificates import Authority
from tests.support.nomad_cluster import BRIDGE_POLICY, POOL, NomadCluster
from tests.support.poll import eventually, free_port

pytestmark = pytest.mark.needs("nomad", "docker")


def test_check_finds_nothing_wrong(connector: NomadConnector) -> None:
    health = connector.check()
    assert health.ok, health
    named = {finding.what for finding in health.findings}
    assert named >= {"transport", "reachable", "token", "version", f"namespace {POOL}", "job file"}


def test_nobody_listens(nomad: NomadCluster, trial: MakeTrial) -> None:
    connector = NomadConnector(
        nomad.connection(address=f"https://127.0.0.1:{free_port()}"), prefix=PREFIX
    )
    one = trial("true")
    with pytest.raises(ConnectorUnavailable, match="no connection"):
        connector.submit(one.spec)
    with pytest.raises(ConnectorUnavailable, match="no connection"):
        connector.poll([one.handle])
    health = connector.check()
    assert not health.ok and "nomad.address" in health.findings[-1].remedy


def test_an_unknown_token(nomad: NomadCluster, trial: MakeTrial) -> None:
    connector = NomadConnector(
        nomad.connection(token="11111111-2222-3333-4444-555555555555"), prefix=PREFIX
    )
    with pytest.raises(ConnectorUnavailable) as caught:
        connector.poll([trial("true").handle])
    assert "token" in caught.value.hint and caught.value.retry_after >= 10
    assert "11111111" not in f"{caught.value.message}{caught.value.hint}"
    assert not connector.check().ok


@pytest.mark.parametrize(
    ("lacking", "act"),
    [
        ("register-job", lambda connector, one: connector.submit(one.spec)),
        ("parse-job", lambda connector, one: connector.submit(one.spec)),
        ("read-job", lambda connector, one: connector.poll([one.handle])),
        ("list-jobs", lambda connector, one: connector.sweep([POOL])),
        ("deregister-job", lambda connector, one: connector.cancel(one.handle)),
        ("purge-job", lambda connector, one: connector.forget(one.handle)),
        ("node", lambda connector, one: connector.room(POOL, POOL)),
    ],
)
def test_a_capability_that_the_token_lacks_is_named(
    nomad: NomadCluster,
    trial: MakeTrial,
    lacking: str,
    act: Callable[[NomadConnector, Trial], object],
) -> None:
    policy = BRIDGE_POLICY.replace(f'"{lacking}"', '"read-fs"')
    if lacking == "node":
        policy = policy.replace('node { policy = "read" }', "")
    if lacking == "deregister-job":  # purge-job is enough to stop a job
        policy = policy.replace('"purge-job"', '"read-fs"')
    token = nomad.token_with(policy)
    connector = NomadConnector(nomad.connection(token=token), prefix=PREFIX)
    one = trial("true")
    with pytest.raises(ConnectorUnavailable, match="Permission denied") as caught:
        act(connector, one)
    named = "node read" if lacking == "node" else lacking
    assert caught.value.hint == f"The token of nomad.token_file lacks {named}."
    assert one.look().state is Observed.GONE


def test_a_token_that_has_expired(nomad: NomadCluster, trial: MakeTrial) -> None:
    token = nomad.token_with(BRIDGE_POLICY, ExpirationTTL="1s")
    connector = NomadConnector(nomad.connection(token=token), prefix=PREFIX)
    one = trial("true")

    def refused() -> ConnectorUnavailable | None:
        try:
            connector.poll([one.handle])
        except ConnectorUnavailable as exc:
            return exc
        return None

    said = eventually(refused, timeout=10, every=0.1)
    assert said is not None
    assert "expired" in said.hint and "nomad.token_file" in said.hint


@pytest.mark.parametrize("place", ["namespace", "node pool"])
def test_a_group_whose_place_is_missing_loses_no_job(
    nomad: NomadCluster, trial: MakeTrial, place: str
) -> None:
    one = trial("true")
    if place == "namespace":
        changes: dict[str, object] = {"handle": Handle(one.handle.native_id, "g-nowhere")}
    else:
        changes = {"node_pool": "g-nowhere"}
    # The management token: ACLs would hide a missing namespace.
    connector = NomadConnector(nomad.connection(token=nomad.management_token), prefix=PREFIX)
    other = trial("true", connector=connector, **changes)
    with pytest.raises(ConnectorUnavailable, match=f"nonexistent {place}") as caught:
        connector.submit(other.spec)
    assert "namespace and node pool" in caught.value.hint


def test_a_certificate_of_somebody_else_is_not_trusted(
    nomad: NomadCluster, trial: MakeTrial, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    connector = NomadConnector(nomad.connection(ca_file=stranger.ca_file), prefix=PREFIX)
    with pytest.raises(ConnectorUnavailable, match="TLS failed") as caught:
        connector.poll([trial("true").handle])
    assert "nomad.ca_file" in caught.value.hint


def test_the_environment_does_not_change_whom_we_trust(
    nomad: NomadCluster, trial: MakeTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path, "stranger").ca_file))
    monkeypatch.setenv("NOMAD_ADDR", "https://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    connector = NomadConnector(nomad.connection(), prefix=PREFIX)
    one = trial("true")
    assert connector.poll([one.handle])[one.handle].state is Observed.GONE
    assert connector.sweep([POOL]) is not None


def test_without_our_certificate_nomad_does_not_talk(nomad: NomadCluster, trial: MakeTrial) -> None:
    connection = nomad.connection(client_cert=None, client_key=None)
    connector = NomadConnector(connection, prefix=PREFIX)
    with pytest.raises(ConnectorUnavailable):
        connector.poll([trial("true").handle])


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('task "stage-out"', 'task "upload"', 'task "stage-out" is missing'),
        ('job "bridge-job" {', 'job "bridge-job" [', "job.nomad.hcl"),
        ("attempts = 0", "attempts = 2", "restart"),
        ('hook    = "prestart"', 'hook    = "poststart"', "prestart"),
        ("cpu    = 1000", "cpu    = -1", "CPU"),
    ],
)
def test_a_faulty_job_file_is_named_and_no_job_is_lost(
    nomad: NomadCluster, trial: MakeTrial, tmp_path: Path, old: str, new: str, named: str
) -> None:
    shipped = Path("nomad-jobs/job.nomad.hcl").read_text()
    assert old in shipped
    job_file = tmp_path / "job.nomad.hcl"
    job_file.write_text(shipped.replace(old, new))
    connector = NomadConnector(nomad.connection(), prefix=PREFIX, job_file=job_file)
    one = trial("true")
    with pytest.raises(ConnectorUnavailable, match="job") as caught:
        connector.submit(one.spec)
    assert named in f"{caught.value.message} {caught.value.hint}"
    finding = connector.check().findings[-1]
    assert (finding.what, finding.ok) == ("job file", False)
    assert one.look().state is Observed.GONE


def test_an_operators_own_job_file_is_used(
    nomad: NomadCluster, trial: MakeTrial, tmp_path: Path
) -> None:
    shipped = Path("nomad-jobs/job.nomad.hcl").read_text()
    job_file = tmp_path / "own.nomad.hcl"
    job_file.write_text(shipped.replace('HOME = "/tmp"', 'HOME = "/opt"\n SITE = "here"'))
    connector = NomadConnector(nomad.connection(), prefix=PREFIX, job_file=job_file)
    one = trial("echo $SITE $HOME", connector=connector)
    connector.submit(one.spec)
    eventually(lambda: one.look().state is Observed.ENDED, timeout=20)
    assert one.file("joblog.txt") == "here /opt\n"
