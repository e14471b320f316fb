"""Commands for whoever runs the Nomad cluster: set it up for the bridge, check it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bridge.cli import options, output
from bridge.cli.operator import config_option
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.config import Config
    from bridge.connectors.base import Finding
    from bridge.connectors.nomad.setup import Place, Step

_WOULD: Final = {"made": "would be made", "changed": "would be changed"}
_TOKEN: Final = "NOMAD_TOKEN"  # noqa: S105 - the name of a variable


@click.group()
def nomad() -> None:
    """The Nomad cluster that jobs run on (operator, on the service's host)."""


@nomad.command()
@config_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@options.as_json
def setup(config: Path, groups: tuple[str, ...], dry_run: bool, json_: bool) -> None:
    """Make what groups need at Nomad: namespace, node pool, policies, the two tokens.

    Needs a management token in the environment variable NOMAD_TOKEN, which is not kept. The
    bridge's own tokens are written into the files of nomad.token_file and
    nomad.node_token_file. What is there already is left as it is.
    """
    from bridge.cli.host import loaded

    steps = list(_steps(loaded(config), groups, dry_run))
    if json_:
        output.show_json({"dry_run": dry_run, "steps": steps})
        return
    rows = [
        (_WOULD.get(step.did, step.did) if dry_run else step.did, step.what, step.detail)
        for step in steps
    ]
    output.show_table(("", "WHAT", "DETAIL"), rows)


@nomad.command()
@config_option
@options.as_json
@click.pass_context
def check(ctx: click.Context, config: Path, json_: bool) -> None:
    """Try everything that the bridge and the groups' machines need from Nomad.

    Exit code 1 if something is wrong. With a token in NOMAD_TOKEN that may read the servers'
    configuration (`agent read`), that is looked at, too.
    """
    from bridge.cli.host import loaded

    found = list(_findings(loaded(config)))
    ok = all(one.ok for one in found)
    if json_:
        output.show_json({"ok": ok, "findings": found})
    else:
        _show(found)
    ctx.exit(output.FINE if ok else output.FAILED)


def _show(found: list[Finding]) -> None:
    """What is wrong has its remedy in the line below, where somebody reads."""
    rows = [("ok" if one.ok else "WRONG", one.what, one.detail, one.remedy) for one in found]
    output.show_filled(("", "WHAT", "DETAIL", "REMEDY"), rows, nothing="Nothing was looked at.")


def _steps(config: Config, groups: tuple[str, ...], dry_run: bool) -> Iterator[Step]:
    from bridge import app
    from bridge.connectors.nomad.setup import (
        BRIDGE_POLICY,
        NODES_POLICY,
        SetupClient,
        TokenPlace,
        setup,
    )

    settings = config.nomad
    client = SetupClient(app.nomad_connection(config, ""), _management_token())
    tokens = (
        TokenPlace("nomad.token_file", BRIDGE_POLICY, settings.token_file, settings.token),
        TokenPlace(
            "nomad.node_token_file", NODES_POLICY, settings.node_token_file, settings.node_token
        ),
    )
    yield from setup(client, _named(config, groups), tokens, dry_run=dry_run)


def _findings(config: Config) -> Iterator[Finding]:
    from bridge import app
    from bridge.connectors.nomad.check import Asked, Checks, Probe
    from bridge.connectors.nomad.keeper import NodeKeeper, second

    first, nodes = app.nomad_tokens(config)
    connection = app.nomad_connection(config, first)
    health = app.nomad_connector(config, "bridge-check-").check()
    yield from health.findings
    if any(not one.ok and one.what in ("reachable", "token") for one in health.findings):
        return
    asked = Asked(
        places=_places(config),
        enrolment=app.nomad_enrolment(config),
        client_cert=config.nomad.client_cert,
        forget_after_s=config.queue.forget_after_s,
        node_lost_after_s=config.queue.node_lost_after_s,
        upload_limit_s=max(config.queue.upload_limit_s, config.queue.upload_patience_s),
    )
    agent = Probe(app.nomad_connection(config, _environment_token() or first))
    keeper = NodeKeeper(second(connection, nodes))
    yield from Checks(Probe(connection), keeper, agent, asked).run()


def _named(config: Config, names: tuple[str, ...]) -> list[Place]:
    """Where these groups' jobs go. A group may be set up before it is added."""
    from bridge.connectors.nomad.setup import Place
    from bridge.core.groups import default_place

    known = {place.group: place for place in _places(config)}
    return [
        known.get(name) or Place(name, default_place(name), default_place(name))
        for name in dict.fromkeys(names)
    ]


def _places(config: Config) -> list[Place]:
    from bridge.cli.host import known_groups
    from bridge.connectors.nomad.setup import Place

    return [
        Place(group.name, group.namespace, group.node_pool)
        for group in known_groups(config)
        if group.connector == "nomad"
    ]


def _management_token() -> str:
    token = _environment_token()
    if not token:
        raise ConfigError(
            f"{_TOKEN} is not set",
            f"Set it to a management token for this one command: {_TOKEN}=... nomad-bridge ...",
        )
    return token


def _environment_token() -> str:
    from bridge import log
    from bridge.process import environment

    token = environment().get(_TOKEN, "")
    log.redact(token)
    return token


COMMANDS = (nomad,)
