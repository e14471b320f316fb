"""Commands for the group's images."""

from __future__ import annotations

import click

from bridge.cli import options, output
from bridge.cli.options import Session, pass_session


@click.group()
def codes() -> None:
    """Images that jobs of the group can use."""


@codes.command("list")
@options.as_json
@pass_session
def list_(session: Session, /, json_: bool) -> None:
    """List the published images."""
    found = session.client().codes()
    if json_:
        output.show_json(found)
    else:
        rows = [(code.image, output.size(code.size)) for code in found]
        output.show_table(("IMAGE", "SIZE"), rows)


@codes.command()
@click.argument("image", metavar="CODE:VERSION")
@click.option("--replace", is_flag=True, help="Replace a published image of that name.")
@options.as_json
@pass_session
def publish(session: Session, /, image: str, replace: bool, json_: bool) -> None:
    """Upload an image of this machine's Docker for the group."""
    with output.transferring("Uploading") as progress:
        code = session.client().publish(image, replace=replace, progress=progress)
    if json_:
        output.show_json(code)
    else:
        click.echo(f"{code.image} ({output.size(code.size)})")


COMMANDS = (codes,)
