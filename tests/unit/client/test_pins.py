from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bridge.client import pins
from bridge.errors import ConfigError
from bridge.models import pin as lists
from bridge.models.pin import Pin
from tests.support import node_files

URL = "https://downloads.example/linux"
NOMAD = Pin("nomad", "2.0.5", None, "amd64", f"{URL}/nomad_amd64.zip")
# Docker's archives are called the same for both architectures.
DOCKER = Pin("docker", "28.5.2", None, "amd64", f"{URL}/x86_64/docker-28.5.2.tgz")
DOCKER_ARM = Pin("docker", "28.5.2", None, "arm64", f"{URL}/aarch64/docker-28.5.2.tgz")
BUSYBOX = Pin("busybox", "1.35.0", None, "amd64", f"{URL}/busybox")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _put(folder: Path, pin: Pin, *, below: str = "") -> bytes:
    data = node_files.download(pin)
    (folder / below).mkdir(exist_ok=True)
    (folder / below / pin.file_name).write_bytes(data)
    return data


def test_the_shipped_list_is_one_and_names_each_vendor() -> None:
    found = lists.parse(pins.read(pins.shipped()))
    known = {(pin.name, pin.architecture) for pin in found}
    for name in ("nomad", "docker", "docker-rootless-extras", "rclone"):
        assert {(name, "amd64"), (name, "arm64")} <= known
    assert ("busybox", "amd64") in known
    for pin in found:
        assert pin.version in pin.url
    versions = {pin.name: pin.version for pin in found}
    assert versions["docker"] == versions["docker-rootless-extras"]


def test_a_list_is_filled_in_and_keeps_its_comments(tmp_path: Path) -> None:
    data = {pin: _put(tmp_path, pin) for pin in (NOMAD, DOCKER, BUSYBOX)}
    text = f"# Downloads\n\n{NOMAD}\n  {DOCKER}\n{BUSYBOX}\n"
    filled = pins.fill(text, pins.check(lists.parse(text), tmp_path))
    assert filled.startswith("# Downloads\n\nnomad 2.0.5 ")
    assert {pin.name: pin.sha256 for pin in lists.parse(filled)} == {
        pin.name: _digest(content) for pin, content in data.items()
    }


def test_what_is_not_there_stays_open(tmp_path: Path) -> None:
    _put(tmp_path, NOMAD)
    nomad, docker = pins.check([NOMAD, DOCKER], tmp_path)
    assert nomad.sha256 and docker == pins.Checked(DOCKER)
    assert str(DOCKER) in pins.fill(f"{NOMAD}\n{DOCKER}\n", [nomad, docker])


def test_files_of_one_name_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    amd = _put(tmp_path, DOCKER)
    found, other = pins.check([DOCKER, DOCKER_ARM], tmp_path)
    assert (found.sha256, other.sha256) == (_digest(amd), None)
    arm = _put(tmp_path, DOCKER_ARM, below="arm64")
    found, other = pins.check([DOCKER, DOCKER_ARM], tmp_path)
    assert (found.sha256, other.sha256) == (_digest(amd), _digest(arm))


def test_the_vendors_list_is_asked_also_when_it_is_signed(tmp_path: Path) -> None:
    data = _put(tmp_path, NOMAD)
    (tmp_path / "nomad_2.0.5_SHA256SUMS").write_text(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"{'0' * 64}  other.zip\n{_digest(data).upper()} *{NOMAD.file_name}\n"
        "-----BEGIN PGP SIGNATURE-----\n"
    )
    (found,) = pins.check([NOMAD], tmp_path)
    assert found.against == ("nomad_2.0.5_SHA256SUMS",)


def test_another_hash_than_the_vendors_is_refused(tmp_path: Path) -> None:
    _put(tmp_path, NOMAD)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {NOMAD.file_name}\n")
    with pytest.raises(ConfigError, match=r"nomad_amd64\.zip has .*, but SHA256SUMS says 000"):
        pins.check([NOMAD], tmp_path)


def test_another_hash_than_the_lists_is_refused(tmp_path: Path) -> None:
    data = _put(tmp_path, BUSYBOX)
    (found,) = pins.check([_with_hash(BUSYBOX, _digest(data))], tmp_path)
    assert found.against == ("the list",)
    with pytest.raises(ConfigError, match="but the list says fff"):
        pins.check([_with_hash(BUSYBOX, "f" * 64)], tmp_path)


def _with_hash(pin: Pin, digest: str) -> Pin:
    return Pin(pin.name, pin.version, digest, pin.architecture, pin.url)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<html>Not found</html>", "no program"),
        (b"", "no program"),
        (node_files.download(NOMAD, holds=b"#!/bin/sh\n"), "no program"),
        (node_files.download(NOMAD)[:-30], "damaged"),
        (node_files.download(DOCKER)[:-30], "damaged"),
    ],
    ids=["error page", "empty", "no program", "cut zip", "cut tgz"],
)
def test_what_is_no_download_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / NOMAD.file_name).write_bytes(data)
    with pytest.raises(ConfigError, match=says):
        pins.check([NOMAD], tmp_path)


def test_the_other_architectures_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "amd64").mkdir()
    (tmp_path / "amd64" / DOCKER.file_name).write_bytes(node_files.download(DOCKER_ARM))
    with pytest.raises(ConfigError, match="programs for arm64, not one for amd64"):
        pins.check([DOCKER], tmp_path)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        pins.check([NOMAD], tmp_path / "nothing")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        pins.read(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nomad 2.0.5 - amd64", "line 2: 4 words instead of 5"),
        ("no/mad 2.0.5 - amd64 https://a.example/b", "'no/mad' is no name"),
        ("nomad ../2 - amd64 https://a.example/b", "is no version"),
        ("nomad 2.0.5 12ab amd64 https://a.example/b", "'12ab' is no SHA-256"),
        ("nomad 2.0.5 - x86_64 https://a.example/b", "'x86_64' is no architecture"),
        ("nomad 2.0.5 - amd64 http://a.example/b", "is no URL"),
        ("nomad 2.0.5 - amd64 https://a.example/", "is no URL"),
        ('nomad 2.0.5 - amd64 https://a.example/"b', "is no URL"),
        (str(NOMAD), "line 2: nomad for amd64 is there already"),
    ],
)
def test_a_bad_line_is_named(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        lists.parse(f"{NOMAD}\n{line}\n")
