from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bridge import resources
from bridge.client import bundle
from bridge.errors import BridgeError

ROOT = Path(__file__).resolve().parents[2]


def test_a_wheel_brings_what_is_looked_for_beside_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for folder in ("node-setup", "nomad-jobs", "examples"):
        assert shipped[folder] == f"bridge/_shipped/{folder}"
        assert resources.path(folder) == ROOT / folder


def test_an_installed_package_looks_into_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "bridge"
    inside = package / "_shipped" / "node-setup"
    inside.mkdir(parents=True)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.path("node-setup") == inside
    with pytest.raises(BridgeError, match="node-setup/bin/stage is missing"):
        resources.path("node-setup/bin/stage")


def test_the_bundle_brings_all_that_a_node_runs() -> None:
    found = bundle.scripts()
    assert {"get-started.sh", "run.sh", "bin/stage", "lib/store.sh", "README.md"} <= found.keys()
    assert any(name.endswith(".service") for name in found)
    # What is told to machines of other kinds stays behind.
    assert not any(name.startswith(("minio/", "pins")) for name in found)
    for name, content in found.items():
        program = name.startswith("bin/") or name in {"get-started.sh", "run.sh"}
        assert content.startswith(b"#!") == program, name
