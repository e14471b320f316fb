from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from bridge.connectors.local import engine
from bridge.server import create_app
from bridge.settings import Limits
from tests.support.docker import own_image
from tests.support.fake_core import FakeBridge
from tests.support.fake_nomad import serving
from tests.support.recorded_nomad import RecordedNomad
from tests.support.schedulers import Local, RealNomad, Recorded, Scheduler


@pytest.fixture
def bridge() -> FakeBridge:
    return FakeBridge()


@pytest.fixture
def client(bridge: FakeBridge) -> FlaskClient:
    return create_app(bridge, Limits(max_cores=64)).test_client()


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.needs("docker")),
        "recorded",
        pytest.param("nomad", marks=pytest.mark.needs("nomad", "docker")),
    ]
)
def scheduler(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scheduler]:
    """Every connector, with its scheduler: the real thing, and Nomad's recorded answers."""
    with contextlib.ExitStack() as stack:
        made: Scheduler
        match request.param:
            case "process":
                made = Local(tmp_path)
            case "docker":
                # Half a minute of patience for each call would be spent on the test of it.
                monkeypatch.setattr(engine, "_PROBE_TIMEOUT_S", 1.0)
                image = stack.enter_context(own_image())
                host = os.environ.get("DOCKER_HOST", "")
                made = Local(tmp_path, image, runtime="docker", docker_host=host)
            case "recorded":
                nomad = RecordedNomad()
                stack.enter_context(serving(nomad))
                made = Recorded(nomad)
            case _:
                image = stack.enter_context(own_image())
                made = RealNomad(request.getfixturevalue("nomad"), image)
        stack.callback(made.close)
        yield made
