from __future__ import annotations

from pathlib import Path

import pytest

from bridge.client import credentials
from bridge.errors import ConfigError


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_environment_bridge_names_win_over_leruli_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LERULI_BASEURL", "http://old:1")
    monkeypatch.setenv("LERULI_API_SECRET", "leruli-secret")
    monkeypatch.setenv("BRIDGE_URL", "http://new:2/")
    found = credentials.load()
    assert found.url == "http://new:2"
    assert found.secret == "leruli-secret"


def test_file_is_taken_instead_of_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BRIDGE_API_SECRET", "from-environment")
    path = _write(tmp_path / "c.env", "# made by init", "", "BRIDGE_URL=http://h:1")
    monkeypatch.setenv("BRIDGE_CREDENTIALS", str(path))
    found = credentials.load()
    assert (found.url, found.secret) == ("http://h:1", "")


def test_explicit_values_win(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.env", "BRIDGE_URL=http://h:1", "BRIDGE_API_SECRET=a=b")
    assert credentials.load(path).secret == "a=b"
    assert credentials.load(path, secret="mine", url=None).secret == "mine"


def test_repr_shows_no_secret() -> None:
    shown = repr(credentials.Credentials(url="http://h", secret="nbapi_x", s3_secret="key"))
    assert "nbapi_x" not in shown
    assert "key" not in shown


def test_bad_line_is_named_without_its_content(tmp_path: Path) -> None:
    path = _write(tmp_path / "c.env", "BRIDGE_URL=http://h:1", "sekrit value")
    with pytest.raises(ConfigError, match="line 2") as caught:
        credentials.load(path)
    assert "sekrit" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        credentials.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "server",
    ["localhost:9000", "ftp://h", "http://", "http://h:x", "http://h/path", "http://u:p@h", "h?"],
)
def test_s3_server_must_be_scheme_host_port(server: str) -> None:
    with pytest.raises(ConfigError, match="BRIDGE_S3_SERVER") as caught:
        credentials.load(s3_server=server)
    assert "u:p" not in str(caught.value)


def test_require_names_both_variables() -> None:
    with pytest.raises(ConfigError) as caught:
        credentials.Credentials().require("s3_server")
    assert "BRIDGE_S3_SERVER" in str(caught.value)
    assert "LERULI_S3_SERVER" in caught.value.hint
