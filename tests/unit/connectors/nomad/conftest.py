from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.connectors.nomad.client import Connection, NomadClient
from tests.support.fake_nomad import FakeNomad, serving

TOKEN = "0b5c1d2e-token-of-the-bridge"


@pytest.fixture
def nomad() -> Iterator[FakeNomad]:
    with serving() as fake:
        yield fake


@pytest.fixture
def connection(nomad: FakeNomad) -> Connection:
    return Connection(address=nomad.url, token=TOKEN, request_timeout_s=5)


@pytest.fixture
def client(connection: Connection) -> NomadClient:
    return NomadClient(connection)
