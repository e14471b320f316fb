"""Commands that tell why a job waits, what became of it, how sets stand, who used what."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import click

from bridge.cli import options, output
from bridge.cli.options import Session, pass_session
from bridge.cli.several import each

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bridge.client.answers import Attempt, Explanation, GroupUsage, Usage

_HOUR_S: Final = 3600


@click.command()
@options.targets
@options.in_set
@options.as_json
@click.pass_context
def explain(ctx: click.Context, /, set_: str | None, json_: bool, **named: Any) -> None:
    """Say why a job waits, or what became of it, in a sentence.

    Of a set: how its jobs stand, and why the first of those that wait does.
    """
    client = ctx.ensure_object(Session).client()
    if set_ is not None:
        options.only_set(set_, named)
        _explain_set(client.sets.explain(set_), set_, as_json=json_)
        return
    targets = options.resolve(**named)
    found, code = each(
        targets, lambda target: (target.job, client.explain(target.job)), as_json=json_
    )
    shown = [_as_dict("job", job, why) for job, why in found]
    if len(targets) > 1:
        if json_:
            output.show_json(shown)
        elif found:
            output.show_table(("JOB", "WHY"), [(job, why.explanation) for job, why in found])
    elif found and json_:
        output.show_json(shown[0])
    elif found:
        click.echo(found[0][1].explanation)
    ctx.exit(code)


def _explain_set(why: Explanation, name: str, *, as_json: bool) -> None:
    if as_json:
        output.show_json(_as_dict("set", name, why))
    else:
        click.echo(why.explanation)


def _as_dict(what: str, name: str, why: Explanation) -> dict[str, Any]:
    return {
        what: name,
        "explanation": why.explanation,
        "ahead": why.ahead,
        "details": why.details,
    }


@click.command()
@options.targets
@options.in_set
@options.as_json
@click.pass_context
def attempts(ctx: click.Context, /, set_: str | None, json_: bool, **named: Any) -> None:
    """Show the runs of a job: where, how long, how they ended.

    Of a set: those of its jobs, the newest job first.
    """
    client = ctx.ensure_object(Session).client()
    if set_ is None:
        targets = options.resolve(**named)
        found, code = each(
            targets, lambda target: (target.job, client.attempts(target.job)), as_json=json_
        )
        _show_attempts(found, single=len(targets) == 1, as_json=json_)
        ctx.exit(code)
    options.only_set(set_, named)
    runs_of = groupby(client.sets.attempts(set_), key=lambda run: run.job)
    _show_attempts([(job, tuple(runs)) for job, runs in runs_of], as_json=json_)


def _show_attempts(
    found: list[tuple[str, Sequence[Attempt]]], *, as_json: bool, single: bool = False
) -> None:
    if single and not found:  # the error was shown
        return
    if as_json:
        output.show_json([{"job": job, "attempts": runs} for job, runs in found])
        return
    # One job needs no name before people, but lines in a pipe always look the same.
    with_job = not single or not output.at_terminal()
    output.show_filled(
        ("JOB", "RUN", "STATE", "NODE", "AGE", "TIME", "EXIT", "CAUSE", "DETAIL"),
        [(job if with_job else "", *_row(run)) for job, runs in found for run in runs],
        nothing="No runs yet.",
    )


def _row(run: Attempt) -> tuple[str, ...]:
    return (
        str(run.number),
        run.state,
        run.node or "",
        output.age(run.claimed_at),
        output.duration(run.started_at, run.ended_at),
        "" if run.exit_code is None else str(run.exit_code),
        run.cause or "",
        run.reason or "",
    )


@click.command()
@options.as_json
@pass_session
def sets(session: Session, /, json_: bool) -> None:
    """List your sets, with how many jobs are in which state; as admin the group's."""
    found = session.client().sets.list()
    if json_:
        output.show_json(found)
    else:
        output.show_sets(found)


@click.command()
@click.option("--group", is_flag=True, help="All members of the group together (admins).")
@options.as_json
@pass_session
def usage(session: Session, /, group: bool, json_: bool) -> None:
    """Show what you used by month, in core hours; as admin what everybody did."""
    from bridge.client.answers import Usage

    client = session.client()
    found: Sequence[Usage | GroupUsage] = client.group_usage() if group else client.usage()
    if json_:
        output.show_json(found)
        return
    columns = ("MONTH", *(() if group else ("USER",)), "RUNS", "CORE HOURS", "GPU HOURS")
    output.show_filled(
        columns,
        [
            (
                line.month,
                *([line.user] if isinstance(line, Usage) else []),
                str(line.attempts),
                f"{line.core_seconds / _HOUR_S:.2f}",
                f"{line.gpu_seconds / _HOUR_S:.2f}",
            )
            for line in found
        ],
        nothing="Nothing was used yet.",
        numbers=columns[-3:],
    )


COMMANDS = (explain, attempts, sets, usage)
