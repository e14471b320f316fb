"""The folders of all attempts on this machine.

    <data_dir>/attempts/        one folder per attempt, by native id (layout.py)
    <data_dir>/attempts.new/    being written; not attempts yet
    <data_dir>/attempts.kept/   forgotten, with results that the storage would not take
    <data_dir>/attempts.trash/  forgotten, to be removed
    <data_dir>/bell             tells the bridge of changes (bell.py)

An attempt appears and goes by one rename, so none is ever seen half. Every
method raises ConnectorUnavailable when the disk fails: nothing is known then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from bridge.connectors.local import leftovers, steps
from bridge.connectors.local.bell import Bell
from bridge.connectors.local.layout import NATIVE_ID, AttemptDir, RunSpec, sync_folder
from bridge.connectors.local.steps import Step
from bridge.errors import ConnectorUnavailable


class Store:
    """Makes, reads and removes attempts' folders below ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self._attempts = data_dir / "attempts"
        self._new = data_dir / "attempts.new"
        self.kept = data_dir / "attempts.kept"
        self.trash = data_dir / "attempts.trash"
        self._bell = AttemptDir(self._attempts / "any").bell

    def home(self, native_id: str) -> AttemptDir | None:
        """The folder of an attempt, made or not; None for what is no native id."""
        if not NATIVE_ID.fullmatch(native_id):
            return None
        return AttemptDir(self._attempts / native_id)

    def names(self, prefix: str = "") -> list[str]:
        """The native ids of all attempts that begin with ``prefix``."""
        with _disk("list the attempts"):
            return [name for name in _entries(self._attempts) if name.startswith(prefix)]

    def exists(self, home: AttemptDir) -> bool:
        """Whether there is such an attempt."""
        with _disk("read an attempt"):
            return home.spec.exists()

    def create(self, home: AttemptDir, spec: RunSpec) -> None:
        """Make an attempt's folder; one that is there stays as it is."""
        with _disk("hand an attempt over"):
            for folder in (self._attempts, self._new):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = AttemptDir(self._new / f"{home.native_id}.{uuid.uuid4().hex}")
            draft.path.mkdir(mode=0o700)
            try:
                spec.write(draft.spec)
                # Fails when the name is taken: the folder there is never empty.
                draft.path.rename(home.path)
                sync_folder(self._attempts)
            except OSError:
                shutil.rmtree(draft.path, ignore_errors=True)
                if not home.spec.exists():
                    raise

    def spec(self, native_id: str) -> RunSpec | None:
        """What an attempt runs; None when the file is damaged."""
        with _disk("read an attempt"):
            try:
                return RunSpec.read(AttemptDir(self._attempts / native_id).spec)
            except (ValueError, TypeError):
                return None

    def steps(self, home: AttemptDir) -> list[Step]:
        """What happened to an attempt; nothing when it was never started."""
        with _disk("read an attempt"):
            try:
                return list(steps.read(home.steps))
            except FileNotFoundError:
                return []

    def ask_to_stop(self, home: AttemptDir) -> None:
        """Leave the request that an attempt stops."""
        with _disk("ask an attempt to stop"), contextlib.suppress(FileNotFoundError):
            home.cancel.touch(mode=0o600)

    def bell(self) -> Bell:
        """What supervisors ring; to be closed."""
        with _disk("listen to supervisors"):
            return Bell(self._bell)

    def put_away(self, home: AttemptDir, where: Path) -> None:
        """Move an attempt to ``kept`` or ``trash``; from now on it is unknown."""
        with _disk("forget an attempt"):
            where.mkdir(mode=0o700, exist_ok=True)
            home.path.rename(where / f"{home.native_id}.{uuid.uuid4().hex[:8]}")

    def empty_trash(self) -> None:
        """Remove what was put away. What cannot be removed is tried again next time."""
        with _disk("empty the trash"):
            for name in _entries(self.trash):
                leftovers.remove_folder(self.trash / name)

    def count(self, folder: Path) -> int:
        """How many attempts lie in ``kept`` or ``trash``."""
        with _disk("list the attempts"):
            return len(_entries(folder))


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConnectorUnavailable(f"cannot {what}: {error}", "Look at the disk.") from error
