"""The entry of ``nomad-bridge``: commands, errors, exit codes.

Exit codes: 0 fine, 1 the job failed, 2 usage, 3 not allowed, 4 not found,
5 cannot reach. Commands import what they need when they run, so that ``--help``
is there at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

import bridge
from bridge.cli import (
    admin,
    database,
    demo,
    images,
    nodes,
    nomad,
    operator,
    output,
    reports,
    steering,
    storage,
    submit,
    user,
)
from bridge.cli.options import Session
from bridge.errors import BridgeError

_INTERRUPTED = 130  # as the shell counts a program ended by Ctrl-C
_SECTIONS = {
    "Start here": ("demo", "init", "serve"),
    "Jobs": ("submit", "status", "list", "sets", "wait", "get", "cancel", "prune"),
    "The queue": ("explain", "attempts", "hold", "release", "retry"),
    "Group": ("whoami", "activity", "usage", "codes", "users", "groups", "compute-secret"),
    "Machines": ("nodes", "storage"),
    "Service": ("db", "nomad"),
}


class Commands(click.Group):
    """Lists commands by what they are for, and turns errors into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error of ours is shown without a traceback."""
        try:
            return super().invoke(ctx)
        except BridgeError as error:
            output.show_error(error, as_json=bool(ctx.find_root().meta.get("json")))
            ctx.exit(output.exit_code(error))

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, under a heading each."""
        for heading, names in _SECTIONS.items():
            rows = [(name, self.commands[name].get_short_help_str(80)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(bridge.__version__, prog_name="nomad-bridge")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with addresses and secrets. Default: the one that BRIDGE_CREDENTIALS names, "
    "else the environment (BRIDGE_*, then LERULI_*).",
)
@click.option("--as-admin", is_flag=True, help="Use the admin's secret (BRIDGE_ADMIN_SECRET).")
@click.pass_context
def cli(ctx: click.Context, credentials: Path | None, as_admin: bool) -> None:
    """Hand folders of work to a queue, get the results back.

    Exit codes: 0 fine, 1 the job failed, 2 usage, 3 not allowed, 4 not found,
    5 service or storage cannot be reached.
    """
    ctx.obj = Session(credentials, as_admin)


for _module in (
    admin,
    database,
    demo,
    images,
    nodes,
    nomad,
    operator,
    reports,
    steering,
    storage,
    submit,
    user,
):
    for _command in _module.COMMANDS:
        cli.add_command(_command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        # Outside of standalone mode click returns the code that a command exits with.
        code = cli.main(prog_name="nomad-bridge", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough of it (`nomad-bridge list | head`).
        sys.stderr.close()
        sys.exit(output.FAILED)
    sys.exit(code if isinstance(code, int) else output.FINE)


if __name__ == "__main__":
    main()
