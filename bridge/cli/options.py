"""What several commands share: who asks, which jobs, and how amounts are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import click

from bridge.cli import output
from bridge.errors import InvalidRequest, NotFound
from bridge.models.job import JobState

if TYPE_CHECKING:
    from bridge.client.workflow import Client

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_MEBIBYTES: Final = {"": 1, "M": 1, "MIB": 1, "MB": 1, "G": 1024, "GIB": 1024, "GB": 1024}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
# Where the service says that a field is wrong: $.cores, $[3].cores of an array, ?state.
_PLACE: Final = re.compile(r"(?:\$(?:\[\d+\])?\.|\?)(?=(\w+))")
_OPTIONS: Final = {
    "image": "IMAGE",
    "name": "--name",
    "set": "--set",
    "user": "--user",
    "cores": "--cores",
    "memory_mb": "--memory",
    "oom_retry_mb": "--oom-retry",
    "time_limit_s": "--time",
    "priority": "--priority",
}
# Fields that are no word of a sentence.
_FIELDS: Final = re.compile(r"\b(memory_mb|oom_retry_mb|time_limit_s)\b")


@dataclass(frozen=True)
class Session:
    """Where the credentials are, and whether to act as admin."""

    credentials: Path | None = None
    as_admin: bool = False

    def client(self, *, as_admin: bool | None = None) -> Client:
        """A client with these credentials."""
        from bridge.client.workflow import Client

        wanted = self.as_admin if as_admin is None else as_admin
        context = click.get_current_context(silent=True)
        as_json = bool(context and context.find_root().meta.get("json"))
        tell = partial(output.tell, as_json=as_json)
        return Client(credentials=self.credentials, as_admin=wanted, tell=tell)

    def admin(self) -> Client:
        """A client for what only admins may do: their secret, if there is one."""
        from bridge.client import credentials

        known = credentials.load(self.credentials)
        return self.client(as_admin=self.as_admin or bool(known.admin_secret))


pass_session: Final = click.make_pass_decorator(Session, ensure=True)


class Duration(click.ParamType[int]):
    """``90m``, ``2h``, ``1d12h`` or a number of seconds, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of seconds."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(value)
        parts = match.groups() if match else ()
        if not any(parts):
            self.fail(f"{value!r} is no time; write 90m, 2h, 1d or a number of seconds", param, ctx)
        units = ("d", "h", "m", "s")
        return sum(int(part or 0) * _SECONDS[unit] for part, unit in zip(parts, units, strict=True))


class Memory(click.ParamType[int]):
    """``4000`` (MiB), ``4GiB`` or ``1.5G``, as MiB. G is GiB here, as in Docker."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of MiB."""
        if isinstance(value, int):
            return value
        match = _AMOUNT.fullmatch(value)
        if match is None or match[2].upper() not in _MEBIBYTES:
            self.fail(f"{value!r} is no amount of memory; write 4000 (MiB) or 4GiB", param, ctx)
        return int(float(match[1]) * _MEBIBYTES[match[2].upper()])


def overlap(command: F) -> F:
    """The option ``--overlap`` of what makes a new compute secret."""
    option = click.option(
        "--overlap",
        type=Duration(),
        metavar="TIME",
        help="How long nodes that joined with the old secret get jobs yet; 0 after a theft. "
        "Default: as the service is set.",
    )
    return option(command)


def pins(command: F) -> F:
    """The option ``--pins``: which list of a node's downloads."""
    option = click.option(
        "--pins",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="List of the downloads of nodes. Default: the one that nomad-bridge brings.",
    )
    return option(command)


def as_json(command: F) -> F:
    """The option ``--json``; also makes errors of this command JSON."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta["json"] = value
        return value

    option = click.option(
        "--json", "json_", is_flag=True, callback=remember, help="Print JSON, errors too."
    )
    return option(command)


@contextmanager
def named() -> Iterator[None]:
    """Within it, what the service says of a field is said of the option that it came from."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(of_options(error.message), of_options(error.hint)) from error


def of_options(text: str) -> str:
    """A sentence of the service about a submission, with options in place of its fields."""
    place = _PLACE.match(text)
    if place and place[1] in _OPTIONS:
        text = _OPTIONS[place[1]] + text[place.end(1) :]
    return _FIELDS.sub(lambda field: _OPTIONS[field[1]], text)


def limit(command: F) -> F:
    """The option ``--limit`` of what lists the newest."""
    option = click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=50,
        show_default=True,
        metavar="N",
        help="At most so many.",
    )
    return option(command)


def state(command: F) -> F:
    """The option ``--state``."""
    words = click.Choice([str(word) for word in JobState])
    option = click.option("--state", type=words, help="Only jobs in this state.")
    return option(command)


@dataclass(frozen=True)
class Target:
    """A job to act on, as it was named: by a word, or by the folder that was submitted."""

    word: str = ""
    folder: Path | None = None

    @cached_property
    def job(self) -> str:
        """The job's id.

        Raises NotFound when the word is no id or the folder was not submitted, FolderError
        when that cannot be read.
        """
        from bridge.client import handle

        if self.folder is not None:
            return handle.require_job_id(self.folder)
        if not _is_id(self.word):
            raise NotFound(
                f"{self.word} is neither a folder nor a job id",
                "Ids are shown by: nomad-bridge list.",
            )
        return self.word


def targets(command: F) -> F:
    """Which jobs: ids, or folders that were submitted. Default: the current folder."""
    options = (
        click.argument("jobs", nargs=-1, metavar="[JOB|DIR]..."),
        click.option(
            "--dir",
            "dirs",
            multiple=True,
            type=click.Path(path_type=Path),
            help="A submitted folder; may be repeated.",
        ),
        click.option(
            "--dirs",
            "globs",
            multiple=True,
            metavar="GLOB",
            help="Submitted folders, by a pattern.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def in_set(command: F) -> F:
    """The option ``--set``: the jobs that share a name, instead of named ones."""
    option = click.option("--set", "set_", metavar="NAME", help="All jobs of this set, as one.")
    return option(command)


def only_set(name: str, named: dict[str, Any]) -> None:
    """Raises UsageError when the set has no name, or jobs or folders are named beside it."""
    if not name:
        raise click.UsageError("--set needs a name")
    if any(named.values()):
        raise click.UsageError("--set is instead of jobs and folders, not beside them")


def resolve(jobs: tuple[str, ...], dirs: tuple[Path, ...], globs: tuple[str, ...]) -> list[Target]:
    """What was named; whether these are jobs shows when each is asked for its job."""
    # A word may be a folder, and is one if the shell expanded an unquoted pattern.
    words = [Path(word) for word in jobs if not _is_id(word) and Path(word).is_dir()]
    folders = [*dirs, *expand(globs), *words]
    jobs = tuple(word for word in jobs if Path(word) not in words)
    if not jobs and not folders:
        folders = [Path()]
    return [Target(job) for job in jobs] + [Target(folder=folder) for folder in folders]


def _is_id(word: str) -> bool:
    # `get` makes folders that are named so.
    try:
        return bool(UUID(word))
    except ValueError:
        return False


def expand(patterns: tuple[str, ...]) -> list[Path]:
    """The folders that patterns match, sorted.

    Raises UsageError for a pattern that matches none.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = [path for path in map(Path, sorted(glob(pattern))) if path.is_dir()]
        if not matches:
            raise click.UsageError(f"no folder matches {pattern}")
        found += matches
    return found
