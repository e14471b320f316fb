"""``nomad-bridge demo``: real folders through a real service on this machine."""

from __future__ import annotations

import contextlib
import csv
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

import bridge
from bridge import process, resources
from bridge.cli import output
from bridge.cli.signals import uninterrupted
from bridge.errors import BridgeError, ClientError, Unavailable

if TYPE_CHECKING:
    from bridge.client.answers import Job
    from bridge.client.workflow import Client

_READY_S: Final = 30.0
_STOP_S: Final = 20.0
_JOBS_S: Final = 50.0
_POLL_S: Final = 0.05
_KERNELS_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_OWN_PORTS: Final = 1500
_FIRST_PORT: Final = 1024  # that needs no rights

Names = Mapping[str, str]  # job id → name of the molecule


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work in this new folder and keep it. Default: a temporary one.",
)
def demo(directory: Path | None) -> None:
    """Watch a dozen molecules go through a service on this machine.

    Makes a service, submits folders, fetches their results and prints a table
    of them. Needs neither Docker nor a network; takes a few seconds.
    """
    # SIGTERM, too, ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _workspace(directory) as home:
        _announce("Making a service", f"nomad-bridge init {home}/service …")
        config = _initialised(home / "service")
        _announce("Starting it", f"nomad-bridge serve --config {config}")
        with _running(config):
            _run(home)
    if directory is None:
        click.echo("Stopped and removed; `nomad-bridge demo --dir FOLDER` keeps the files.")
    else:
        click.echo(f"Stopped; inputs, results and the service's data are in {directory}")


def _run(home: Path) -> None:
    from bridge.client.workflow import Client

    client = Client(credentials=home / "service" / "credentials.env")
    inputs = home / "molecules"
    shutil.copytree(resources.path("examples/molecules"), inputs)
    _announce("Submitting", "nomad-bridge submit --dirs 'molecules/*' chem:1 -- sh analyse.sh")
    names = _submitted(client, sorted(path for path in inputs.iterdir() if path.is_dir()))
    try:
        jobs = _watched(client, names)
    except BaseException:
        _withdraw(client, names)
        raise
    _announce("Fetching", "nomad-bridge get --dirs 'molecules/*' --to results")
    results = home / "results"
    for job in jobs:
        client.get(job.id, results / names[job.id])
    failed = [names[job.id] for job in jobs if job.state != "completed"]
    if failed:
        raise ClientError(f"jobs did not complete: {', '.join(failed)}", "See their joberr.txt.")
    _announce("Results", f"from the files in {results}")
    _print_results(inputs, results)


@contextlib.contextmanager
def _workspace(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="nomad-bridge-demo-") as scratch:
        yield Path(scratch)


def _initialised(directory: Path) -> Path:
    from bridge.cli import initialise

    bind, s3_bind = _free_addresses()
    wanted = initialise.Wanted(
        group="demo", admin="grace", user="ada", bind=bind, s3_bind=s3_bind, runtime="process"
    )
    initialise.initialise(directory, wanted)
    return directory / "config.yaml"


def _free_addresses() -> list[str]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(2)]
        return [f"127.0.0.1:{_bound(probe)}" for probe in probes]


def _bound(probe: socket.socket) -> int:
    """A free port, if possible below those that the kernel gives to outgoing connections: one
    of them may be taken again before the service listens.
    """
    lowest = 0
    with contextlib.suppress(OSError):
        lowest = int(_KERNELS_PORTS.read_text().split()[0])
    below = range(max(lowest - _OWN_PORTS, _FIRST_PORT), lowest)
    for port in (*secrets.SystemRandom().sample(below, len(below)), 0):
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            break
    return int(probe.getsockname()[1])


@contextlib.contextmanager
def _running(config: Path) -> Iterator[None]:
    """A service from its start to the end of everything it started."""
    log_file = config.parent / "serve.log"
    pid, started = None, None
    try:
        with uninterrupted():
            pid = process.spawn_detached(
                [sys.executable, "-m", "bridge.cli.main", "serve", "--config", config],
                # Also from a checkout that is not installed.
                cwd=Path(bridge.__file__).resolve().parents[1],
                stdout=log_file,
                stderr=log_file,
            )
            started = process.start_time(pid)
        _await_ready(log_file, partial(process.is_alive, pid, started))
        yield
    finally:
        # A second Ctrl-C must not leave half of it running.
        with uninterrupted():
            _stop(config, pid, started)


