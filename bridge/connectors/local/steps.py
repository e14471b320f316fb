"""What happened to an attempt: one file of JSON lines that only grows.

The supervisor makes the file with its own identity as the first line and gives
it its name by a hard link, which fails when the name exists. So whoever made
the link owns the attempt for good, every later supervisor sees that and leaves,
and no reader meets a file without an owner. Each line is on disk before
the supervisor goes on. A line that was torn by a power cut is skipped.

Standard library only: the supervisor imports this and must start fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from bridge import process
from bridge.connectors.local import bell
from bridge.connectors.local.layout import AttemptDir, sync_folder


class Mark(StrEnum):
    """The kinds of lines, in the order in which they come."""

    SUPERVISED = "supervised"  # pid, start, boot of the supervisor
    STAGE_IN = "stage-in"  # pid, start
    STAGE_IN_ENDED = "stage-in-ended"  # code, sentence
    MAIN = "main"  # pid, start (process runtime)
    MAIN_ENDED = "main-ended"  # code, oom, stop, fault, sentence
    STAGE_OUT = "stage-out"  # pid, start
    STAGE_OUT_ENDED = "stage-out-ended"  # code, sentence
    DONE = "done"  # nothing more will happen; fault, sentence when we failed


_TOLD: Final = frozenset({Mark.MAIN, Mark.DONE})


class Stop(StrEnum):
    """Why the supervisor stopped a step."""

    CANCEL = "cancel"  # the connector asked
    TIME_LIMIT = "time_limit"  # the outer net: the bridge was not there to ask
    SHUTDOWN = "shutdown"  # the supervisor was told to end, as at a shutdown


class Fault(StrEnum):
    """What kept a job's program from running, or from ending by itself."""

    IMAGE_MISSING = "image_missing"
    IMAGE_UNUSABLE = "image_unusable"  # no /bin/sh in it
    ENGINE_AWAY = "engine_away"  # before the start
    ENGINE_LOST = "engine_lost"  # under the running container
    INTERNAL = "internal"


class Step(NamedTuple):
    """One line. ``at`` is in Unix seconds; which others are set depends on ``mark``."""

    mark: Mark
    at: float
    pid: int | None = None
    start: str | None = None
    boot: str | None = None
    code: int | None = None
    oom: bool = False
    stop: Stop | None = None
    fault: Fault | None = None
    sentence: str = ""

    @classmethod
    def parse(cls, line: str) -> Step:
        """One line as ``StepLog`` writes it.

        Raises ValueError, TypeError or KeyError for anything else.
        """
        fields = dict(json.loads(line))
        stop, fault = fields.pop("stop", None), fields.pop("fault", None)
        return cls(
            mark=Mark(fields.pop("mark")),
            stop=None if stop is None else Stop(stop),
            fault=None if fault is None else Fault(fault),
            **fields,
        )

    def dump(self) -> str:
        """This as one line of JSON, without what is not set."""
        fields = {name: value for name, value in self._asdict().items() if value}
        if self.code is not None:
            fields["code"] = self.code
        return json.dumps(fields)


class StepLog:
    """The writing side; belongs to one supervisor."""

    def __init__(self, descriptor: int, home: AttemptDir) -> None:
        self._descriptor = descriptor
        self._home = home

    @classmethod
    def claim(cls, path: Path) -> StepLog | None:
        """Become the one supervisor of an attempt, or None when there was one already."""
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        log = cls(descriptor, AttemptDir(path.parent))
        pid = os.getpid()
        log.write(Mark.SUPERVISED, pid=pid, start=process.start_time(pid), boot=process.boot_id())
        try:
            os.link(draft, path)
        except FileExistsError:
            os.close(descriptor)
            return None
        finally:
            draft.unlink()
        sync_folder(path.parent)
        return log

    def write(self, mark: Mark, **fields: Any) -> None:
        """Append one line and wait until it is on disk. The bridge is told of what makes
        a difference to people.
        """
        line = Step(mark=mark, at=time.time(), **fields).dump()
        os.write(self._descriptor, line.encode() + b"\n")
        os.fsync(self._descriptor)
        if mark in _TOLD:
            bell.ring(self._home.bell, self._home.native_id)


def read(path: Path) -> Sequence[Step]:
    """What happened so far. Raises OSError, FileNotFoundError when nobody began."""
    steps = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            steps.append(Step.parse(line))
    return steps
