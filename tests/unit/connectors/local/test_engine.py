"""What Docker is asked for, and under which name images run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.connectors.local.docker import run_arguments
from bridge.connectors.local.engine import EngineInfo, missing_limits, run_reference
from bridge.connectors.local.layout import AttemptDir, RunSpec

ENGINE = EngineInfo(
    version="28", rootless=False, live_restore=False, cores=8,
    limits_memory=True, limits_swap=True, limits_cores=True, limits_pids=True,
)  # fmt: skip
SPEC = RunSpec(
    native_id="bridge-x-1", number=1, bucket_id="the-bucket", code_bucket="code", image="psi4:1.5",
    input_sha256="", cores=2, memory_mb=300, time_limit_s=1, runtime="docker", stage="/stage",
    node_home="/node",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> AttemptDir:
    made = AttemptDir(tmp_path / 'with "quotes", commas')
    made.rundir.mkdir(parents=True)
    return made


def option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("psi4:1.5", "bridge.invalid/psi4:1.5"),
        ("lab/psi4:1.5", "bridge.invalid/lab/psi4:1.5"),
        ("registry.example/psi4:1.5", "registry.example/psi4:1.5"),
        ("localhost/psi4:1", "localhost/psi4:1"),
        ("host:5000/psi4:1", "host:5000/psi4:1"),
    ],
)
def test_images_without_a_registry_are_the_groups_own(image: str, name: str) -> None:
    assert run_reference(image) == name


@pytest.mark.parametrize("image", ["", "-v", "--privileged", "Psi4:1", "a b", "a\n", "a$(id)", "é"])
def test_what_is_no_reference_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="no image reference"):
        run_reference(image)


def test_a_container_is_confined(home: AttemptDir) -> None:
    asked = run_arguments(SPEC, home, ENGINE)
    wanted = {
        "--network": "none",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
        "--pids-limit": "4096",
        "--cpus": "2",
        "--memory": "300m",
        "--memory-swap": "300m",
        "--pull": "never",
        "--name": "bridge-x-1",
        "--log-driver": "none",
        "--restart": "no",
        "--entrypoint": "/bin/sh",
        "--workdir": "/rundir",
    }
    assert {name: option(asked, name) for name in wanted} == wanted
    owner = home.rundir.stat()
    assert option(asked, "--user") == f"{owner.st_uid}:{owner.st_gid}"
    assert {"HOME=/tmp", "OMP_NUM_THREADS=2", "MKL_NUM_THREADS=2"} <= set(asked)
    assert asked[asked.index("--") + 1] == "bridge.invalid/psi4:1.5"
    assert "the-bucket" not in " ".join(asked)


def test_any_folder_can_be_mounted(home: AttemptDir) -> None:
    asked = run_arguments(SPEC, home, ENGINE)
    source = str(home.rundir).replace('"', '""')
    assert f'type=bind,"source={source}",target=/rundir' in asked


def test_root_of_the_container_beside_a_rootless_engine(home: AttemptDir) -> None:
    asked = run_arguments(SPEC, home, ENGINE._replace(rootless=True))
    assert option(asked, "--user") == "0:0"


def test_a_network_only_where_configured(home: AttemptDir) -> None:
    assert "--network" not in run_arguments(SPEC._replace(network=True), home, ENGINE)


def test_never_more_cores_than_the_engine_has(home: AttemptDir) -> None:
    asked = run_arguments(SPEC._replace(cores=64), home, ENGINE)
    assert option(asked, "--cpus") == "8"
    assert "OMP_NUM_THREADS=64" in asked


def test_limits_that_an_engine_lacks_are_left_out(home: AttemptDir) -> None:
    poor = ENGINE._replace(
        limits_memory=False, limits_swap=False, limits_cores=False, limits_pids=False
    )
    asked = run_arguments(SPEC, home, poor)
    assert not {"--memory", "--memory-swap", "--cpus", "--pids-limit"} & set(asked)
    assert missing_limits(poor) == ["memory", "cores", "processes"]
    assert missing_limits(ENGINE) == []
