"""What the command line prints: tables for people, lines for pipes, JSON on request.

Results go to standard output. Errors and progress go to standard error, progress
only when that is a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bridge import errors
from bridge.errors import BridgeError
from bridge.models.words import noun

if TYPE_CHECKING:
    from bridge.client.answers import Job, JobSet

FINE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_ALLOWED: Final = 3
NOT_FOUND: Final = 4
UNREACHABLE: Final = 5

# The most special class first.
_EXIT_CODES: Final[tuple[tuple[type[BridgeError], int], ...]] = (
    (errors.Unauthenticated, NOT_ALLOWED),
    (errors.Forbidden, NOT_ALLOWED),
    (errors.NotFound, NOT_FOUND),
    (errors.Unreachable, UNREACHABLE),
    (errors.Unavailable, UNREACHABLE),
    (errors.TooMany, UNREACHABLE),
    (errors.FolderError, USAGE),
    (errors.Refused, USAGE),
    (errors.ConfigError, USAGE),
)
_COLOURS: Final = {
    "running": "cyan",
    "submitted": "blue",
    "completed": "green",
    "failed": "red",
    "canceled": "yellow",
    # Of nodes.
    "ready": "green",
    "enrolled": "blue",
    "initializing": "blue",
    "disconnected": "yellow",
    "draining": "yellow",
    "ineligible": "yellow",
    "paused": "yellow",
    "down": "red",
    "quarantined": "red",
    "stranger": "red",
}


def at_terminal() -> bool:
    """Whether results are read by a person, and not by a program."""
    return sys.stdout.isatty()


def colour(state: str) -> str:
    """The colour of a job's or node's state; empty for a word that is none."""
    return _COLOURS.get(state, "")


def exit_code(error: BridgeError) -> int:
    """The exit code that an error leads to."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), FAILED)


def tell(sentence: str, *, as_json: bool = False) -> None:
    """Something to know beside the results, on standard error."""
    _say(json.dumps({"note": sentence}) if as_json else sentence)


def _say(text: str) -> None:
    # By name: err=True would write past a progress bar, into its line.
    click.echo(text, file=sys.stderr)


def show_error(
    error: BridgeError,
    *,
    as_json: bool = False,
    job: str | None = None,
    folder: Path | None = None,
    not_tried: int = 0,
    with_hint: bool = True,
) -> None:
    """An error and what to do about it, on standard error.

    ``job`` and ``folder`` say which of several jobs it is about, ``not_tried`` how many
    were left alone after it.
    """
    hint = error.hint if with_hint else ""
    if not_tried:
        hint = f"{hint} {count(not_tried, 'more job')} not tried.".strip()
    if as_json:
        from bridge.client.api import word_of

        shape: dict[str, str | None]
        shape = {"error": word_of(error), "detail": error.message, "hint": hint}
        if job or folder:
            shape |= {"job": job, "folder": str(folder) if folder else None}
        _say(json.dumps(shape))
        return
    which = f"{folder} ({job}): " if folder and job else f"{job}: " if job else ""
    _say(f"{click.style('Error:', fg='red', bold=True)} {which}{error.message}")
    if hint:
        _say(hint)


def show_json(value: object) -> None:
    """A value as JSON, values of ours as objects with their fields."""
    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=str), indent=2, ensure_ascii=False))


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()
) -> None:
    """A table on a terminal; in a pipe one line per row, columns apart by tabs."""
    if not at_terminal():
        for row in rows:
            click.echo("\t".join(row))
        return
    draw_table(columns, rows, numbers)


def show_filled(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    nothing: str,
    numbers: Collection[str] = (),
) -> None:
    """As ``show_table``; on a terminal columns that would be empty are left out, and
    ``nothing`` is said when there is no row.
    """
    if not at_terminal():
        show_table(columns, rows)
    elif not rows:
        click.echo(nothing, err=True)
    else:
        filled = [at for at in range(len(columns)) if any(row[at] for row in rows)]
        draw_table(
            [columns[at] for at in filled], [[row[at] for at in filled] for row in rows], numbers
        )


def draw_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()
) -> None:
    """A table for people, wherever it is printed; ``numbers`` are columns set to the right."""
    from bridge.cli import tables

    tables.draw(columns, rows, numbers, colour)


def show_fields(fields: Iterable[tuple[str, str]]) -> None:
    """What is known of one thing, a line for each name and value; empty values are left out."""
    told = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in told), default=0)
    on_terminal = at_terminal()
    for name, value in told:
        if on_terminal:
            shade = colour(value) or None
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {click.style(value, shade)}")
        else:
            click.echo(f"{name}\t{value}")


def show_jobs(jobs: Sequence[Job]) -> None:
    """One line per job."""
    columns: dict[str, Callable[[Job], str]] = {
        "JOB": lambda job: job.id,
        "NAME": lambda job: job.name,
        "SET": lambda job: job.set or "",
        "USER": lambda job: job.user,
        "STATE": lambda job: str(job.state),
        "AGE": lambda job: age(job.created_at),
        "DETAIL": detail,
    }
    rows = [[cell(job) for cell in columns.values()] for job in jobs]
    show_filled(list(columns), rows, nothing="No jobs.")


def show_sets(sets: Sequence[JobSet]) -> None:
    """One line per set: how many jobs it has, and how many in each state."""
    from bridge.models.job import JobState

    states = [state.upper() for state in JobState]
    rows = [
        [
            one.name,
            str(one.size),
            *(str(one.jobs.get(state, "")) for state in JobState),
            age(one.last_at),
        ]
        for one in sets
    ]
    columns = ["SET", "JOBS", *states, "AGE"]
    show_filled(columns, rows, nothing="No sets.", numbers=["JOBS", *states])


def detail(job: Job) -> str:
    """Why a job is where it is, in a few words."""
    if job.cancel_requested_at and not job.ended:
        return "asked to stop"
    if job.reason:
        return job.reason
    if job.pruned_at:
        return "data pruned"
    if job.hold and not job.ended:
        return "held"
    if job.phase and not job.ended:
        return job.phase
    return ""


def age(moment: datetime | None) -> str:
    """How long ago something was, for example ``5 min``."""
    return duration(moment, None)


def duration(start: datetime | None, end: datetime | None) -> str:
    """How long something took, or takes if it has no end, for example ``5 min``."""
    if start is None:
        return ""
    seconds = max(0.0, ((end or datetime.now(UTC)) - start).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(moment: datetime | None) -> str:
    """As ``age``, in a sentence: ``5 min ago``."""
    return f"{age(moment)} ago" if moment else ""


def count(number: int, what: str) -> str:
    """A number of things, for example ``2 jobs``."""
    return f"{number} {noun(number, what)}"


def size(count: float) -> str:
    """Bytes as people write them, for example ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A progress bar over ``total`` things; gives the function to advance it."""
    with _progress(what, total, in_bytes=False) as advance:
        yield advance


@contextmanager
def transferring(what: str) -> Iterator[Callable[[int], None]]:
    """A display of bytes that went over; gives the function to count them."""
    with _progress(what, None, in_bytes=True) as advance:
        yield advance


@contextmanager
def _progress(what: str, total: int | None, *, in_bytes: bool) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress
    from rich.console import Console

    columns: list[Any] = [progress.TextColumn("{task.description}")]
    if in_bytes:
        columns += [progress.SpinnerColumn(), progress.DownloadColumn()]
        columns += [progress.TransferSpeedColumn()]
    else:
        columns += [progress.BarColumn(), progress.MofNCompleteColumn()]
    columns += [progress.TimeElapsedColumn()]
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
