"""``nomad-bridge nomad setup`` and ``check`` on a real cluster that nobody prepared."""

from __future__ import annotations

import json
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bridge.cli.main import cli
from bridge.connectors.nomad.check import _impossible
from bridge.connectors.nomad.connector import NomadConnector
from bridge.connectors.nomad.setup import BRIDGE_POLICY, NODES_POLICY, Place
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import Handle
from tests.support import needs
from tests.support.certificates import Authority
from tests.support.nomad_cluster import POOL, NomadCluster, cluster
from tests.support.poll import free_port

Run = Callable[..., Result]


def configured(nomad: NomadCluster, folder: Path) -> Path:
    file = folder / "config.yaml"
    file.write_text(
        f"""
data_dir: {folder}
connectors: [nomad]
storage:
  embedded: false
queue:
  upload_limit_s: 3600  # as long as Nomad remembers by default, or less
nomad:
  address: {nomad.address}
  ca_file: {nomad.ca_file}
  client_cert: {nomad.bridge_pair.cert}
  client_key: {nomad.bridge_pair.key}
  token_file: {folder}/nomad.token
  node_token_file: {folder}/nomad-nodes.token
  servers: ["{nomad.servers[0]}"]
  ca_cert_file: {nomad.authority.ca_file}
  ca_key_file: {nomad.authority.key_file}
"""
    )
    return file


@pytest.fixture
def config(nomad: NomadCluster, tmp_path: Path) -> Path:
    return configured(nomad, tmp_path)


