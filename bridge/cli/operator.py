"""Commands of whoever runs the service, on its host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli import options, output
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.config import Config

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The service's configuration, config.yaml.",
)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--group", required=True, help="Name of the first group.")
@click.option("--admin", required=True, help="Name of its admin.")
@click.option("--user", required=True, help="Name of its first regular user.")
@click.option(
    "--bind",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the service listens.",
)
@click.option(
    "--s3-bind",
    default="127.0.0.1:9000",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the embedded storage listens.",
)
@click.option(
    "--runtime",
    type=click.Choice(["docker", "process"]),
    help="How this machine runs jobs. Default: docker if an engine answers, else process, "
    "which isolates nothing.",
)
@options.as_json
def init(directory: Path, json_: bool, **given: str | None) -> None:
    """Make a service in a new folder DIR: configuration, database, keys.

    DIR/credentials.env then holds every secret that was made; nothing else does.
    """
    from bridge.cli import initialise

    wanted = initialise.Wanted(
        group=given["group"] or "",
        admin=given["admin"] or "",
        user=given["user"] or "",
        bind=given["bind"] or "",
        s3_bind=given["s3_bind"] or "",
        runtime=given["runtime"] or initialise.best_runtime(),
    )
    initialise.initialise(directory, wanted)
    if json_:
        paths = {"config": directory / "config.yaml", "credentials": directory / "credentials.env"}
        output.show_json({"runtime": wanted.runtime} | {k: str(v) for k, v in paths.items()})
        return
    click.echo(f"Jobs will run by the {wanted.runtime} runtime{_warning(wanted.runtime)}.")
    click.echo(f"Start the service:  nomad-bridge serve --config {directory}/config.yaml")
    click.echo(f"Then, elsewhere:    export BRIDGE_CREDENTIALS={directory}/credentials.env")


def _warning(runtime: str) -> str:
    return "" if runtime == "docker" else ", as plain programs of this user WITHOUT ISOLATION"


@click.command()
@config_option
@click.option("--bind", metavar="HOST:PORT", help="Listen here, whatever the file says.")
def serve(config: Path, bind: str | None) -> None:
    """Run the service until it is interrupted. Jobs outlive it."""
    from bridge import daemon
    from bridge.cli.host import loaded

    daemon.run(
        loaded(config, server__bind=bind),
        ready=lambda address: click.echo(f"Listening on http://{address}", err=True),
    )


@click.group()
def groups() -> None:
    """Groups of this service (operator, on its host)."""


@groups.command()
@config_option
@click.option("--admin", required=True, help="Name of the group's first admin.")
@click.option("--connector", help="Where its jobs run. Default: the first one configured.")
@click.argument("name")
@options.as_json
def add(config: Path, admin: str, connector: str | None, name: str, json_: bool) -> None:
    """Add a group; print its token and its admin's secret, this once."""
    from bridge.cli.host import loaded, wired

    settings = loaded(config)
    chosen = _configured(settings, connector or settings.connectors[0])
    with wired(settings) as bridge:
        group, secret = bridge.groups.add_group(name, admin, connector=chosen)
    shown = {
        "group": group.name,
        "group_token": group.token,
        "admin": admin,
        "admin_secret": secret,
        "code_bucket": group.code_bucket,
    }
    if json_:
        output.show_json(shown)
        return
    for key, value in shown.items():
        click.echo(f"{key}: {value}")


@groups.command()
@config_option
@click.option("--connector", required=True, help="Where its jobs run from now on.")
@click.argument("name")
def move(config: Path, connector: str, name: str) -> None:
    """Have a group's jobs run by another connector.

    Those that wait are handed over there: at once where machines are free, else as
    those that still wait at the old connector start or end. Those that were handed over,
    or were about to be, stay with the old one, and go on while it is configured.
    """
    from bridge.cli.host import loaded, wired

    settings = loaded(config)
    chosen = _configured(settings, connector)
    with wired(settings) as bridge:
        group = bridge.groups.move_group(name, chosen)
    click.echo(
        f"Jobs of {group.name} are handed over to {chosen}, "
        f"namespace {group.namespace}, node pool {group.node_pool}.",
        err=True,
    )


def _configured(config: Config, connector: str) -> str:
    if connector not in config.connectors:
        raise ConfigError(
            f"the connector {connector!r} is not configured",
            f"Configured are: {', '.join(config.connectors)}.",
        )
    return connector


@groups.command("list")
@config_option
@options.as_json
def list_(config: Path, json_: bool) -> None:
    """List the groups."""
    from bridge.cli.host import opened

    with opened(config) as rooms:
        found = rooms.list_groups()
    rows = [
        {
            "name": group.name,
            "connector": group.connector,
            "namespace": group.namespace,
            "node_pool": group.node_pool,
            "compute_secret": group.has_compute_secret,
        }
        for group in found
    ]
    if json_:
        output.show_json(rows)
        return
    output.show_table(
        ("NAME", "CONNECTOR", "NAMESPACE", "NODE POOL", "COMPUTE SECRET"),
        [
            (
                group.name,
                group.connector,
                group.namespace,
                group.node_pool,
                "set" if group.has_compute_secret else "none yet",
            )
            for group in found
        ],
    )


COMMANDS = (init, serve, groups)
