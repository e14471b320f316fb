from __future__ import annotations

import pytest
from flask import Flask

from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge
from tests.support.http import Door


@pytest.fixture
def bridge() -> FakeBridge:
    return FakeBridge()


@pytest.fixture
def limits() -> Limits:
    return Limits(max_cores=64, max_memory_mb=100_000, max_time_limit_s=1_000_000)


@pytest.fixture
def app(bridge: FakeBridge, limits: Limits) -> Flask:
    return create_app(bridge, limits)


@pytest.fixture
def anna(app: Flask, bridge: FakeBridge) -> Door:
    """An admin of alpha."""
    return Door(app.test_client(), bridge.anna)


@pytest.fixture
def ben(app: Flask, bridge: FakeBridge) -> Door:
    """A member of alpha."""
    return Door(app.test_client(), bridge.ben)


@pytest.fixture
def cleo(app: Flask, bridge: FakeBridge) -> Door:
    """Another member of alpha."""
    return Door(app.test_client(), bridge.cleo)


@pytest.fixture
def bert(app: Flask, bridge: FakeBridge) -> Door:
    """The admin of beta, which has no compute secret."""
    return Door(app.test_client(), bridge.bert)


@pytest.fixture
def reader(app: Flask, bridge: FakeBridge) -> Door:
    """Someone with alpha's group token."""
    return Door(app.test_client(), bridge.alpha.token)


@pytest.fixture
def nobody(app: Flask) -> Door:
    return Door(app.test_client(), None)
