"""Commands that do one thing to each of some jobs, or to a set as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from bridge.cli import options, output
from bridge.cli.options import Session
from bridge.cli.several import each

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.client.answers import Job
    from bridge.client.workflow import Client

# Why a verb changed no job of a set, and what else there is.
_WHY_NONE: Final = {
    "cancel": "all have ended or were asked to stop before",
    "prune": "none has ended whose data is still there",
    "hold": "none waits that is not held already",
    "release": "none is held",
    "retry": "none has failed and kept its data; canceled ones are put back one by one, "
    "by id or --dirs",
}


def _steering(verb: str, text: str, done: str) -> click.Command:
    @click.command(verb, help=text)
    @options.targets
    @options.in_set
    @options.as_json
    @click.pass_context
    def command(ctx: click.Context, /, set_: str | None, json_: bool, **named: Any) -> None:
        client = ctx.ensure_object(Session).client()
        if set_ is None:
            ctx.exit(_each(getattr(client, verb), named, as_json=json_))
        options.only_set(set_, named)
        changed = _as_one(client, verb, set_)
        if json_:
            output.show_json({"set": set_, "changed": changed})
        else:
            why = "" if changed else f": {_WHY_NONE[verb]}"
            click.echo(f"{output.count(changed, 'job')} of set {set_!r} {done}{why}")

    return command


def _each(act: Callable[[str], Job], named: dict[str, Any], *, as_json: bool) -> int:
    jobs, code = each(options.resolve(**named), lambda target: act(target.job), as_json=as_json)
    if as_json:
        output.show_json(jobs)
    elif jobs:
        output.show_jobs(jobs)
    return code


def _as_one(client: Client, verb: str, name: str) -> int:
    if verb != "prune":
        act: Callable[[str], int] = getattr(client.sets, verb)
        return act(name)
    # Every job has a bucket of its own to delete: this may take a while.
    with output.counting("Deleting") as advance:
        return client.sets.prune(name, report=lambda _: advance(1))


COMMANDS = (
    _steering("cancel", "Stop jobs; what they wrote so far is kept.", "canceled"),
    _steering("prune", "Delete the data of ended jobs, for good.", "pruned"),
    _steering("hold", "Keep waiting jobs from starting.", "held"),
    _steering("release", "Let held jobs start.", "released"),
    _steering("retry", "Run failed or canceled jobs again; of a set, the failed ones.", "put back"),
)
