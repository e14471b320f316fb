"""``nodes bundle`` and ``nodes pins``: what is handed to the owner of a machine."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from bridge import log
from bridge.cli import options, output
from bridge.cli.options import Session, pass_session
from bridge.errors import ConfigError, Unauthenticated
from bridge.models.pin import ARCHITECTURES
from bridge.models.secret import SecretKind, kind_of
from bridge.process import environment

if TYPE_CHECKING:
    from bridge.client.bundle import Contents
    from bridge.client.pins import Checked
    from bridge.client.workflow import Client

# What the owner of a machine types where the bundle is.
START: Final = "tar -xf nomadrun.tar && nomadrun/get-started.sh && nomadrun/run.sh --install"

_force: Final = click.option("--force", is_flag=True, help="Replace a file of that name.")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="nomadrun.tar",
    show_default=True,
    metavar="FILE",
    help="File to make, readable by you alone.",
)
@click.option("--url", help="The service's address for nodes. Default: BRIDGE_URL.")
@click.option(
    "--ca",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate (PEM) of the CA behind an https address. Default: BRIDGE_CA_FILE.",
)
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(ARCHITECTURES),
    multiple=True,
    default=("amd64",),
    show_default=True,
    help="Kind of machine it is for; may be repeated.",
)
@options.pins
@click.option(
    "--secret-stdin",
    is_flag=True,
    help="Read the compute secret from standard input. Default: BRIDGE_COMPUTE_SECRET of the "
    "environment, else of the credentials file.",
)
@click.option("--rotate", is_flag=True, help="Make a new compute secret for it.")
@options.overlap
@_force
@options.as_json
@pass_session
def bundle(
    session: Session,
    /,
    out: Path,
    secret_stdin: bool,
    rotate: bool,
    overlap: int | None,
    force: bool,
    json_: bool,
    **parts: Any,
) -> None:
    """Make the file that turns a machine into a node of the group (admins).

    It holds group token and compute secret, so hand it over as you would a key. It holds
    no key of the storage.
    """
    from bridge.client.bundle import pack
    from bridge.client.whole_file import whole_file

    if rotate and secret_stdin:
        raise click.UsageError("--rotate makes a secret, --secret-stdin reads one: choose")
    if overlap is not None and not rotate:
        raise click.UsageError("--overlap belongs to --rotate")
    client = session.admin()
    # The secret is checked for the admin's own group: so is the token, whatever else lies about.
    contents = _contents(session, client.whoami().group_token or "", **parts)
    with whole_file(out, replace=force) as file:
        # A new secret is nowhere but in the bundle: it is made when nothing else can fail.
        if rotate:
            secret = client.rotate_compute_secret(overlap_s=overlap)
        else:
            secret = _checked(client, _from_input() if secret_stdin else _known_secret(session))
        file.write(pack(contents, secret))
    if json_:
        shown = {"file": str(out), "version": contents.version, "url": contents.url}
        output.show_json(shown | {"rotated": rotate})
    else:
        click.echo(f"{out} (version {contents.version}, for {contents.url})")
        click.echo(f"On the machine, as its compute user:\n    {START}", err=True)
    _warn(contents.url)


def _checked(client: Client, secret: str) -> str:
    """The secret, if it is the group's. Raises Unauthenticated."""
    if not client.is_compute_secret(secret):
        raise Unauthenticated(
            "The compute secret is not, or no longer, that of the group.",
            "Make a new one, for all nodes: --rotate.",
        )
    return secret


def _contents(
    session: Session,
    group_token: str,
    *,
    url: str | None,
    ca: Path | None,
    pins: Path | None,
    architectures: tuple[str, ...],
) -> Contents:
    from bridge.client import bundle as bundles
    from bridge.client import credentials
    from bridge.client import pins as lists

    known = credentials.load(session.credentials, url=url)
    return bundles.contents(
        url=known.url,
        group_token=group_token,
        pins_text=lists.read(pins or lists.shipped()),
        architectures=sorted(set(architectures)),
        ca_file=ca or (Path(known.ca_file) if known.ca_file else None),
    )


def _known_secret(session: Session) -> str:
    """The compute secret of the environment, else of the credentials. Raises ConfigError."""
    from bridge.client import credentials

    secret = environment().get(credentials.COMPUTE_VARIABLE)
    return _compute_secret(secret or credentials.load(session.credentials).compute_secret)


def _from_input() -> str:
    """The compute secret that is typed or piped in. Raises ConfigError."""
    if sys.stdin.isatty():
        return _compute_secret(click.prompt("Compute secret", hide_input=True, err=True))
    return _compute_secret(sys.stdin.readline())


def _compute_secret(text: str) -> str:
    secret = text.strip()
    log.redact(secret)
    kind = kind_of(secret)
    if kind is not SecretKind.COMPUTE:
        what = "is an API secret" if kind else "does not look like one" if secret else "is missing"
        raise ConfigError(
            f"The compute secret {what}; it begins with {SecretKind.COMPUTE}_.",
            "Set BRIDGE_COMPUTE_SECRET or give --secret-stdin. An admin whose group lost it makes "
            "a new one with --rotate.",
        )
    return secret


def _warn(url: str) -> None:
    """Say what is doubtful of the address that nodes will use."""
    parts = urlsplit(url)
    if _is_here(parts.hostname or ""):
        click.echo(f"{url} is reached from this machine only; --url names another.", err=True)
    elif parts.scheme == "http":
        click.echo(
            "The address is http: the compute secret can be read on its way. Put a proxy with "
            "TLS in front of the service.",
            err=True,
        )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@click.command("pins")
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder with the downloads, and the vendors' lists of hashes.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The list to write. Default: DIR/pins.",
)
@options.pins
@_force
@options.as_json
def fill(folder: Path, out: Path | None, pins: Path | None, force: bool, json_: bool) -> None:
    """Write the list of downloads of nodes with their SHA-256.

    A file is refused when it has another SHA-256 than the list or the vendor's own
    *SHA256SUMS* beside it say, or is for another kind of machine. Get the files on a
    network that you trust: nodes take exactly these.
    """
    from bridge.client import pins as lists
    from bridge.client.whole_file import whole_file
    from bridge.models import pin

    text = lists.read(pins or lists.shipped())
    checked = lists.check(pin.parse(text), folder)
    if not any(one.file for one in checked):
        names = ", ".join(sorted({one.pin.file_name for one in checked}))
        raise ConfigError(f"{folder} has none of the downloads.", f"Looked for: {names}.")
    target = out or folder / "pins"
    with whole_file(target, replace=force, mode=0o644) as file:
        file.write(lists.fill(text, checked).encode())
    if json_:
        output.show_json({"file": str(target), "pins": checked})
        return
    output.show_table(
        ("NAME", "VERSION", "FOR", "SHA-256", "AGREES WITH"), [_row(one) for one in checked]
    )
    click.echo(
        f"{target} is written; give it to: nomad-bridge nodes bundle --pins {target}", err=True
    )


def _row(one: Checked) -> tuple[str, ...]:
    pin = one.pin
    digest = one.sha256 or pin.sha256
    against = ", ".join(one.against) if one.against else "nothing to compare with"
    if one.file is None:
        against = "not in the folder"
    return (pin.name, pin.version, pin.architecture, digest or "-", against)


COMMANDS = (bundle, fill)
