"""A PostgreSQL cluster of the tests' own: a unix socket, no password, no port."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bridge import process
from tests.support.needs import postgres_programs
from tests.support.poll import eventually

_USER = "bridge"


@contextlib.contextmanager
def cluster() -> Iterator[Path]:
    """Make and run a cluster; yields the folder of its socket."""
    programs = postgres_programs()
    assert programs is not None
    # Not tmp_path: a unix socket's path has about 100 characters.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    account = "postgres" if os.geteuid() == 0 else None
    if account:
        entry = pwd.getpwnam(account)
        os.chown(home, entry.pw_uid, entry.pw_gid)
    try:
        with _server(programs, home, account):
            yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def database(home: Path, name: str, encoding: str = "UTF8") -> Iterator[str]:
    """A new, empty database; yields its SQLAlchemy URL and drops it in the end."""
    with psycopg.connect(_dsn(home), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE \"{name}\" ENCODING '{encoding}' TEMPLATE template0")
        try:
            yield f"postgresql+psycopg://{_USER}@/{name}?host={home}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextlib.contextmanager
def _server(programs: Path, home: Path, account: str | None) -> Iterator[None]:
    groups: list[int] | None = [] if account else None
    data = home / "data"
    initdb: list[str | Path] = [programs / "initdb", "-D", data, "-U", _USER, "-A", "trust"]
    subprocess.run(
        [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        timeout=60,
        cwd=home,
        env=process.clean_environment(),
        stdout=subprocess.DEVNULL,
        user=account,
        group=account,
        extra_groups=groups,
    )
    # Tests need the rules of the database, not its safety in a power cut.
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"]
    with open(home / "log", "wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", home, *options],
            cwd=home,
            env=process.clean_environment(),
            stdout=log,
            stderr=log,
            user=account,
            group=account,
            extra_groups=groups,
        )
    try:
        eventually(lambda: _answers(server, home), timeout=30)
        yield
    finally:
        server.send_signal(signal.SIGINT)  # "fast": ends connections, then itself
        server.wait(timeout=30)


def _answers(server: subprocess.Popen[bytes], home: Path) -> bool:
    assert server.poll() is None, (home / "log").read_text()
    try:
        psycopg.connect(_dsn(home), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _dsn(home: Path) -> str:
    return f"host={home} user={_USER} dbname=postgres"
