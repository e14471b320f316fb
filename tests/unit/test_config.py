"""The configuration: what wins, and one line for everything that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bridge import log
from bridge.config import SETTINGS, Config, host_port, is_loopback, load
from bridge.errors import ConfigError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration file."""

    def write_file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text, "utf-8")
        return path

    return write_file


@pytest.fixture(autouse=True)
def own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_values", set())


def test_the_table_names_every_setting_once() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(names) == len(set(names)) > 40
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    bind = next(setting for setting in SETTINGS if setting.name == "server.bind")
    assert (bind.default, bind.env, bind.kind) == (
        "127.0.0.1:8080",
        "NOMAD_BRIDGE_SERVER_BIND",
        "text",
    )
    assert [s.name for s in SETTINGS if s.secret] == [
        "database.url",
        "nomad.token",
        "nomad.node_token",
    ]


def test_nothing_given_is_all_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(None, {})
    assert config.server == Config().server
    assert config.data_dir == tmp_path
    assert config.database.url == f"sqlite:///{tmp_path}/bridge.db"
    assert config.local.node_home == tmp_path / "node"


def test_file_under_environment_under_flag(write: Write) -> None:
    path = write("server: {threads: 2, bind: '127.0.0.1:1'}\nlog: {level: debug}")
    environ = {"NOMAD_BRIDGE_SERVER_THREADS": "3", "NOMAD_BRIDGE_SERVER_BIND": "127.0.0.1:2"}
    config = load(path, environ, {"server.threads": 4, "server.bind": None})
    assert (config.server.threads, config.server.bind) == (4, "127.0.0.1:2")
    assert config.log.level == "debug"


def test_text_from_the_environment_becomes_each_type() -> None:
    config = load(
        None,
        {
            "NOMAD_BRIDGE_LOG_JSON": "true",
            "NOMAD_BRIDGE_QUEUE_FEED_INTERVAL_S": "0.25",
            "NOMAD_BRIDGE_CONNECTORS": "local, nomad",
            "NOMAD_BRIDGE_NOMAD_ADDRESS": "https://nomad.example:4646",
            "NOMAD_BRIDGE_NOMAD_CA_FILE": "/ca.pem",
            "NOMAD_BRIDGE_LOCAL_NODE_HOME": "",
            "NOMAD_BRIDGE_PORT": "tcp://set-by-an-orchestrator",
        },
    )
    assert config.log.json is True
    assert config.queue.feed_interval_s == 0.25
    assert config.connectors == ("local", "nomad")
    assert config.nomad.ca_file == Path("/ca.pem")


