"""One machine as a node of a group, for all tests of a module.

Everything is real: a bridge with its Nomad server, rootless Docker in a fresh account, the
embedded storage, the client.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import needs, node_site
from tests.support.machine import Machine, assemble_downloads, machine, pinned
from tests.support.node_site import NEEDED, Settings
from tests.support.nomad_cluster import NomadCluster, cluster
from tests.support.service import RunningService


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The bridge's settings by section, beyond what it needs; modules may have their own."""
    return {}


@pytest.fixture(scope="module")
def nomad() -> Iterator[NomadCluster]:
    for name in NEEDED:
        needs.need(name)
    with cluster(client=False) as running:
        yield running


@pytest.fixture(scope="module")
def service(
    nomad: NomadCluster, rclone: str, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A bridge that lets machines in, with group ``lab``."""
    home = tmp_path_factory.mktemp("node") / "home"
    with node_site.letting_in(nomad, home, rclone, settings) as running:
        yield running


@pytest.fixture(scope="session")
def downloads(rclone: str) -> Iterator[Path]:
    """What the operator downloaded, and the list of it, in a folder for everybody: those of
    pytest are for one user alone.
    """
    with tempfile.TemporaryDirectory(prefix="nb-downloads-") as name:
        folder = Path(name)
        assemble_downloads(folder, rclone)
        (folder / "pins").write_text(pinned(folder))
        yield folder


@pytest.fixture(scope="module")
def bundle(service: RunningService, downloads: Path) -> Path:
    """The group's bundle, as an admin makes it."""
    out = service.home / "nomadrun.tar"
    node_site.make_bundle(service, downloads, out)
    return out


@pytest.fixture(scope="module")
def storage_keys(service: RunningService) -> Path:
    """The file that the group itself writes."""
    file = service.home / "s3.conf"
    node_site.write_keys(service, file)
    return file


@pytest.fixture(scope="module")
def node(bundle: Path, storage_keys: Path) -> Iterator[Machine]:
    with machine() as fresh:
        fresh.give(storage_keys)
        node_site.unpack(fresh, bundle)
        yield fresh
        if (fresh.folder / "current").exists():
            fresh.run_sh("--uninstall", "--yes")


@pytest.fixture
def joined(node: Machine, downloads: Path) -> Machine:
    """The machine as a node that takes jobs, whatever the test before has left."""
    if not (node.folder / "current").exists():
        node_site.prepare(node, downloads)
    if node.run_sh("--status").returncode != 0:
        node_site.start(node)
    return node