@pytest.fixture
def run(config: Path, nomad: NomadCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    def run(*words: str, token: str | None = nomad.management_token) -> Result:
        env = {"NOMAD_TOKEN": token}
        return CliRunner().invoke(cli, [*words, "--config", str(config)], env=env)

    yield run
    for policy in (BRIDGE_POLICY, NODES_POLICY):
        nomad.call("DELETE", f"acl/policy/{policy}")


def steps(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    return {step["what"]: step["did"] for step in json.loads(result.stdout)["steps"]}


def findings(result: Result) -> dict[str, Any]:
    return {one["what"]: one for one in json.loads(result.stdout)["findings"]}


def wrong(result: Result) -> dict[str, Any]:
    return {what: one for what, one in findings(result).items() if not one["ok"]}


def state(nomad: NomadCluster) -> Any:
    lists = ("namespaces", "node/pools", "acl/policies", "acl/tokens")
    return [nomad.call("GET", path) for path in lists]


@pytest.fixture
def group() -> str:
    return f"chem-{uuid.uuid4().hex[:6]}"


def things(group: str) -> tuple[str, ...]:
    return (
        f"namespace g-{group}",
        f"node pool g-{group}",
        "policy nomad-bridge",
        "policy nomad-bridge-nodes",
        "token for nomad-bridge",
        "token for nomad-bridge-nodes",
    )


def test_setup_makes_what_is_missing_once(
    run: Run, nomad: NomadCluster, tmp_path: Path, group: str
) -> None:
    before = state(nomad)
    dry = run("nomad", "setup", group, "--dry-run", "--json")
    assert steps(dry) == dict.fromkeys(things(group), "made")
    assert state(nomad) == before and not list(tmp_path.glob("*.token"))
    told = run("nomad", "setup", group, "--dry-run").stdout
    assert "would be made\tpolicy nomad-bridge\t" in told

    made = run("nomad", "setup", group, "--json")
    assert steps(made) == dict.fromkeys(things(group), "made")
    after = state(nomad)
    files = [tmp_path / "nomad.token", tmp_path / "nomad-nodes.token"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    tokens = [file.read_text() for file in files]
    assert not [token for token in tokens if token.strip() in made.output]
    assert steps(run("nomad", "setup", group, "--json")) == dict.fromkeys(things(group), "kept")
    assert state(nomad) == after and [file.read_text() for file in files] == tokens


def test_another_group_later_takes_nothing_from_the_first(
    run: Run, nomad: NomadCluster, group: str
) -> None:
    steps(run("nomad", "setup", group, "--json"))
    again = steps(run("nomad", "setup", f"{group}-2", "--json"))
    assert (again[f"namespace g-{group}-2"], again["policy nomad-bridge"]) == ("made", "changed")
    assert again["token for nomad-bridge"] == "kept"
    rules = nomad.call("GET", f"acl/policy/{BRIDGE_POLICY}")["Rules"]
    assert f'namespace "g-{group}"' in rules and f'namespace "g-{group}-2"' in rules


def test_a_token_that_nomad_does_not_know_any_more_is_made_anew(
    run: Run, tmp_path: Path, group: str
) -> None:
    steps(run("nomad", "setup", group, "--json"))
    (tmp_path / "nomad.token").write_text(f"{uuid.uuid4()}\n")
    assert steps(run("nomad", "setup", group, "--json"))["token for nomad-bridge"] == "changed"
    assert run("nomad", "check").exit_code == 0


@pytest.mark.parametrize("token", [None, "bridge", "unknown"])
def test_setup_needs_a_management_token(
    run: Run, nomad: NomadCluster, token: str | None, group: str
) -> None:
    before = state(nomad)
    given = {None: None, "bridge": nomad.bridge_token, "unknown": str(uuid.uuid4())}[token]
    result = run("nomad", "setup", group, token=given)
    assert result.exit_code in (2, 5)
    assert "NOMAD_TOKEN" in result.output
    assert given is None or given not in result.output
    assert state(nomad) == before


def test_the_management_token_stays_nowhere(
    run: Run, nomad: NomadCluster, tmp_path: Path, group: str
) -> None:
    steps(run("nomad", "setup", group, "--json"))
    run("nomad", "check")
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert kept and not [data for data in kept if nomad.management_token.encode() in data]


@pytest.fixture
def prepared(run: Run, group: str) -> str:
    """A group that is set up and added; its name."""
    steps(run("nomad", "setup", group, "--json"))
    added = run("groups", "add", group, "--admin", "root", "--connector", "nomad")
    assert added.exit_code == 0, added.output
    return group


def test_the_two_tokens_suffice_and_no_more(
    run: Run, nomad: NomadCluster, tmp_path: Path, prepared: str
) -> None:
    result = run("nomad", "check", "--json")
    assert not wrong(result) and result.exit_code == 0
    assert findings(result)[f"jobs of {prepared}"]["ok"]
    assert nomad.call("GET", "jobs", namespace=f"g-{prepared}") == []
    token = (tmp_path / "nomad.token").read_text().strip()
    connector = NomadConnector(nomad.connection(token=token), prefix="b-", node_token=token)
    waits = _impossible("b-waits", Place(prepared, f"g-{prepared}", f"g-{prepared}"), "global")
    connector._client.register(waits)
    try:
        assert connector.inhabited() == {f"g-{prepared}"}
    finally:
        connector.forget(Handle("b-waits", f"g-{prepared}"))
    with pytest.raises(ConnectorUnavailable, match="Permission denied"):
        connector.sweep([POOL])  # the namespace of another group
    with pytest.raises(ConnectorUnavailable, match="Permission denied"):
        connector.set_eligible(nomad.node()["ID"], eligible=False)


def test_without_a_token_that_may_look_the_servers_are_not_said_to_be_fine(
    run: Run, prepared: str
) -> None:
    result = run("nomad", "check", "--json", token=None)
    assert list(wrong(result)) == ["servers' configuration"] and result.exit_code == 1
    assert "NOMAD_TOKEN" in wrong(result)["servers' configuration"]["remedy"]


CAPABILITIES = (
    "register-job",
    "deregister-job",
    "purge-job",
    "read-job",
    "list-jobs",
    "parse-job",
)


# Who may purge may also stop, so that the lack of deregister-job alone does no harm.
@pytest.mark.parametrize("lacking", [*CAPABILITIES[:1], *CAPABILITIES[2:], "node read"])
def test_each_right_that_the_first_token_lacks_is_named(
    run: Run, nomad: NomadCluster, tmp_path: Path, prepared: str, lacking: str
) -> None:
    granted = ", ".join(f'"{one}"' for one in CAPABILITIES if one != lacking)
    nodes = "deny" if lacking == "node read" else "read"
    policy = (
        f'namespace "g-{prepared}" {{ capabilities = [{granted}] }} node {{ policy = "{nodes}" }}'
    )
    (tmp_path / "nomad.token").write_text(nomad.token_with(policy))
    result = run("nomad", "check", "--json")
    assert result.exit_code == 1
    said = [one["detail"] + one["remedy"] for one in wrong(result).values()]
    assert [text for text in said if lacking in text], said


def test_what_is_missing_or_wrong_around_it_is_found(
    run: Run, nomad: NomadCluster, config: Path, tmp_path: Path, prepared: str
) -> None:
    stranger = Authority(tmp_path, "stranger", lifetime_days=3)
    (tmp_path / "nomad-nodes.token").write_text(nomad.bridge_token)
    added = run("groups", "add", f"{prepared}-2", "--admin", "root", "--connector", "nomad")
    assert added.exit_code == 0
    config.write_text(
        config.read_text()
        .replace(str(nomad.authority.key_file), str(stranger.key_file))
        .replace(f"ca_cert_file: {nomad.ca_file}", f"ca_cert_file: {stranger.ca_file}")
        .replace(nomad.servers[0], f"127.0.0.1:{free_port()}")
    )
    found = wrong(run("nomad", "check", "--json"))
    assert "node write" in found["second token"]["remedy"]
    assert "nomad setup" in found[f"jobs of {prepared}-2"]["remedy"]
    assert "expires in " in found["nomad.ca_cert_file"]["detail"]
    assert "tls.ca_file" in found["trust"]["remedy"]
    assert [what for what in found if what.startswith("server 127.0.0.1:")]
    assert f"jobs of {prepared}" not in found


def test_a_nomad_that_is_away_is_said_and_the_rest_is_left(run: Run, config: Path) -> None:
    for name in ("nomad.token", "nomad-nodes.token"):
        (config.parent / name).write_text("x")
    address = next(line for line in config.read_text().splitlines() if "address" in line)
    away = f"  address: https://127.0.0.1:{free_port()}"
    config.write_text(config.read_text().replace(address, away))
    result = run("nomad", "check", "--json")
    assert list(wrong(result)) == ["reachable"] and result.exit_code == 1


def test_servers_that_let_anybody_in_and_forget_too_soon(tmp_path: Path) -> None:
    needs.need("nomad")
    weak = {
        "client_introduction": {"enforcement": "warn"},
        "job_gc_threshold": "5m",
        "batch_eval_gc_threshold": "1h",
        "enable_event_broker": False,
    }
    with cluster(client=False, server=weak) as nomad:
        config = configured(nomad, tmp_path)
        env = {"NOMAD_TOKEN": nomad.management_token}
        made = CliRunner().invoke(cli, ["nomad", "setup", "lab", "--config", str(config)], env=env)
        assert made.exit_code == 0, made.output
        check = ["nomad", "check", "--json", "--config", str(config)]
        found = wrong(CliRunner().invoke(cli, check, env=env))
    assert set(found) == {"introduction of machines", "event stream", "garbage collection"}
    assert "job_gc_threshold is 5m" in found["garbage collection"]["detail"]
    assert "batch" not in found["garbage collection"]["detail"]
    assert "queue.upload_limit_s" in found["garbage collection"]["remedy"]
