"""Backups of the database: one file, made while the service runs.

What is in the data folder beside the database (keys of the embedded storage,
buckets) and the configuration are not part of it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bridge import process
from bridge.db import backup as stored
from bridge.db import migrate
from bridge.db.engine import Database
from bridge.errors import ConfigError

_LONGEST_S: Final = 6 * 3600.0
_SQLITE: Final = b"SQLite format 3\0"
_POSTGRESQL: Final = b"PGDMP"
_PROGRAMS_HINT: Final = "Install PostgreSQL's client programs, of the server's version or newer."


def make(url: str, file: Path) -> None:
    """Copy the database behind ``url``, as it is at one moment, into a new file.

    Raises ConfigError when the file exists, cannot be written or a program is
    missing, ProcessError when a program does not end.
    """
    if file.exists():
        raise ConfigError(f"{file} exists.", "Backups are never overwritten: choose a new name.")
    draft = _new_file(file)
    try:
        source = stored.sqlite_file(url)
        if source is not None:
            stored.copy_sqlite(source, draft)
        else:
            _dump(url, draft)
        _publish(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def restore(url: str, file: Path) -> int:
    """Put a backup in the place of the database behind ``url``; the number of its epoch.

    The whole change is one transaction. Raises ConfigError when the file cannot
    be used, Conflict while a service uses the database, ProcessError when a
    program does not end.
    """
    target = stored.sqlite_file(url)
    try:
        with open(file, "rb") as opened:
            head = opened.read(len(_SQLITE))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    if not head.startswith(_POSTGRESQL if target is None else _SQLITE):
        kind = "PostgreSQL" if target is None else "SQLite"
        raise ConfigError(f"{file} is no backup of a {kind} database.", "Give another file.")
    if target is not None:
        return stored.restore_sqlite(file, target, time.time())
    return _restore_postgresql(url, file)


def _dump(url: str, draft: Path) -> None:
    tables = [f"--table={name}" for name in stored.TABLES]
    what = [*tables, f"--exclude-table-data={stored.NOT_KEPT}", "--no-owner", "--no-privileges"]
    _run("pg_dump", ["--format=custom", "--no-password", *what, "--file", str(draft)], url)


def _restore_postgresql(url: str, file: Path) -> int:
    db = Database(url)
    try:
        db.look_up(migrate.refuse_encoding)
        stored.refuse_if_connected(db)
        before, after = stored.around_restore(above=stored.epoch_of(db), now=time.time())
    finally:
        db.close()
    with tempfile.TemporaryDirectory(prefix="restore-") as folder:
        script = Path(folder, "script.sql")
        _run("pg_restore", ["--no-owner", "--file", str(script), str(file)], url)
        # One transaction: never the old jobs in the new epoch, nor the other way round, nor
        # what this program cannot use in the place of what it can.
        settings = ["-X", "-q", "--no-password", "-v", "ON_ERROR_STOP=1", "--single-transaction"]
        steps = ["-c", before, "-f", str(script), "-c", after]
        _run("psql", [*settings, "-o", os.devnull, *steps], url)
    db = Database(url)
    try:
        db.upgrade()
        return stored.epoch_of(db)
    finally:
        db.close()


def _run(program: str, arguments: Sequence[str], url: str) -> None:
    if process.which(program) is None:
        raise ConfigError(f"{program} is not on the PATH.", _PROGRAMS_HINT)
    env = process.clean_environment(
        {"PGCONNECT_TIMEOUT": "10"}
        | stored.postgresql_environment(url)
        | {"PGAPPNAME": "nomad-bridge"}  # by which a restore knows who is connected
    )
    done = process.run([program, *arguments], timeout=_LONGEST_S, env=env)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        if refused := stored.refusal(said):
            raise refused
        raise ConfigError(f"{program} failed: {said[0]}", _PROGRAMS_HINT)


def _new_file(file: Path) -> Path:
    """An empty file beside ``file``, for its owner only."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be made: {error.strerror}.", "Choose a folder you may write to."
        ) from error
    os.close(descriptor)
    return Path(name)


def _publish(draft: Path, file: Path) -> None:
    """Give a whole file its name, for good."""
    _flush(draft)
    try:
        os.link(draft, file)  # unlike a rename it overwrites nothing
    except FileExistsError:
        raise ConfigError(f"{file} exists.", "Choose a new name.") from None
    except OSError:
        _rename(draft, file)
    _flush(file.absolute().parent)


def _rename(draft: Path, file: Path) -> None:
    """For disks that know no second name of a file. The name is reserved, so that here, too,
    nothing is overwritten.
    """
    try:
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise ConfigError(f"{file} exists.", "Choose a new name.") from None
    try:
        os.replace(draft, file)
    except OSError:
        file.unlink()
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
