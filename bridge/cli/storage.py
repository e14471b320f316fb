"""Commands for the group's S3 storage: prepare it, and prove that it can be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli import options, output
from bridge.cli.options import Session, pass_session

if TYPE_CHECKING:
    from bridge.client.credentials import Credentials
    from bridge.client.storage_check import Result


@click.group()
def storage() -> None:
    """The group's S3 storage."""


@storage.command()
@click.option(
    "--direct",
    metavar="URL",
    help="The store's own address, past the proxy in front. Default: BRIDGE_S3_SERVER.",
)
@click.option("--user", default="", help="MinIO: name of the group's user. Default: made up.")
@click.option(
    "--out",
    "key_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("group-s3.conf"),
    show_default=True,
    help="MinIO: file for the group's key, as nodes and members take it.",
)
@click.option("--new-secret", is_flag=True, help="MinIO: replace the group's secret.")
@click.option(
    "--expire-days",
    type=click.IntRange(min=1),
    default=None,
    help="Have the store delete data of jobs after so many days. For buckets that exist: "
    "repeat it for later ones.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--policy", is_flag=True, help="Only print the policy of the group's user.")
@options.as_json
@pass_session
def setup(session: Session, /, policy: bool, json_: bool, **chosen: Any) -> None:
    """Make what a group needs at its store; what is there is kept.

    Needs the group token, and BRIDGE_S3_SERVER, the address that members and nodes
    use. On MinIO the key of its administrator comes from the environment only
    (BRIDGE_S3_ADMIN_ACCESS, BRIDGE_S3_ADMIN_SECRET): made are a user with the least
    policy, whose key is written to a file, and the bucket of the images. Elsewhere the
    bucket is made with the group's own key.
    """
    from bridge.client import storage_setup

    known = _known(session)
    known.require("group_token")
    if policy:
        output.show_json(storage_setup.least_policy(f"code-{known.group_token}"))
        return
    known.require("s3_server")
    plan = storage_setup.Plan(
        server=known.s3_server,
        group_token=known.group_token,
        region=known.s3_region,
        ca_file=known.ca_file,
        **_filled(chosen, direct=known.s3_server, expire_days=0),
    )
    own = (known.s3_access, known.s3_secret) if known.s3_access and known.s3_secret else None
    steps = storage_setup.set_up(plan, storage_setup.admin_key(), own)
    if json_:
        output.show_json(steps)
        return
    output.show_table(("WHAT", "DONE"), [(step.what, step.done) for step in steps])


@storage.command()
@click.option(
    "--allow-listing",
    is_flag=True,
    help="All who hold the key trust each other: that it can list all buckets is no failure.",
)
@options.as_json
@pass_session
def check(session: Session, /, allow_listing: bool, json_: bool) -> None:
    """Prove by doing that the store can hold jobs and keeps their buckets secret.

    Works in a bucket of its own, which it deletes. The bucket of the images is looked
    at when the group token is given. Ends with 1 when something is wrong.
    """
    from bridge.client.storage_check import Check

    known = _known(session)
    known.require("s3_server", "s3_access", "s3_secret")
    checks = Check(
        known.s3_server,
        known.s3_access,
        known.s3_secret,
        region=known.s3_region,
        ca_file=known.ca_file,
        code_bucket=f"code-{known.group_token}" if known.group_token else None,
    )
    results = []
    for result in checks.run():
        results.append(result)
        if not json_:
            _show(result)
    if json_:
        output.show_json(results)
    wrong = [one for one in results if not one.ok and not (one.open_list and allow_listing)]
    if wrong:
        click.get_current_context().exit(output.FAILED)


def _show(result: Result) -> None:
    mark = click.style("ok  ", fg="green") if result.ok else click.style("FAIL", fg="red")
    click.echo(f"{mark}  {result.what}{': ' if result.detail else ''}{result.detail}")
    if not result.ok and result.remedy:
        click.echo(f"      {result.remedy}")


def _filled(chosen: dict[str, Any], **defaults: object) -> dict[str, Any]:
    """What was chosen, with a default for what was not."""
    return {name: defaults.get(name) if it is None else it for name, it in chosen.items()}


def _known(session: Session) -> Credentials:
    from bridge.client import credentials

    return credentials.load(session.credentials)


COMMANDS = (storage,)
