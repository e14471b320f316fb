"""Commands of every member: watch and fetch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli import options, output
from bridge.cli.options import Session, Target, pass_session
from bridge.cli.several import each
from bridge.errors import NotDone, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bridge.client.answers import Job, JobSet
    from bridge.client.results import Fetched
    from bridge.client.workflow import Client


@click.command()
@options.targets
@options.as_json
@click.pass_context
def status(ctx: click.Context, /, json_: bool, **named: Any) -> None:
    """Show where jobs are. Exit code 1 when one failed or was canceled."""
    client = ctx.ensure_object(Session).client()
    targets = options.resolve(**named)
    jobs, code = each(targets, lambda target: client.status(target.job), as_json=json_)
    _show_named(jobs, targets, as_json=json_)
    ctx.exit(code or _verdict(job.state for job in jobs))


@click.command("list")
@options.state
@click.option("--set", "set_", help="Only jobs of this set.")
@click.option("--user", "user_", help="Only jobs of this user (admins).")
@options.limit
@options.as_json
@pass_session
def list_(session: Session, /, json_: bool, limit: int, **filters: Any) -> None:
    """List your jobs, newest first; as admin the group's."""
    client, set_ = session.client(), filters["set_"]
    with options.named():
        found = list(
            client.list(state=filters["state"], set=set_, user=filters["user_"], limit=limit + 1)
        )
    if set_ is not None and not found:
        # A set that does not exist is a mistake, one without such jobs is not.
        client.sets.status(set_)
    _show(found[:limit], as_json=json_)
    _tell_of_more(found, limit, as_json=json_)


def _tell_of_more(found: Sequence[object], limit: int, *, as_json: bool) -> None:
    if len(found) > limit:
        output.tell(f"There are more: --limit {10 * limit}", as_json=as_json)


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
    targets = options.resolve(**named)
    jobs, code = _wait_for_named(client, targets, timeout, as_json=json_)
    _show_named(jobs, targets, as_json=json_)
    ctx.exit(code or _verdict(job.state for job in jobs))


def _wait_for_named(
    client: Client, targets: list[Target], timeout: int | None, *, as_json: bool
) -> tuple[Sequence[Job], int]:
    known, code = each(targets, lambda target: target, as_json=as_json)
    by_id = {target.job: target for target in known}
    ended: set[str] = set()
    with output.counting("Waiting", len(by_id)) as advance:

        def report(job: Job) -> None:
            if job.ended and job.id not in ended:
                ended.add(job.id)
                advance(1)

        def lost(job: str, error: NotFound) -> None:
            nonlocal code
            output.show_error(error, as_json=as_json, job=job, folder=by_id[job].folder)
            code = code or output.exit_code(error)

        return client.wait(by_id, timeout, report=report, lost=lost), code


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
    several = len(wanted) > 1 or set_ is not None

    def fetch(target: Target) -> dict[str, Any]:
        with output.transferring("Fetching") as progress:
            result = client.get(
                target.job, _destination(target, to, several=several), progress=progress
            )
        if not json_:
            _tell(result)
        return {"job": target.job} | _as_dict(result)

    fetched, failed = each(wanted, fetch, as_json=json_)
    if json_:
        output.show_json(fetched)
    ctx.exit(code or failed)


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
            f"the data of all jobs of set {name!r} was pruned", "It cannot be brought back."
        )
    return [Target(job.id) for job in left], code


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
@options.limit
@options.as_json
@pass_session
def activity(session: Session, /, limit: int, json_: bool) -> None:
    """Show what the group is doing, newest first."""
    found = list(session.client().activity(limit + 1))
    lines = found[:limit]
    if json_:
        output.show_json(lines)
    else:
        rows = [
            (line.id, line.user, line.image, str(line.state), output.age(line.created_at))
            for line in lines
        ]
        output.show_filled(("JOB", "USER", "IMAGE", "STATE", "AGE"), rows, nothing="No jobs.")
    _tell_of_more(found, limit, as_json=json_)


def _show(jobs: Sequence[Job], *, as_json: bool) -> None:
    if as_json:
        output.show_json(jobs)
    else:
        output.show_jobs(jobs)


def _show_named(jobs: Sequence[Job], targets: Sequence[Target], *, as_json: bool) -> None:
    """Of one job that was named its object, of several a list of those that there are."""
    if as_json and len(targets) == 1 and jobs:
        output.show_json(jobs[0])
    elif jobs or (as_json and len(targets) > 1):
        _show(jobs, as_json=as_json)


def _verdict(states: Iterable[str]) -> int:
    return output.FINE if {"failed", "canceled"}.isdisjoint(states) else output.FAILED


COMMANDS = (
    status,
    list_,
    wait,
    get,
    whoami,
    activity,
)
