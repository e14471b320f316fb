"""Commands of a group's admins, and the operator's way to replace a lost secret."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.cli import options, output
from bridge.cli.options import Session, pass_session


@click.group()
def users() -> None:
    """Members of the group (admins)."""


@users.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="An admin; for daily work, use a regular user.")
@options.as_json
@pass_session
def add(session: Session, /, name: str, admin: bool, json_: bool) -> None:
    """Add a member and print the API secret, this once."""
    secret = session.admin().add_user(name, admin=admin)
    if json_:
        output.show_json({"name": name, "admin": admin, "secret": secret})
    else:
        click.echo(secret)


@users.command("list")
@options.as_json
@pass_session
def list_(session: Session, /, json_: bool) -> None:
    """List the members."""
    found = session.admin().users()
    if json_:
        output.show_json(found)
        return
    output.show_table(
        ("NAME", "ROLE", "ADDED", "LAST USED", "REVOKED"),
        [
            (
                user.name,
                "admin" if user.admin else "member",
                output.ago(user.created_at),
                output.ago(user.last_used_at),
                output.ago(user.revoked_at),
            )
            for user in found
        ],
    )


@users.command()
@click.argument("name")
@options.as_json
@pass_session
def revoke(session: Session, /, name: str, json_: bool) -> None:
    """End a member's access at once. Jobs and data stay."""
    user = session.admin().revoke_user(name)
    if json_:
        output.show_json(user)
    else:
        click.echo(f"{user.name} has no access any more")


@users.command("reset-secret")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    help="The service's configuration: this works on its host only.",
)
@click.option("--group", required=True, help="The user's group.")
@click.argument("name")
@options.as_json
def reset_secret(config: Path, group: str, name: str, json_: bool) -> None:
    """Replace a lost secret (operator) and print the new one, this once."""
    from bridge.cli.host import opened

    with opened(config) as groups:
        secret = groups.reset_secret(group, name)
    if json_:
        output.show_json({"group": group, "name": name, "secret": secret})
    else:
        click.echo(secret)


@click.group("compute-secret")
def compute_secret() -> None:
    """The secret that lets machines join the group (admins)."""


@compute_secret.command()
@options.overlap
@options.as_json
@pass_session
def rotate(session: Session, /, overlap: int | None, json_: bool) -> None:
    """Make a new compute secret and print it, this once; no machine joins with the old one."""
    secret = session.admin().rotate_compute_secret(overlap_s=overlap)
    if json_:
        output.show_json({"secret": secret})
    else:
        click.echo(secret)


COMMANDS = (users, compute_secret)
