"""``docs/cli.md``, generated from the commands' own help.

``python -m bridge.cli.reference`` writes it; a test says when that is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from bridge.cli.main import cli

_ROOT: Final = Path(__file__).resolve().parents[2]
_WIDTH: Final = 88
_HEAD: Final = """\
# Command line

Generated from `--help`; do not edit.

`JOB` is a job's id, `DIR` a folder that was submitted, which remembers its job in
`leruli.job`. Where none is given, the current folder is meant. Output is a table on a
terminal, lines with tabs in a pipe, and JSON with `--json`.

| exit code | meaning |
|---|---|
| 0 | fine |
| 1 | the job failed or was canceled; results are missing or damaged; time is over |
| 2 | usage: a wrong option, folder, value or state |
| 3 | not allowed: secret or storage key is missing, unknown or does not suffice |
| 4 | not found, or not yours |
| 5 | service or storage cannot be reached, or takes no more now (a quota, a rate limit) |
| 130 | interrupted |
"""


def markdown() -> str:
    """The page."""
    return _HEAD + "".join(
        f"\n## `{context.command_path}`\n\n```text\n{context.get_help()}\n```\n"
        for context in _contexts(cli, None, "nomad-bridge")
    )


def write() -> None:
    """Write the page where it belongs."""
    (_ROOT / "docs" / "cli.md").write_text(markdown(), "utf-8")


def _contexts(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[click.Context]:
    context = click.Context(
        command, parent, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    # The entry's own settings (-h) are inherited from the parent as when it runs.
    context.help_option_names = list(cli.context_settings["help_option_names"])
    yield context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _contexts(command.commands[inner], context, inner)


if __name__ == "__main__":
    write()