def _await_ready(log_file: Path, alive: Callable[[], bool]) -> None:
    if not _eventually(lambda: _listens(log_file) or not alive()):
        raise Unavailable(f"the service was not ready within {_READY_S:g} s")
    if not _listens(log_file):
        said = log_file.read_text(errors="replace").strip().splitlines()
        raise Unavailable(f"the service ended: {said[-1] if said else 'it said nothing'}")


def _listens(log_file: Path) -> bool:
    return log_file.exists() and "Listening on" in log_file.read_text(errors="replace")


def _stop(config: Path, pid: int | None, started: str | None) -> None:
    from bridge.app import embedded_storage
    from bridge.cli.host import loaded

    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is not None and process.is_alive(pid, started):
            os.kill(pid, number)
            _eventually(lambda: not process.is_alive(pid, started), _STOP_S)
    # It would outlive the service, as it should where jobs go on.
    storage = embedded_storage(loaded(config))
    if storage is not None:
        storage.stop()


def _eventually(look: Callable[[], bool], seconds: float = _READY_S) -> bool:
    until = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < until:
        time.sleep(_POLL_S)
    return seen


def _submitted(client: Client, folders: list[Path]) -> Names:
    names = {}
    for outcome in client.submit_many(
        folders, "chem:1", "sh analyse.sh", memory_mb=100, time_limit_s=60, set="demo"
    ):
        if outcome.error is not None:
            raise outcome.error
        names[outcome.job_id or ""] = outcome.folder.name
    return names


def _watched(client: Client, names: Names) -> list[Job]:
    """Show the jobs' states until all have ended."""
    with _display(names) as report:
        return list(client.wait(names, _JOBS_S, report=report))


def _withdraw(client: Client, names: Names) -> None:
    """Jobs outlive the service; those of a demo that was broken off must not."""
    with contextlib.suppress(BridgeError):
        for job_id in names:
            client.cancel(job_id)
        client.wait(names, _STOP_S)


@contextlib.contextmanager
def _display(names: Names) -> Iterator[Callable[[Job], None]]:
    if not sys.stdout.isatty():
        yield lambda job: click.echo(f"  {names[job.id]:<18} {_state(job)}")
        return
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    states: dict[str, str] = dict.fromkeys(names.values(), "received")

    def table() -> Table:
        grid = Table.grid(padding=(0, 2))
        for name, state in sorted(states.items()):
            grid.add_row("", name, Text(state, style=output.colour(state.split()[0])))
        return grid

    with Live(table(), refresh_per_second=20) as live:

        def report(job: Job) -> None:
            states[names[job.id]] = _state(job)
            live.update(table())

        yield report


def _state(job: Job) -> str:
    return f"{job.state} ({job.phase})" if job.phase and not job.ended else str(job.state)


def _print_results(inputs: Path, results: Path) -> None:
    rows = []
    for folder in sorted(results.iterdir()):
        atoms = (inputs / folder.name / "molecule.xyz").read_text().split()[0]
        energy = float((folder / "energy.txt").read_text())
        with (folder / "bonds.csv").open(newline="") as file:
            lengths = [float(row["length_angstrom"]) for row in csv.DictReader(file)]
        shortest, longest = f"{min(lengths):.3f}", f"{max(lengths):.3f}"
        name = folder.name.replace("-", " ")
        rows.append((name, atoms, f"{energy:.4f}", str(len(lengths)), shortest, longest))
    columns = (
        "MOLECULE",
        "ATOMS",
        "REPULSION / Ha",
        "BONDS",
        "SHORTEST / Å",
        "LONGEST / Å",
    )
    output.draw_table(columns, rows, numbers=columns[1:])


def _announce(what: str, how: str) -> None:
    click.echo(f"{click.style(what, bold=True)}  {click.style(how, dim=True)}")


COMMANDS = (demo,)
