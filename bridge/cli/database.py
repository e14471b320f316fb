"""Commands on the service's database, on its host."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli.operator import config_option

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def db() -> None:
    """The service's database: backup, restore, upgrade (operator, on its host)."""


@db.command()
@config_option
@click.argument("file", type=_FILE)
def backup(config: Path, file: Path) -> None:
    """Copy the database into the new file FILE. The service may run meanwhile.

    Configuration, keys and buckets are not in it.
    """
    from bridge import backup as backups
    from bridge.cli.host import loaded

    backups.make(loaded(config).database.url, file)
    click.echo(f"Wrote {file}, {file.stat().st_size} bytes.", err=True)


@db.command()
@config_option
@click.argument("file", type=_FILE)
def restore(config: Path, file: Path) -> None:
    """Replace the database by the backup FILE. The service must not run.

    When it starts again, it first looks at what lives at its schedulers. Jobs that
    may have run since the backup are not run again: they end as failed, with a reason.
    """
    from bridge import backup as backups
    from bridge.cli.host import loaded

    epoch = backups.restore(loaded(config).database.url, file)
    click.echo(f"Restored {file}; this is epoch {epoch}. Start the service now.", err=True)


@db.command()
@config_option
def upgrade(config: Path) -> None:
    """Bring the database to this program's version. `serve` does it too."""
    from bridge import app
    from bridge.cli.host import loaded

    app.open_database(loaded(config)).close()
    click.echo("The database is up to date.", err=True)


COMMANDS = (db,)
