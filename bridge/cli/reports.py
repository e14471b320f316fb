"""Commands that tell why a job waits, what became of it, how sets stand, who used what."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from bridge.cli import options, output
from bridge.cli.options import Session, pass_session

if TYPE_CHECKING:
    from bridge.client.answers import Attempt

_HOUR_S: Final = 3600


@click.command()
@options.targets
@options.as_json
@pass_session
def explain(session: Session, /, json_: bool, **named: Any) -> None:
    """Say why a job waits, or what became of it, in a sentence."""
    client = session.client()
    found = [(target.job, client.explain(target.job)) for target in options.resolve(**named)]
    if json_:
        shown = [
            {
                "job": job,
                "explanation": why.explanation,
                "ahead": why.ahead,
                "details": why.details,
            }
            for job, why in found
        ]
        output.show_json(shown[0] if len(shown) == 1 else shown)
    elif len(found) == 1:
        click.echo(found[0][1].explanation)
    else:
        output.show_table(("JOB", "WHY"), [(job, why.explanation) for job, why in found])


@click.command()
@options.targets
@options.as_json
@pass_session
def attempts(session: Session, /, json_: bool, **named: Any) -> None:
    """Show the runs of a job: where, how long, how they ended."""
    client = session.client()
    found = [(target.job, client.attempts(target.job)) for target in options.resolve(**named)]
    if json_:
        output.show_json([{"job": job, "attempts": runs} for job, runs in found])
        return
    # One job needs no name before people, but lines in a pipe always look the same.
    with_job = len(found) > 1 or not sys.stdout.isatty()
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
@options.as_json
@pass_session
def usage(session: Session, /, json_: bool) -> None:
    """Show what you used by month, in core hours; as admin what everybody did."""
    found = session.client().usage()
    if json_:
        output.show_json(found)
        return
    columns = ("MONTH", "USER", "RUNS", "CORE HOURS", "GPU HOURS")
    output.show_table(
        columns,
        [
            (
                line.month,
                line.user,
                str(line.attempts),
                f"{line.core_seconds / _HOUR_S:.2f}",
                f"{line.gpu_seconds / _HOUR_S:.2f}",
            )
            for line in found
        ],
        numbers=columns[2:],
    )


COMMANDS = (explain, attempts, sets, usage)