def test_relative_paths_count_from_the_file_they_stand_in(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    path = write("data_dir: data\nnomad: {ca_file: ca.pem}")
    config = load(path, {"NOMAD_BRIDGE_NOMAD_JOB_FILE": "job.hcl"})
    assert config.data_dir == tmp_path / "data"
    assert config.nomad.ca_file == tmp_path / "ca.pem"
    assert config.nomad.job_file == elsewhere / "job.hcl"


def test_empty_files_sections_and_values_mean_not_given(write: Write) -> None:
    assert load(write(""), {}).server == Config().server
    assert load(write("server:\nlog:\n  level:\n"), {}).server == Config().server


@pytest.mark.parametrize(
    ("text", "key", "remedy"),
    [
        ("server: {bidn: x}", "server.bidn", "did you mean server.bind?"),
        ("bind: x", "bind", "did you mean server.bind?"),
        ("wholly_other: 1", "wholly_other", "see config.example.yaml"),
        ("server: {1: 2}", "server.1", "unknown key"),
        ("server: 3", "server", "put its keys below it"),
        ("- server", "keys and values", "see config.example.yaml"),
        ("server: {threads: '8'}", "server.threads", "give a whole number, for example 8"),
        ("server: {threads: 1.5}", "server.threads", "give a whole number"),
        ("server: {threads: true}", "server.threads", "give a whole number"),
        ("server: {threads: 0}", "server.threads", ">= 1"),
        ("server: {bind: localhost}", "server.bind", "HOST:PORT"),
        ("server: {bind: '127.0.0.1:70000'}", "server.bind", "HOST:PORT"),
        ("server: {bind: '::1:80'}", "server.bind", "brackets"),
        ("server: {public_url: example.org}", "server.public_url", "https://"),
        ("log: {level: loud}", "log.level", "give debug or info or warning or error"),
        ("log: {json: 1}", "log.json", "give true or false"),
        ("local: {node_home: 3}", "local.node_home", "give a path"),
        ("connectors: []", "connectors", "length >= 1"),
        ("connectors: [slurm]", "connectors", "local or nomad"),
        ("connectors: local", "connectors", "give a list"),
        ("connectors: [nomad]", "connectors", "set nomad.address"),
        ("nomad: {client_key: k}", "nomad.client_key", "set both or none"),
        ("nomad: {token: abc, token_file: f}", "nomad.token", "remove one"),
        ("nomad: {node_token: abc, node_token_file: f}", "nomad.node_token", "remove one"),
        ("nomad: {ca_cert_file: c}", "nomad.ca_cert_file", "set both or none"),
        ("nomad: {node_key_file: k}", "nomad.node_key_file", "set both or none"),
        (
            "nomad: {ca_cert_file: c, ca_key_file: k, node_cert_file: n, node_key_file: m}",
            "nomad.node_cert_file",
            "remove one",
        ),
        ("nomad: {servers: [nomad.example]}", "nomad.servers", "HOST:PORT"),
        ("nomad: {ui_url: nomad.example}", "nomad.ui_url", "https://"),
        ("nodes: {certificate_days: 31}", "nodes.certificate_days", "<= 30"),
        ("server: {bind: '0.0.0.0:80'}", "server.bind", "allow_remote_process: true"),
        ("server: [", "line 1", "correct it"),
        ("log:\n  level: info\n  level: debug", "line 3", "'level' is given twice"),
        ("[1]: 2", "line 1", "correct it"),
        ("a: \x01", "YAML", "correct it"),
        ('log: {level: "a\\nb"}', "log.level", "give debug"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_key_and_remedy(
    write: Write, text: str, key: str, remedy: str
) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    line = str(caught.value)
    assert line.startswith(str(path))
    assert key in line
    assert remedy in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("NOMAD_BRIDGE_SERVER_THREADS", "many", "give a whole number"),
        ("NOMAD_BRIDGE_SERVER_BIDN", "x", "did you mean NOMAD_BRIDGE_SERVER_BIND?"),
        ("NOMAD_BRIDGE_LOG_JSON", "maybe", "give true or false"),
        ("NOMAD_BRIDGE_DATA_DIR", "", "give a path"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=f"^environment: {name}: ") as caught:
        load(None, {name: value})
    assert remedy in str(caught.value)


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^command line: server\.bind: .*HOST:PORT"):
        load(None, {}, {"server.bind": "80"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load(tmp_path / "nothing.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, {})
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8 text"):
        load(tmp_path / "latin.yaml", {})


def test_yaml_makes_plain_values_only(write: Write) -> None:
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load(write("data_dir: !!python/object/apply:os.getcwd []"), {})


@pytest.mark.parametrize(
    "text",
    [
        "{runtime: docker}",
        "{runtime: process, allow_remote_process: true}",
    ],
)
def test_others_are_let_in_by_name_only(write: Write, text: str) -> None:
    config = load(write(f"server: {{bind: '0.0.0.0:80'}}\nlocal: {text}"), {})
    assert config.server.bind == "0.0.0.0:80"


def test_secrets_are_shown_nowhere(write: Write) -> None:
    text = "nomad: {token: s3same-open}\ndatabase: {url: 'postgresql://u:swordfish@h/d'}"
    config = load(write(text), {})
    assert config.nomad.token == "s3same-open"
    shown = repr(config) + log.redacted("token=s3same-open password=swordfish")
    assert "s3same" not in shown
    assert "swordfish" not in shown


def test_a_wrong_secret_is_not_repeated(write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write("database: {url: 'mysql://u:swordfish@h/d'}"), {})
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_loopback_addresses(bind: str, expected: tuple[str, int]) -> None:
    assert host_port(bind) == expected
    assert is_loopback(bind)


@pytest.mark.parametrize("bind", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_other_addresses(bind: str) -> None:
    assert not is_loopback(bind)


@pytest.mark.parametrize("bind", ["", "x", "x:", ":1", "x:y", "x:-1", "[::1:1", "x:²"])
def test_no_addresses(bind: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        host_port(bind)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().server.bind = "x"  # type: ignore[misc]
    assert issubclass(Config, msgspec.Struct)


@pytest.mark.parametrize("host", ["https://ghcr.io", "ghcr.io/lab", "hub", ""])
def test_registries_are_hosts(host: str) -> None:
    with pytest.raises(ConfigError, match=r"images\.registries: .* of a registry"):
        load(None, {}, {"images.registries": ("ghcr.io", host)})


def test_any_registry() -> None:
    flags = {"images.registries": ("*", "registry:5000", "localhost")}
    assert load(None, {}, flags).images.registries == ("*", "registry:5000", "localhost")
