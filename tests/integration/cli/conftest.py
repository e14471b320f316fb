from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli.main import cli
from tests.support.fake_service import SECRET, FakeService, serving
from tests.support.s3 import S3

Run = Callable[..., Result]


@pytest.fixture(name="fake")
def _fake() -> Iterator[FakeService]:
    with serving() as running:
        yield running


@pytest.fixture(name="run")
def _run(fake: FakeService, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder with credentials from a file."""
    path = tmp_path / "credentials.env"
    path.write_text(
        f"BRIDGE_URL={fake.url}\nBRIDGE_API_SECRET={SECRET}\nBRIDGE_GROUP_TOKEN=abc\n"
        f"BRIDGE_S3_SERVER={s3.endpoint}\nBRIDGE_S3_ACCESS={s3.access}\n"
        f"BRIDGE_S3_SECRET={s3.secret}\n"
    )
    monkeypatch.setenv("BRIDGE_CREDENTIALS", str(path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: str, **more: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False, **more)  # type: ignore[arg-type]

    return run
