from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from bridge.client import bundle
from bridge.models import pin as lists
from tests.integration.cli.conftest import Run
from tests.support import node_files
from tests.support.certificates import Authority
from tests.support.fake_service import COMPUTE_SECRET, SECRET, FakeService

PINS = f"nomad 2.0.5 {'a' * 64} amd64 https://releases.example/nomad.zip\n"
UNKNOWN = PINS.replace("a" * 64, "-")
CHECK = "/v1/compute-secret/check"
ROTATE = "/v1/compute-secret/rotate"


@pytest.fixture(autouse=True)
def _installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installation with small scripts and a filled list of pins."""
    root = tmp_path / "installed"
    node_files.scripts(root / "node-setup")
    (root / "node-setup" / "pins").write_text(PINS)
    monkeypatch.setattr("bridge.resources.path", lambda name: root / name)


@pytest.fixture(name="secret")
def _secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BRIDGE_COMPUTE_SECRET", COMPUTE_SECRET)
    return COMPUTE_SECRET


def _settings(file: str = "nomadrun.tar") -> dict[str, str]:
    with tarfile.open(file) as tar:
        conf = tar.extractfile("nomadrun/node.conf")
        assert conf is not None
        lines = conf.read().decode().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_with_the_secret_of_the_environment(run: Run, fake: FakeService, secret: str) -> None:
    done = run("nodes", "bundle")
    assert done.exit_code == 0, done.output
    assert _settings() == {
        "BRIDGE_URL": fake.url,
        # Of the group whose secret it is, whatever token the credentials have.
        "BRIDGE_GROUP_TOKEN": fake.group_token,
        "BRIDGE_COMPUTE_SECRET": secret,
        "BRIDGE_BUNDLE": bundle.version(),
    }
    assert Path("nomadrun.tar").stat().st_mode & 0o777 == 0o600
    assert fake.requests[-1] == ("POST", CHECK, {"secret": secret})
    assert "this machine only" in done.stderr
    assert secret not in done.output + done.stderr


def test_with_the_secret_of_the_credentials(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "credentials.env").open("a") as file:
        file.write(f"BRIDGE_COMPUTE_SECRET={COMPUTE_SECRET}\n")
    assert run("nodes", "bundle", "--out", "a.tar").exit_code == 0
    # Said for this one command, it wins over what lies in a file.
    monkeypatch.setenv("BRIDGE_COMPUTE_SECRET", "nbcompute_" + "z" * 52)
    assert run("nodes", "bundle", "--out", "b.tar").exit_code == 3


def test_with_the_secret_of_standard_input(run: Run) -> None:
    done = run("nodes", "bundle", "--secret-stdin", input=f"{COMPUTE_SECRET}\n")
    assert done.exit_code == 0
    assert _settings()["BRIDGE_COMPUTE_SECRET"] == COMPUTE_SECRET


@pytest.mark.parametrize(
    ("given", "says"),
    [("", "is missing"), (SECRET, "is an API secret"), ("hunter2", "does not look like one")],
)
def test_what_is_no_compute_secret_is_sent_nowhere(
    run: Run, fake: FakeService, given: str, says: str
) -> None:
    done = run("nodes", "bundle", "--secret-stdin", input=given)
    assert done.exit_code == 2
    assert says in done.stderr
    assert fake.count("POST", CHECK) == 0
    assert not given or given not in done.stderr


def test_a_wrong_secret_makes_no_bundle(run: Run, fake: FakeService, secret: str) -> None:
    fake.compute_secret = "nbcompute_" + "b" * 52
    done = run("nodes", "bundle")
    assert done.exit_code == 3
    assert "no longer" in done.stderr and "--rotate" in done.stderr
    assert not Path("nomadrun.tar").exists()


def test_it_overwrites_only_by_force(run: Run, fake: FakeService, secret: str) -> None:
    Path("nomadrun.tar").write_text("precious")
    done = run("nodes", "bundle", "--rotate")
    assert done.exit_code == 2
    assert "--force" in done.stderr
    # The secret that the nodes have is still the group's.
    assert fake.count("POST", ROTATE) == 0
    assert Path("nomadrun.tar").read_text() == "precious"
    assert run("nodes", "bundle", "--force").exit_code == 0
    first = Path("nomadrun.tar").read_bytes()
    assert run("nodes", "bundle", "--force").exit_code == 0
    assert Path("nomadrun.tar").read_bytes() == first


def test_with_a_new_secret(run: Run, fake: FakeService) -> None:
    done = run("nodes", "bundle", "--rotate", "--overlap", "2h", "--json")
    assert json.loads(done.stdout)["rotated"] is True
    assert ("POST", ROTATE, {"overlap_s": 7200}) in fake.requests
    assert _settings()["BRIDGE_COMPUTE_SECRET"] == fake.compute_secret
    assert fake.compute_secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rotate", "--secret-stdin"],
        ["--overlap", "0"],
        ["--url", "ftp://x"],
        ["--ca", "none.pem"],
    ],
)
def test_usage(run: Run, fake: FakeService, secret: str, arguments: list[str]) -> None:
    assert run("nodes", "bundle", *arguments).exit_code == 2
    assert not Path("nomadrun.tar").exists()


def test_an_open_pin_is_refused_before_anything_is_rotated(
    run: Run, fake: FakeService, tmp_path: Path
) -> None:
    Path("pins").write_text(UNKNOWN)
    done = run("nodes", "bundle", "--rotate", "--pins", "pins")
    assert done.exit_code == 2
    assert "nomad (amd64)" in done.stderr
    assert "nodes pins --from" in done.stderr
    assert fake.count("POST", ROTATE) == 0


def test_the_address_and_the_ca_of_nodes(run: Run, secret: str) -> None:
    ca = Authority(Path()).ca_file
    done = run("nodes", "bundle", "--url", "https://bridge.example/", "--ca", str(ca))
    assert done.exit_code == 0
    assert _settings()["BRIDGE_URL"] == "https://bridge.example"
    with tarfile.open("nomadrun.tar") as tar:
        packed = tar.extractfile("nomadrun/ca.pem")
        assert packed is not None
        assert packed.read() == ca.read_bytes()


def test_an_address_without_tls_is_said(run: Run, secret: str) -> None:
    done = run("nodes", "bundle", "--url", "http://bridge.example")
    assert done.exit_code == 0
    assert "can be read on its way" in done.stderr


def test_no_key_of_the_storage_is_in_it(run: Run, secret: str, tmp_path: Path) -> None:
    run("nodes", "bundle")
    packed = Path("nomadrun.tar").read_bytes()
    known = (line.split("=") for line in (tmp_path / "credentials.env").read_text().splitlines())
    secrets = {name: value for name, value in known if "S3" in name or "API" in name}
    assert len(secrets) == 4
    assert not [name for name, value in secrets.items() if value.encode() in packed]


def test_pins_are_filled_and_packed(run: Run, secret: str) -> None:
    Path("open").write_text(UNKNOWN)
    (pin,) = lists.parse(UNKNOWN)
    Path("downloads").mkdir()
    Path("downloads", pin.file_name).write_bytes(node_files.download(pin))
    done = run("nodes", "pins", "--from", "downloads", "--pins", "open")
    assert done.exit_code == 0
    assert done.stdout.split("\t")[:3] == ["nomad", "2.0.5", "amd64"]
    assert done.stdout.rstrip().endswith("nothing to compare with")
    assert run("nodes", "bundle", "--pins", "downloads/pins").exit_code == 0
    with tarfile.open("nomadrun.tar") as tar:
        packed = tar.extractfile("nomadrun/pins")
        assert packed is not None
        assert packed.read() == Path("downloads", "pins").read_bytes()


def test_pins_from_a_folder_without_downloads(run: Run) -> None:
    Path("downloads").mkdir()
    done = run("nodes", "pins", "--from", "downloads")
    assert done.exit_code == 2
    assert "nomad.zip" in done.stderr
    assert not Path("downloads", "pins").exists()


def test_pins_as_json_elsewhere_and_by_force(run: Run) -> None:
    Path("open").write_text(UNKNOWN)
    (pin,) = lists.parse(UNKNOWN)
    Path(pin.file_name).write_bytes(node_files.download(pin))
    arguments = ["nodes", "pins", "--from", ".", "--pins", "open", "--out", "list", "--json"]
    shown = json.loads(run(*arguments).stdout)
    assert (shown["file"], shown["pins"][0]["pin"]["name"]) == ("list", "nomad")
    assert run(*arguments).exit_code == 2
    assert run(*arguments, "--force").exit_code == 0
