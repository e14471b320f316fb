"""Where the demo's service listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.cli import demo


def ports() -> list[int]:
    return [int(address.removeprefix("127.0.0.1:")) for address in demo._free_addresses()]


def test_at_ports_that_no_connection_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "range").write_text("40000\t60999\n")
    monkeypatch.setattr(demo, "_KERNELS_PORTS", tmp_path / "range")
    one, other = ports()
    assert one != other
    assert all(38_500 <= port < 40_000 for port in (one, other))


@pytest.mark.parametrize("kernels", ["1024 65535", "0 65535", None])
def test_anywhere_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kernels: str | None
) -> None:
    if kernels is not None:
        (tmp_path / "range").write_text(kernels)
    monkeypatch.setattr(demo, "_KERNELS_PORTS", tmp_path / "range")
    one, other = ports()
    assert one != other
    assert min(one, other) > 0
