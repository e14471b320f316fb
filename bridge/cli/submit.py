"""The command that hands folders in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli import options, output
from bridge.cli.options import Session

if TYPE_CHECKING:
    from bridge.client.submission import Outcome
    from bridge.client.workflow import Client


class SubmitCommand(click.Command):
    """Keeps what stands behind ``--`` apart: it is the job's command, not ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Cut the arguments at the first ``--``."""
        if "--" in args:
            cut = args.index("--")
            args, ctx.meta["command"] = args[:cut], args[cut + 1 :]
        return super().parse_args(ctx, args)


@click.command(cls=SubmitCommand, options_metavar="[OPTIONS]")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="The job's folder. Default: this one."
)
@click.option("--dirs", "globs", multiple=True, metavar="GLOB", help="Many folders, a job each.")
@click.option(
    "--list",
    "list_file",
    type=click.File(),
    help="A file that names many folders, one in a line; - for standard input.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cores of one job.",
)
@click.option(
    "--memory",
    type=options.Memory(),
    default="4000",
    show_default=True,
    metavar="SIZE",
    help="Memory of one job: MiB, or with a unit as in 4GiB.",
)
@click.option(
    "--oom-retry",
    type=options.Memory(),
    default=0,
    metavar="SIZE",
    help="When it runs out of memory, try again with more, up to this much.",
)
@click.option(
    "--time",
    "time_limit",
    type=options.Duration(),
    default="1d",
    show_default=True,
    metavar="TIME",
    help="Longest run: 90m, 2h, 1d, or seconds.",
)
@click.option("--name", help="Name of the job. Default: the folder's.")
@click.option("--set", "set_", help="A name for jobs that belong together.")
@click.option(
    "--priority",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    metavar="N",
    help="1 to 100; 100 goes first.",
)
@click.option("--hold", is_flag=True, help="Wait in the queue until released.")
@click.option("--again", is_flag=True, help="Submit folders that were submitted as new jobs.")
@options.as_json
@click.argument("words", nargs=-1, metavar="IMAGE -- COMMAND...")
@click.pass_context
def submit(ctx: click.Context, /, **given: Any) -> None:
    """Submit a folder, or many, as jobs.

    COMMAND runs in the folder. Several words are passed as they are; a single
    one is a shell line, as in 'sort < in.txt > out.txt'.
    """
    *more, image = given["words"] or ("",)
    command: list[str] = ctx.meta.get("command", [])
    if not image or not command:
        raise click.UsageError("give an image and, after --, the command", ctx)
    batch = bool(given["globs"] or given["list_file"])
    if more and not given["globs"]:
        raise click.UsageError(f"unexpected argument {more[0]!r}; the command follows --", ctx)
    if batch and given["folder"]:
        raise click.UsageError("--dir is for one folder, --dirs and --list for many", ctx)
    request = {
        "image": image,
        "command": command[0] if len(command) == 1 else command,
        "cores": given["cores"],
        "memory_mb": given["memory"],
        "oom_retry_mb": given["oom_retry"],
        "time_limit_s": given["time_limit"],
        "set": given["set_"],
        "priority": given["priority"],
        "hold": given["hold"],
        "name": given["name"],
        "again": given["again"],
    }
    client = ctx.ensure_object(Session).client()
    if batch:
        # An unquoted pattern was expanded by the shell: its rest are words.
        folders = options.expand((*given["globs"], *more)) + _listed(given["list_file"])
        ctx.exit(_submit_many(client, folders, request, as_json=given["json_"]))
    with options.named(), output.transferring("Uploading") as progress:
        job = client.submit(given["folder"] or Path(), **request, progress=progress)
    if given["json_"]:
        output.show_json(job)
    else:
        click.echo(job.id)


def _listed(file: Any) -> list[Path]:
    return [Path(line.strip()) for line in file or () if line.strip()]


def _submit_many(
    client: Client, folders: list[Path], request: dict[str, Any], *, as_json: bool
) -> int:
    rows: list[dict[str, Any]] = []
    code = output.FINE
    try:
        with options.named(), output.counting("Submitting", len(folders)) as advance:
            for outcome in client.submit_many(folders, **request):
                advance(1)
                rows.append(_row(outcome))
                if outcome.error:
                    code = code or output.exit_code(outcome.error)
    except BaseException:
        # Whatever ended it: these are jobs now.
        if rows:
            _show_rows(rows, as_json=as_json)
            taken = sum(row["job"] is not None for row in rows)
            output.tell(
                f"{taken} of {output.count(len(folders), 'folder')} submitted; "
                "the same command goes on with the others.",
                as_json=as_json,
            )
        raise
    _show_rows(rows, as_json=as_json)
    return code


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"folder": str(outcome.folder), "job": outcome.job_id}
    if outcome.error:
        row["error"] = options.of_options(outcome.error.message)
    elif not outcome.new:
        row["note"] = "submitted before"
    return row


def _show_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        output.show_json(rows)
        return
    output.show_table(
        ("JOB", "FOLDER", "DETAIL"),
        [(row["job"] or "-", row["folder"], row.get("error", row.get("note", ""))) for row in rows],
    )


COMMANDS = (submit,)
