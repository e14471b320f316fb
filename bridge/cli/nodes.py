"""Commands for the machines of a group (admins)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bridge.cli import bundle, options, output
from bridge.cli.options import Session, pass_session
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from bridge.client.nodes import Change, Node, Nodes

# What the owner of a node types where the new bundle is; jobs go on meanwhile.
_UPGRADE: Final = "tar -xf nomadrun.tar && nomadrun/get-started.sh && nomadrun/run.sh --restart"

_names: Final = click.argument("names", metavar="NODE...", nargs=-1, required=True)


@click.group()
def nodes() -> None:
    """Machines that run the group's jobs (admins)."""


for _command in bundle.COMMANDS:
    nodes.add_command(_command)


@nodes.command("list")
@options.as_json
@pass_session
def list_(session: Session, /, json_: bool) -> None:
    """List the machines, also those that nobody enrolled.

    Of cores, memory and disk it shows what is free, and all there is.
    """
    found = session.admin().nodes.list()
    if json_:
        output.show_json(found)
    else:
        _show(found)


@nodes.command()
@click.argument("name", metavar="NODE")
@options.as_json
@pass_session
def show(session: Session, /, name: str, json_: bool) -> None:
    """Show everything about one machine."""
    node = session.admin().nodes.show(name)
    if json_:
        output.show_json(node)
    else:
        output.show_fields(_fields(node))


@nodes.command()
@_names
@click.option(
    "--deadline",
    type=options.Duration(),
    default="1h",
    show_default=True,
    metavar="TIME",
    help="When what still runs there is stopped; it then runs again elsewhere.",
)
@options.as_json
@click.pass_context
def drain(ctx: click.Context, /, names: tuple[str, ...], deadline: int, json_: bool) -> None:
    """Give machines no more jobs, and let them finish what they have."""
    ctx.exit(_each(ctx, names, lambda of, name: of.drain(name, deadline), as_json=json_))


@nodes.command()
@_names
@options.as_json
@click.pass_context
def resume(ctx: click.Context, /, names: tuple[str, ...], json_: bool) -> None:
    """Give machines jobs again, after a drain or a quarantine."""
    ctx.exit(_each(ctx, names, lambda of, name: of.resume(name), as_json=json_))


@nodes.command()
@_names
@options.as_json
@click.pass_context
def remove(ctx: click.Context, /, names: tuple[str, ...], json_: bool) -> None:
    """Forget machines that have no jobs.

    Who has the compute secret can enrol them again.
    """
    ctx.exit(_each(ctx, names, lambda of, name: of.remove(name), as_json=json_))


@nodes.command("require-limits")
@click.argument("switch", type=click.Choice(["on", "off"]))
@options.as_json
@pass_session
def require_limits(session: Session, /, switch: str, json_: bool) -> None:
    """Run jobs only on machines that enforce limits, or on all.

    It is about jobs' memory and cores. What has been handed over stays where it is.
    """
    required = switch == "on"
    session.admin().nodes.require_limits(required)
    if json_:
        output.show_json({"required": required})
    elif required:
        click.echo("Jobs run only on nodes that enforce their limits of memory and cores.")
    else:
        click.echo("Jobs run on all nodes of the group.")


@nodes.command()
@click.argument("names", metavar="[NODE...]", nargs=-1)
@options.pins
@click.option("--drain", "drained", is_flag=True, help="Drain those that are behind.")
@options.as_json
@pass_session
def upgrade(
    session: Session, /, names: tuple[str, ...], pins: Path | None, drained: bool, json_: bool
) -> None:
    """Show which machines are behind, and what to do about it."""
    from bridge.client.nodes import changes

    known, wanted = session.admin().nodes, _wanted(pins)
    asked = [known.show(name) for name in names] if names else known.list()
    behind = {node.name: found for node in asked if (found := changes(node, wanted))}
    if drained:
        for name in behind:
            known.drain(name)
    if json_:
        output.show_json(
            [
                {
                    "name": node.name,
                    "state": node.state,
                    "behind": behind.get(node.name, []),
                    "command": _UPGRADE if node.name in behind else None,
                }
                for node in asked
            ]
        )
    else:
        _tell_upgrades(behind, of=len(asked), drained=drained)


def _wanted(pins_file: Path | None) -> dict[str, set[str]]:
    """The versions that this installation brings to nodes, by part."""
    from bridge.client import bundle as bundles
    from bridge.client import pins
    from bridge.client.nodes import STAGE_PROTOCOL
    from bridge.models import pin

    wanted = {"bundle": {bundles.version()}, "stage": {STAGE_PROTOCOL}}
    for one in pin.parse(pins.read(pins_file or pins.shipped())):
        wanted.setdefault(one.name, set()).add(one.version)
    return wanted


