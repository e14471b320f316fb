"""A scheduler that is a folder, the same for every process which uses it. Every call is noted."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from bridge.connectors.base import Health
from bridge.errors import JobRejected
from bridge.models.attempt import AttemptSpec, Handle, Observation, Observed

_NODE = "n1"


class Call(NamedTuple):
    """What was asked by which process; ``made``: an attempt is here that was not, and runs."""

    pid: int
    verb: str
    native_id: str
    made: bool = False


class FolderScheduler:
    """An attempt is a file, made once; its text says what it is seen to be.

    It ends at once, unless ``show`` says otherwise. What was forgotten can be made again.
    """

    name = "local"

    def __init__(self, home: Path) -> None:
        self._home = home
        self._attempts = home / "attempts"
        self._shown = home / "shown"
        self._refusing = home / "refusing"
        self._notes = home / "calls"
        self._attempts.mkdir(exist_ok=True)

    def show(self, state: Observed) -> None:
        """Every attempt, those to come included, is seen to be this from now on."""
        for file in (self._shown, *self._attempts.glob("*/*")):
            self._draft(state).rename(file)

    def refuse(self, yes: bool) -> None:
        """Whether every attempt is refused from now on."""
        if yes:
            self._refusing.touch()
        else:
            self._refusing.unlink()

    def calls(self) -> list[Call]:
        """All that were made so far, in order."""
        if not self._notes.exists():
            return []
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [Call(int(pid), verb, name, made == "made") for pid, verb, name, made in lines]

    def submit(self, spec: AttemptSpec) -> None:
        if self._refusing.exists():
            self._note("refuse", spec.handle)
            raise JobRejected("this scheduler refuses everything")
        state = Observed(self._shown.read_text()) if self._shown.exists() else Observed.ENDED
        file = self._file(spec.handle)
        file.parent.mkdir(exist_ok=True)
        draft = self._draft(state)
        try:
            os.link(draft, file)
        except FileExistsError:
            self._note("submit", spec.handle)
        else:
            self._note("submit", spec.handle, "made")
        finally:
            draft.unlink()

    def poll(self, handles: Iterable[Handle]) -> Mapping[Handle, Observation]:
        return {handle: self._look(self._file(handle)) for handle in handles}

    def cancel(self, handle: Handle) -> None:
        """It takes its time: nothing is seen of that here."""
        self._note("cancel", handle)

    def forget(self, handle: Handle) -> None:
        self._note("forget", handle)
        self._file(handle).unlink(missing_ok=True)

    def sweep(self, namespaces: Iterable[str]) -> Mapping[Handle, Observation]:
        seen = {
            Handle(file.name, place): self._look(file)
            for place in namespaces
            for file in (self._attempts / place).glob("*")
        }
        over = (Observed.ENDED, Observed.GONE)
        return {handle: one for handle, one in seen.items() if one.state not in over}

    def check(self) -> Health:
        return Health()

    def _draft(self, state: Observed) -> Path:
        """A file with the whole text, to be put in its place at once."""
        draft = self._home / f"draft-{os.getpid()}-{threading.get_ident()}"
        draft.write_text(state)
        return draft

    def _note(self, verb: str, handle: Handle, came_of_it: str = "-") -> None:
        line = f"{os.getpid()} {verb} {handle.native_id} {came_of_it}\n"
        with open(self._notes, "a", encoding="ascii") as notes:  # whole lines, whoever else writes
            notes.write(line)

    def _look(self, file: Path) -> Observation:
        try:
            state = Observed(file.read_text())
        except FileNotFoundError:
            state = Observed.GONE
        code = 0 if state is Observed.ENDED else None
        node = None if state is Observed.PENDING else _NODE
        return Observation(state=state, exit_code=code, node=node)

    def _file(self, handle: Handle) -> Path:
        return self._attempts / handle.namespace / handle.native_id
