"""Commands of every member: submit, watch, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bridge.cli import options, output
from bridge.cli.options import Session, Target, pass_session
from bridge.errors import Conflict, NotDone, NotFound, ResultsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bridge.client.answers import Job, JobSet
    from bridge.client.results import Fetched
    from bridge.client.workflow import Client

# What concerns one job only; any other error ends a command.
_OF_A_JOB: Final = (Conflict, NotFound, ResultsError)


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
@click.option("--cores", default=1, show_default=True, help="Cores of one job.")
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
@click.option("--priority", default=50, show_default=True, help="1 to 100; 100 goes first.")
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
    with output.transferring("Uploading") as progress:
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
    rows, code = [], output.FINE
    with output.counting("Submitting", len(folders)) as advance:
        for outcome in client.submit_many(folders, **request):
            advance(1)
            row: dict[str, Any] = {"folder": str(outcome.folder), "job": outcome.job_id}
            if outcome.error:
                code = code or output.exit_code(outcome.error)
                row["error"] = outcome.error.message
            elif not outcome.new:
                row["note"] = "submitted before"
            rows.append(row)
    if as_json:
        output.show_json(rows)
    else:
        output.show_table(
            ("JOB", "FOLDER", "DETAIL"),
            [
                (row["job"] or "-", row["folder"], row.get("error", row.get("note", "")))
                for row in rows
            ],
        )
    return code


@click.command()
@options.targets
@options.as_json
@click.pass_context
def status(ctx: click.Context, /, json_: bool, **named: Any) -> None:
    """Show where jobs are. Exit code 1 when one failed or was canceled."""
    client = ctx.ensure_object(Session).client()
    jobs = [client.status(target.job) for target in options.resolve(**named)]
    _show(jobs, as_json=json_, single=len(jobs) == 1)
    ctx.exit(_verdict(job.state for job in jobs))


@click.command("list")
@click.option("--state", help="Only jobs in this state.")
@click.option("--set", "set_", help="Only jobs of this set.")
@click.option("--user", "user_", help="Only jobs of this user (admins).")
@click.option("--limit", default=50, show_default=True, help="At most so many.")
@options.as_json
@pass_session
def list_(session: Session, /, json_: bool, limit: int, **filters: Any) -> None:
    """List your jobs, newest first; as admin the group's."""
    found = session.client().list(
        state=filters["state"], set=filters["set_"], user=filters["user_"], limit=limit
    )
    _show(list(found), as_json=json_)


@click.command()
@options.targets
@options.in_set
@click.option("--timeout", type=options.Duration(), metavar="TIME", help="Give up after this long.")
@options.as_json
@click.pass_context
def wait(
    ctx: click.Context, /, set_: str | None, timeout: int | None, json_: bool, **named: Any
) -> None:
    """Wait until jobs have ended. Exit code 1 when one did not complete."""
    client = ctx.ensure_object(Session).client()
    if set_ is not None:
        options.only_set(set_, named)
        ctx.exit(_wait_for_set(client, set_, timeout, as_json=json_))
    ids = [target.job for target in options.resolve(**named)]
    ended: set[str] = set()
    with output.counting("Waiting", len(ids)) as advance:

        def report(job: Job) -> None:
            if job.ended and job.id not in ended:
                ended.add(job.id)
                advance(1)

        jobs = client.wait(ids, timeout, report=report)
    _show(jobs, as_json=json_, single=len(jobs) == 1)
    ctx.exit(_verdict(job.state for job in jobs))


def _wait_for_set(client: Client, name: str, timeout: int | None, *, as_json: bool) -> int:
    ended = 0
    with output.counting("Waiting", client.sets.status(name).size) as advance:

        def report(seen: JobSet) -> None:
            nonlocal ended
            advance(seen.ended - ended)
            ended = seen.ended

        found = client.sets.wait(name, timeout, report=report)
    if as_json:
        output.show_json(found)
    else:
        output.show_sets([found])
    return _verdict(found.jobs)