def _tell_upgrades(behind: dict[str, list[Change]], *, of: int, drained: bool) -> None:
    rows = [
        (name, change.part, change.found, change.wanted)
        for name, found in behind.items()
        for change in found
    ]
    nothing = f"{output.count(of, 'node')}, none behind this version."
    output.show_filled(("NODE", "PART", "HAS", "WANTED"), rows, nothing=nothing)
    if not behind:
        return
    names = " ".join(behind)
    steps = [
        ("Make the bundle:", "nomad-bridge nodes bundle --out nomadrun.tar"),
        ("On each, as its compute user:", _UPGRADE),
    ]
    if drained:
        steps.append(("Afterwards:", f"nomad-bridge nodes resume {names}"))
    else:
        steps.insert(0, ("To empty them first:", f"nomad-bridge nodes drain {names}"))
    for what, command in steps:
        click.echo(f"{what}\n    {command}", err=True)


def _each(
    ctx: click.Context,
    names: Sequence[str],
    act: Callable[[Nodes, str], Node],
    *,
    as_json: bool,
) -> int:
    """Do one thing to each of some nodes; returns the exit code."""
    known, changed, code = ctx.ensure_object(Session).admin().nodes, [], output.FINE
    for name in names:
        try:
            changed.append(act(known, name))
        except BridgeError as error:
            # One that cannot be steered must not keep the others from it.
            output.show_error(error, as_json=as_json)
            code = code or output.exit_code(error)
    if as_json:
        output.show_json(changed)
    elif changed:
        _show(changed)
    return code


def _show(found: Sequence[Node]) -> None:
    columns: dict[str, Callable[[Node], str]] = {
        "NODE": lambda node: node.name,
        "STATE": lambda node: node.state,
        "JOBS": lambda node: _number(node.attempts),
        "FAILED": lambda node: _number(node.failures) if node.failures else "",
        "CORES": lambda node: _of(node.cores_free, node.cores_total),
        "MEMORY": lambda node: _of(node.memory_free_mb, node.memory_total_mb, 1024, " GiB"),
        "DISK": lambda node: _of(node.disk_free_mb, node.disk_total_mb, 1000, " GB"),
        "SEEN": lambda node: output.age(node.last_seen_at),
        "TEST": _tested,
        "DETAIL": _detail,
    }
    rows = [[cell(node) for cell in columns.values()] for node in found]
    output.show_filled(
        list(columns),
        rows,
        nothing="No nodes. Make a bundle for the first one: nomad-bridge nodes bundle",
        numbers=["JOBS", "FAILED", "CORES", "MEMORY", "DISK"],
    )


def _fields(node: Node) -> list[tuple[str, str]]:
    test = node.selftest
    return [
        ("Node", node.name),
        ("State", node.state),
        ("Why", node.reason or ""),
        ("Jobs", _number(node.attempts)),
        ("Failed in a row", _number(node.failures)),
        ("Free cores", _of(node.cores_free, node.cores_total)),
        ("Free memory", _of(node.memory_free_mb, node.memory_total_mb, 1024, " GiB")),
        ("Free disk", _of(node.disk_free_mb, node.disk_total_mb, 1000, " GB")),
        ("Limits of jobs", {True: "enforced", False: "NOT ENFORCED", None: ""}[node.limits]),
        ("Self-test", f"{_tested(node)} {output.ago(test.at)}".strip() if test else ""),
        ("", test.detail or "" if test else ""),
        ("Versions", ", ".join(f"{part} {has}" for part, has in sorted(node.versions.items()))),
        ("Secret", "" if node.generation_current in {True, None} else "before the last rotation"),
        ("Enrolled", output.ago(node.enrolled_at)),
        ("Certificate", _certificate(node.expires_at)),
        ("Seen", output.ago(node.last_seen_at)),
        ("Nomad", node.ui_url or ""),
    ]


def _number(number: int | None) -> str:
    return "" if number is None else str(number)


def _of(free: int | None, total: int | None, per: int = 1, unit: str = "") -> str:
    """How much of something is free, for example ``6/8``."""
    if total is None:
        return ""
    parts = [total] if free is None else [free, total]
    return "/".join(f"{part / per:.0f}" for part in parts) + unit


def _tested(node: Node) -> str:
    if node.selftest is None or node.selftest.ok is None:
        return ""
    return "ok" if node.selftest.ok else "failed"


def _detail(node: Node) -> str:
    """What an admin should know of a node, in a few words."""
    told = [node.reason or ""]
    if node.generation_current is False and not node.reason:
        # It still gets jobs, for a while.
        told.append("enrolled before the compute secret was rotated; it needs the new bundle")
    if node.selftest and node.selftest.ok is False:
        told.append(node.selftest.detail or "")
    if node.limits is False:
        told.append("limits of jobs are not enforced")
    return "; ".join(part.rstrip(".") for part in told if part)


def _certificate(expires_at: datetime | None) -> str:
    if expires_at is None:
        return ""
    now = datetime.now(UTC)
    if expires_at <= now:
        return f"ended {output.ago(expires_at)}"
    return f"for another {output.duration(now, expires_at)}"


COMMANDS = (nodes,)
