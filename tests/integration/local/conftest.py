from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local import LocalNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[LocalNode]:
    """A machine with the process runtime."""
    made = LocalNode(tmp_path)
    yield made
    made.close()
