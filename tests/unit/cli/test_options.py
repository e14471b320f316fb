from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from bridge.cli import options, output
from bridge.cli.main import cli
from bridge.errors import (
    BridgeError,
    ConfigError,
    FolderError,
    Forbidden,
    InvalidRequest,
    NotFound,
    ResultsError,
    Unauthenticated,
    Unavailable,
    Unreachable,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("2h", 7200), ("1d", 86400), ("1d12h", 129600), ("90", 90), ("45s", 45)],
)
def test_time(text: str, seconds: int) -> None:
    assert options.Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "m", "1w", "-1h", "1.5h", "2h1d", "1 h", "90min"])
def test_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90m"):
        options.Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [("4000", 4000), ("4GiB", 4096), ("4G", 4096), ("512m", 512), ("1.5g", 1536)],
)
def test_memory(text: str, mebibytes: int) -> None:
    assert options.Memory().convert(text, None, None) == mebibytes


@pytest.mark.parametrize("text", ["", "4K", "-1", "GiB", "4 0"])
def test_no_memory(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 4000"):
        options.Memory().convert(text, None, None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResultsError("x"), 1),
        (FolderError("x"), 2),
        (InvalidRequest("x"), 2),
        (ConfigError("x"), 2),
        (Unauthenticated("x"), 3),
        (Forbidden("x"), 3),
        (NotFound("x"), 4),
        (Unreachable("x"), 5),
        (Unavailable("x"), 5),
    ],
)
def test_exit_codes(error: BridgeError, code: int) -> None:
    assert output.exit_code(error) == code


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


def test_every_command_is_under_a_heading() -> None:
    # Its own settings too: click remembers the first help option that it made.
    context = click.Context(cli, **cli.context_settings)
    shown = cli.get_help(context)
    assert all(f"\n  {name} " in shown for name in cli.commands)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, bridge.cli.main, bridge;"
        "heavy = {'boto3', 'flask', 'sqlalchemy', 'rich', 'nomad', 'requests', 'urllib3'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[3],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$.cores: 500 is over the limit of 64.", "--cores: 500 is over the limit of 64."),
        ("$[17].time_limit_s: is missing.", "--time: is missing."),
        ("?set: does not have the right form.", "--set: does not have the right form."),
        ("$.image: does not have the right form.", "IMAGE: does not have the right form."),
        ("$.labels: is too long.", "$.labels: is too long."),
        ("A whole number of MiB above memory_mb.", "A whole number of MiB above --memory."),
        ("No such image.", "No such image."),
    ],
)
def test_fields_are_called_by_their_options(text: str, shown: str) -> None:
    assert options.of_options(text) == shown
