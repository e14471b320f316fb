"""Makes ``config.example.yaml`` and ``docs/configuration.md`` from the settings.

``python -m bridge.config_docs`` writes both (``make docs``).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec
import yaml

from bridge.settings import SETTINGS, Config
from bridge.settings_table import Setting

_ROOT: Final = Path(__file__).resolve().parent.parent
_GENERATED: Final = "Generated from bridge/settings.py by `make docs`; do not edit."
_WIDTH: Final = 98


def example_yaml() -> str:
    """Every setting with its help and default, all commented out."""
    lines = [
        f"# {_GENERATED}",
        "#",
        "# Every setting with its default; remove the # in front of one to change it.",
        "# Environment variables come before this file, options of the command line before both.",
    ]
    for section, settings in groupby(SETTINGS, key=lambda item: item.section):
        lines.append("")
        indent = "  " if section else ""
        if section:
            lines += [f"# {_about(section)}", f"{section}:"]
        for item in settings:
            lines += _comment(f"{item.help} ({item.kind})", indent)
            lines.append(f"{indent}#{item.key}: {_yaml(item.default)}")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The page of the documentation: one table per section."""
    lines = [
        f"<!-- {_GENERATED} -->",
        "# Configuration",
        "",
        "A value comes from the configuration file (`nomad-bridge serve --config FILE`), over that",
        "from the environment, over that from an option of the command line. A relative path in",
        "the file counts from the folder of the file. A key nobody knows, a value of the wrong",
        "type or a file that cannot be read ends the program with exit code 2 and one line that",
        "says where and what to do.",
        "",
        "Secret settings never appear in logs.",
    ]
    for section, settings in groupby(SETTINGS, key=lambda item: item.section):
        about = [f"## `{section}`", "", _about(section)] if section else ["## General"]
        header = "| setting | type | default | environment | meaning |"
        lines += ["", *about, "", header, "|---|---|---|---|---|", *map(_row, settings)]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write both files into the checkout.

    Raises OSError.
    """
    (_ROOT / "config.example.yaml").write_text(example_yaml(), "utf-8")
    (_ROOT / "docs" / "configuration.md").write_text(markdown(), "utf-8")


def _about(section: str) -> str:
    return str(type(getattr(Config(), section)).__doc__)


def _comment(text: str, indent: str) -> Iterator[str]:
    start = f"{indent}# "
    yield from textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=start)


def _row(item: Setting) -> str:
    default = f"`{_yaml(item.default)}`" if item.default not in ("", None) else ""
    secret = " **Secret.**" if item.secret else ""
    kind = item.kind.removeprefix("a ")
    return f"| `{item.key}` | {kind} | {default} | `{item.env}` | {item.help}{secret} |"


def _yaml(value: object) -> str:
    """The value as it is written in YAML, on one line."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    return yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip()


if __name__ == "__main__":
    write()
