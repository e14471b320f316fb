"""What keeps a machine from joining is told in words, and joining works once it is mended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine import Machine
from tests.support.node_site import NAME, NEEDED, end, prepare, seen, start, submit
from tests.support.nomad_cluster import POOL, NomadCluster
from tests.support.poll import eventually
from tests.support.service import RunningService

pytestmark = pytest.mark.needs(*NEEDED)

# Ten minutes ahead, for those who ask what time it is.
FAST_CLOCK = """#!/bin/sh
case $*, in
+%s*) echo "$(($(/bin/date +%s) + 600))" ;;
*) exec /bin/date "$@" ;;
esac
"""
# The introduction is for minutes; this machine was asleep that long before its client began.
SLEPT = """#!/bin/sh
cat {token} >{dir}/nomad/client/intro_token.jwt
exec {program} "$@"
"""


# Nomad takes tokens that ended less than a minute ago: clocks differ.
LEEWAY_S = 61


@pytest.fixture(scope="module", autouse=True)
def introduction(nomad: NomadCluster) -> tuple[str, float]:
    """One that ends after a second, and when it began: other tests go on meanwhile."""
    wanted = {"NodePool": POOL, "NodeName": NAME, "TTL": "1s"}
    made = nomad.call("POST", "acl/identity/client-introduction-token", wanted)
    return made["JWT"], time.monotonic()


def is_refused(node: Machine) -> str:
    """Why run.sh came back to the prompt."""
    node.log.write_text("")
    run = node.join()
    eventually(lambda: run.poll() is not None, timeout=150, every=0.2)
    assert run.returncode != 0
    return node.output()


@pytest.fixture
def fast_clock(node: Machine) -> Iterator[None]:
    folder = node.folder / "fast"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "date").write_text(FAST_CLOCK)
    (folder / "date").chmod(0o755)
    node.extra["PATH"] = f"{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    yield
    del node.extra["PATH"]


def test_a_clock_that_is_off_is_seen_before_anything_else(
    node: Machine, downloads: Path, fast_clock: None
) -> None:
    done = node.get_started("--name", NAME, "--from", str(downloads), "--s3-config", "s3.conf")
    assert done.returncode == 1
    assert "FAIL  clock: " in done.stdout and "timedatectl set-ntp true" in done.stdout, done.stdout


def test_a_clock_that_is_off_keeps_it_out(
    node: Machine, downloads: Path, request: pytest.FixtureRequest
) -> None:
    prepare(node, downloads)
    request.getfixturevalue("fast_clock")
    told = is_refused(node)
    assert "s ahead of the bridge's" in told and "timedatectl set-ntp true" in told, told
    assert "Python" not in told


def test_an_introduction_that_has_ended(
    node: Machine, service: RunningService, introduction: tuple[str, float]
) -> None:
    token, issued = introduction
    (node.home / "old.jwt").write_text(token)
    (node.home / "old.jwt").chmod(0o644)
    program = node.folder / "bin" / "nomad"
    real = program.resolve()
    program.unlink()
    program.write_text(SLEPT.format(token=node.home / "old.jwt", dir=node.folder, program=real))
    program.chmod(0o755)
    eventually(lambda: time.monotonic() - issued > 1 + LEEWAY_S, timeout=LEEWAY_S + 5, every=1)
    try:
        told = is_refused(node)
    finally:
        program.unlink()
        program.symlink_to(real)
    assert "its introduction has ended" in told, told
    assert "Start again" in told
    assert seen(service)["state"] == "enrolled"


def test_then_it_joins(node: Machine, service: RunningService, folder: Path) -> None:
    start(node)
    assert end(service, submit(service, folder, "true"))["state"] == "completed"


def test_a_copied_disk_does_not_join_as_the_other(node: Machine) -> None:
    """The folder of a node, seen from another machine."""
    assert node.run_sh("--leave", "--within", "10").returncode == 0
    elsewhere = node.home / "elsewhere"
    (elsewhere / "etc").mkdir(parents=True)
    (elsewhere / "etc" / "machine-id").write_text("f" * 32 + "\n")
    elsewhere.chmod(0o755)
    node.extra["PREFLIGHT_ROOT"] = str(elsewhere)
    try:
        told = is_refused(node)
    finally:
        del node.extra["PREFLIGHT_ROOT"]
    assert f"was enrolled as {NAME} on another machine" in told, told
    assert "--forget" in told and "--keep" in told
