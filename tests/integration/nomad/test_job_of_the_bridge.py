"""``nomad-jobs/bridge.nomad.hcl``: the bridge itself runs at Nomad."""

from __future__ import annotations

import getpass
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from bridge import resources
from tests.support.nomad_cluster import NODE, POOL, NomadCluster
from tests.support.poll import eventually, free_port

JOB = resources.path("nomad-jobs/bridge.nomad.hcl")


@pytest.fixture
def variables(nomad: NomadCluster, tmp_path: Path) -> Iterator[dict[str, str]]:
    program = tmp_path / "nomad-bridge"
    root = Path(__file__).resolve().parents[3]
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m bridge.cli.main "$@"\n'
    )
    program.chmod(0o755)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data_dir: {tmp_path}\nconnectors: [nomad]\nstorage: {{embedded: false}}\n"
        f"nomad:\n  address: {nomad.address}\n  token: {nomad.bridge_token}\n"
        f"  ca_file: {nomad.ca_file}\n  client_cert: {nomad.bridge_pair.cert}\n"
        f"  client_key: {nomad.bridge_pair.key}\n"
    )
    yield {
        "host": NODE,
        "node_pool": POOL,
        "user": getpass.getuser(),
        "program": str(program),
        "config": str(config),
        "port": str(free_port()),
    }
    nomad.call("DELETE", "job/nomad-bridge", purge="true")


def command(nomad: NomadCluster, verb: str, *options: str, **variables: str) -> str:
    words = [word for name, value in variables.items() for word in ("-var", f"{name}={value}")]
    done = subprocess.run(
        ["nomad", "job", verb, *options, *words, str(JOB)],
        env=nomad.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_valid_with_nothing_but_the_host_given(nomad: NomadCluster) -> None:
    assert "validation successful" in command(nomad, "validate", host="bridge-1")


def test_it_runs_and_answers(nomad: NomadCluster, variables: dict[str, str]) -> None:
    command(nomad, "run", "-detach", **variables)
    url = f"http://127.0.0.1:{variables['port']}/readyz"

    def answers() -> bool:
        try:
            return requests.get(url, timeout=5).ok
        except requests.RequestException:
            return False

    eventually(answers, timeout=90, every=0.2)