@click.command()
@options.targets
@options.in_set
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to. Default: the submitted folder, or ./JOB for an id or a set.",
)
@options.as_json
@click.pass_context
def get(
    ctx: click.Context, /, set_: str | None, to: Path | None, json_: bool, **named: Any
) -> None:
    """Fetch the results of ended jobs.

    What a broken fetch left is used by the next one. Files of the same name are
    replaced by results.
    """
    client, code = ctx.ensure_object(Session).client(), output.FINE
    if set_ is None:
        wanted = options.resolve(**named)
    else:
        options.only_set(set_, named)
        wanted, code = _ended(client, set_, as_json=json_)
    fetched = []
    for target in wanted:
        dest = _destination(target, to, several=len(wanted) > 1 or set_ is not None)
        try:
            with output.transferring("Fetching") as progress:
                result = client.get(target.job, dest, progress=progress)
        except _OF_A_JOB as error:
            # One without results must not keep the others from being fetched.
            output.show_error(error, as_json=json_)
            code = code or output.exit_code(error)
            continue
        fetched.append({"job": target.job} | _as_dict(result))
        if not json_:
            _tell(result)
    if json_:
        output.show_json(fetched)
    ctx.exit(code)


def _ended(client: Client, name: str, *, as_json: bool) -> tuple[list[Target], int]:
    """The jobs of a set whose results can be fetched, and the exit code if that is not all.

    Raises NotFound when none will ever be left.
    """
    known, code = client.sets.status(name), output.FINE
    if live := known.size - known.ended:
        missing = NotDone(
            f"{live} of {known.size} jobs have not ended; only the others are fetched",
            "Fetch again when they have: what is there is kept.",
        )
        output.show_error(missing, as_json=as_json)
        code = output.exit_code(missing)
    left = [job for job in client.list(set=name) if job.ended and not job.prune_requested_at]
    if not left and not live:
        raise NotFound(
            f"the data of all jobs of set {name} was pruned", "It cannot be brought back."
        )
    return [Target(job.id, None) for job in left], code


def _tell(result: Fetched) -> None:
    note = "" if result.verified else " (not verified: the job did not get to list its results)"
    click.echo(f"{len(result.files)} files in {result.folder}{note}")


def _destination(target: Target, to: Path | None, *, several: bool) -> Path:
    name = target.folder.resolve().name if target.folder else target.job
    if to is not None:
        return to / name if several else to
    return target.folder or Path(target.job)


def _as_dict(result: Fetched) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "files": list(result.files),
        "already_there": result.already_there,
        "verified": result.verified,
    }


@click.command()
@options.as_json
@pass_session
def whoami(session: Session, /, json_: bool) -> None:
    """Show whom the service takes you for."""
    who = session.client().whoami()
    if json_:
        output.show_json(who)
    else:
        click.echo(f"{who.user or '-'} ({who.role}) of group {who.group}")


@click.command()
@click.option("--limit", default=50, show_default=True, help="At most so many.")
@options.as_json
@pass_session
def activity(session: Session, /, limit: int, json_: bool) -> None:
    """Show what the group is doing, newest first."""
    lines = list(session.client().activity(limit))
    if json_:
        output.show_json(lines)
        return
    output.show_table(
        ("JOB", "USER", "IMAGE", "STATE", "AGE"),
        [
            (line.id, line.user, line.image, str(line.state), output.age(line.created_at))
            for line in lines
        ],
    )


def _show(jobs: Sequence[Job], *, as_json: bool, single: bool = False) -> None:
    if as_json:
        output.show_json(jobs[0] if single else jobs)
    else:
        output.show_jobs(jobs)


def _verdict(states: Iterable[str]) -> int:
    return output.FINE if {"failed", "canceled"}.isdisjoint(states) else output.FAILED


COMMANDS = (
    submit,
    status,
    list_,
    wait,
    get,
    whoami,
    activity,
)
