from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from bridge.server import create_app
from bridge.settings import Limits
from tests.support.fake_core import FakeBridge


@pytest.fixture
def bridge() -> FakeBridge:
    return FakeBridge()


@pytest.fixture
def client(bridge: FakeBridge) -> FlaskClient:
    return create_app(bridge, Limits(max_cores=64)).test_client()
