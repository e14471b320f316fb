"""A group's bundle, made against a whole service."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.models import pin as lists
from bridge.resources import path
from tests.support import node_files
from tests.support.service import RunningService, running


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose compute secret may be rotated."""
    with running(tmp_path_factory.mktemp("bundle") / "home", "--runtime", "process") as service:
        yield service


@pytest.fixture(scope="module")
def pins(own: RunningService, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shipped list, filled in from a folder of downloads."""
    folder = tmp_path_factory.mktemp("downloads")
    wanted = lists.parse(path("node-setup/pins").read_text())
    for pin in wanted:
        (folder / pin.architecture).mkdir(exist_ok=True)
        if pin.sha256 is None:
            (folder / pin.architecture / pin.file_name).write_bytes(node_files.download(pin))
    done = own.command("nodes", "pins", "--from", str(folder))
    assert done.returncode == 0, done.stderr
    assert all(pin.sha256 for pin in lists.parse((folder / "pins").read_text()))
    return str(folder / "pins")


def _make(
    own: RunningService, pins: str, out: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    return own.command("nodes", "bundle", "--pins", pins, "--out", str(out), *more)


def _settings(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as tar:
        conf = tar.extractfile("nomadrun/node.conf")
        assert conf is not None
        lines = conf.read().decode().splitlines()
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_shipped_list_alone_makes_no_bundle(own: RunningService, tmp_path: Path) -> None:
    done = own.command("nodes", "bundle", "--out", str(tmp_path / "a.tar"))
    assert done.returncode == 2
    assert "nodes pins --from" in done.stderr


def test_from_secret_to_rotation(own: RunningService, pins: str, tmp_path: Path) -> None:
    known = own.credentials
    first, again = tmp_path / "first.tar", tmp_path / "again.tar"
    for out in (first, again):
        done = _make(own, pins, out, "--architecture", "amd64", "--architecture", "arm64")
        assert done.returncode == 0, done.stderr
    assert first.read_bytes() == again.read_bytes()
    settings = _settings(first)
    assert settings["BRIDGE_COMPUTE_SECRET"] == known["BRIDGE_COMPUTE_SECRET"]
    assert settings["BRIDGE_GROUP_TOKEN"] == known["BRIDGE_GROUP_TOKEN"]
    packed = first.read_bytes().decode("utf-8", "replace")
    private = {name: known[name] for name in known if "S3_" in name and "SERVER" not in name}
    assert len(private) == 4
    for name in ("BRIDGE_API_SECRET", "BRIDGE_ADMIN_SECRET", *private):
        assert known[name] not in packed, name

    done = _make(own, pins, tmp_path / "rotated.tar", "--rotate", "--overlap", "0")
    assert done.returncode == 0, done.stderr
    new = _settings(tmp_path / "rotated.tar")["BRIDGE_COMPUTE_SECRET"]
    assert new != known["BRIDGE_COMPUTE_SECRET"]
    assert new not in done.stdout + done.stderr
    # The one in the credentials has ended; the new one is known.
    refused = _make(own, pins, tmp_path / "late.tar", "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stderr)["error"] == "unauthenticated"
    own.use(BRIDGE_COMPUTE_SECRET=new)
    assert _make(own, pins, tmp_path / "late.tar").returncode == 0


def test_only_admins_check_secrets(own: RunningService, pins: str, tmp_path: Path) -> None:
    known = own.credentials
    own.use(BRIDGE_ADMIN_SECRET=known["BRIDGE_API_SECRET"])
    try:
        assert _make(own, pins, tmp_path / "member.tar").returncode == 3
    finally:
        own.use(BRIDGE_ADMIN_SECRET=known["BRIDGE_ADMIN_SECRET"])
    assert not (tmp_path / "member.tar").exists()


def test_a_group_whose_jobs_run_here_has_no_nodes(own: RunningService) -> None:
    done = own.command("nodes", "list", "--json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["error"] == "conflict"
