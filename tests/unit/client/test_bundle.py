from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

import bridge
from bridge.client import bundle
from bridge.client.bundle import Contents
from bridge.errors import BridgeError, ConfigError
from bridge.process import run
from tests.support import node_files
from tests.support.certificates import Authority

SECRET = "nbcompute_" + "c" * 52
HASH = "a" * 64
PINS = f"""\
# Downloads
nomad 2.0.5 {HASH} amd64 https://releases.example/nomad_amd64.zip
nomad 2.0.5 - arm64 https://releases.example/nomad_arm64.zip
"""


def _contents(
    folder: Path,
    *,
    url: str = "https://bridge.example",
    pins: str = PINS,
    architectures: tuple[str, ...] = ("amd64",),
    ca_file: Path | None = None,
) -> Contents:
    return bundle.contents(
        url=url,
        group_token="abcdefgh",
        pins_text=pins,
        architectures=architectures,
        ca_file=ca_file,
        source=node_files.scripts(folder),
    )


def _unpacked(data: bytes) -> dict[str, tuple[int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {
            member.name: (member.mode, (tar.extractfile(member) or io.BytesIO()).read())
            for member in tar
        }


def test_what_is_in_it(tmp_path: Path) -> None:
    contents = _contents(tmp_path)
    found = _unpacked(bundle.pack(contents, SECRET))
    assert {name: mode for name, (mode, _) in found.items()} == {
        "nomadrun": 0o755,
        "nomadrun/bin": 0o755,
        "nomadrun/lib": 0o755,
        "nomadrun/systemd": 0o755,
        "nomadrun/systemd/user": 0o755,
        "nomadrun/README.md": 0o644,
        "nomadrun/bin/stage": 0o755,
        "nomadrun/get-started.sh": 0o755,
        "nomadrun/lib/store.sh": 0o644,
        "nomadrun/node.conf": 0o600,
        "nomadrun/pins": 0o644,
        "nomadrun/run.sh": 0o755,
        "nomadrun/systemd/user/nomad.service": 0o644,
    }
    assert found["nomadrun/node.conf"][1].decode() == (
        "BRIDGE_URL=https://bridge.example\n"
        "BRIDGE_GROUP_TOKEN=abcdefgh\n"
        f"BRIDGE_COMPUTE_SECRET={SECRET}\n"
        f"BRIDGE_BUNDLE={contents.version}\n"
    )
    assert found["nomadrun/pins"][1].decode() == PINS.splitlines(keepends=True)[1]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = bundle.pack(_contents(tmp_path / "first"), SECRET)
    other = tmp_path / "other"
    _contents(other)
    # What this machine adds to the files, and who unpacks them where, is left out.
    for file in other.rglob("*"):
        if file.is_file():
            os.utime(file, (1, 1))
            file.chmod(0o600)
    (other / "lib" / ".store.sh.swp").write_text("half")
    (other / "lib" / "store.sh~").write_text("old")
    (other / "lib" / "__pycache__").mkdir()
    (other / "lib" / "__pycache__" / "x.pyc").write_text("cache")
    assert bundle.pack(_contents_again(other), SECRET) == first
    (other / "run.sh").write_text("#!/bin/sh\necho changed\n")
    changed = _contents_again(other)
    assert changed.version != _contents(tmp_path / "first").version
    assert bundle.pack(changed, SECRET) != first


def _contents_again(folder: Path) -> Contents:
    return bundle.contents(
        url="https://bridge.example",
        group_token="abcdefgh",
        pins_text=PINS,
        architectures=("amd64",),
        source=folder,
    )


def test_tar_unpacks_it_without_a_word(tmp_path: Path) -> None:
    archive = tmp_path / "nomadrun.tar"
    archive.write_bytes(bundle.pack(_contents(tmp_path / "scripts"), SECRET))
    done = run(["tar", "-xf", archive], timeout=30, cwd=tmp_path)
    assert done == (0, "", "")
    assert (tmp_path / "nomadrun" / "node.conf").stat().st_mode & 0o777 == 0o600
    started = run([tmp_path / "nomadrun" / "get-started.sh"], timeout=30)
    assert started.stdout == "prepared\n"


def test_the_version_names_program_and_scripts(tmp_path: Path) -> None:
    contents = _contents(tmp_path)
    assert contents.version.startswith(f"{bridge.__version__}+")
    elsewhere = bundle.contents(
        url="https://other.example",
        group_token="other",
        pins_text=PINS.replace(HASH, "b" * 64),
        architectures=("amd64",),
        source=tmp_path,
    )
    assert elsewhere.version == contents.version


@pytest.mark.parametrize("architectures", [("arm64",), ("amd64", "arm64")])
def test_a_download_without_a_hash_is_refused(
    tmp_path: Path, architectures: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"not known of nomad \(arm64\)") as caught:
        _contents(tmp_path, architectures=architectures)
    assert "nodes pins --from" in caught.value.hint


def test_an_architecture_without_downloads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No download is pinned for arm64"):
        _contents(tmp_path, pins=PINS.splitlines()[1], architectures=("arm64",))


def test_a_value_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="BRIDGE_URL"):
        _contents(tmp_path, url="https://bridge.example\nBRIDGE_URL=http://thief.example")
    with pytest.raises(ConfigError, match="BRIDGE_COMPUTE_SECRET"):
        bundle.pack(_contents(tmp_path), "")


def test_the_certificate_alone_is_taken(tmp_path: Path) -> None:
    text = Authority(tmp_path).ca_file.read_text()
    (tmp_path / "chatty.pem").write_text(f"Subject: CN=somebody\n{text}\n")
    contents = _contents(tmp_path / "scripts", ca_file=tmp_path / "chatty.pem")
    assert _unpacked(bundle.pack(contents, SECRET))["nomadrun/ca.pem"] == (0o644, text.encode())


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("bridge.example")
    bad = tmp_path / "bad.pem"
    for text, says in (
        (pair.cert.read_text() + pair.key.read_text(), "holds a private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no certificate"),
        ("# a page\n", "no certificate"),
    ):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=says):
            bundle.certificates(bad)
    with pytest.raises(ConfigError, match="cannot be read"):
        bundle.certificates(tmp_path / "nothing.pem")


def test_an_incomplete_installation_is_said(tmp_path: Path) -> None:
    _contents(tmp_path)
    (tmp_path / "run.sh").unlink()
    with pytest.raises(BridgeError, match=r"run\.sh of node-setup is missing"):
        _contents_again(tmp_path)
