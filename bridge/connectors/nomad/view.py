"""An allocation seen as its three tasks. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Self

from msgspec import Struct

from bridge.connectors.nomad.wire import Alloc, Event, TaskState

STAGE_IN = "stage-in"
MAIN = "main"
STAGE_OUT = "stage-out"

_EXIT_CODE: Final = re.compile(r"-?\d{1,10}", re.ASCII)
_LARGEST_CODE: Final = 2**31 - 1
_NO_DETAILS: Mapping[str, str] = {}


class Task(Struct, frozen=True):
    """A task and what happened to it. Times are Unix seconds."""

    state: TaskState

    @property
    def events(self) -> tuple[Event, ...]:
        """The last ten events, oldest first."""
        return self.state.events or ()

    @property
    def dead(self) -> bool:
        """Whether it ended, or will never start."""
        return self.state.state == "dead"

    @property
    def started(self) -> bool:
        """Whether its program ever ran."""
        return self.started_at is not None or self.count("Started") > 0

    @property
    def started_at(self) -> float | None:
        """When its program started last."""
        return _seconds(self.state.started_at)

    @property
    def finished_at(self) -> float | None:
        """When it ended. Meaningless before ``dead``."""
        return _seconds(self.state.finished_at)

    @property
    def terminated(self) -> Mapping[str, str] | None:
        """The details of its program's end (exit_code, oom_killed), or None."""
        ends = [event for event in self.events if event.type == "Terminated"]
        return (ends[-1].details or _NO_DETAILS) if ends else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of its program, or None when it did not end by itself."""
        code = (self.terminated or _NO_DETAILS).get("exit_code", "")
        # The word of a node, which may be anything.
        if _EXIT_CODE.fullmatch(code) is None or abs(int(code)) > _LARGEST_CODE:
            return None
        return int(code)

    @property
    def exit_message(self) -> str:
        """What its driver says about the end of its program; usually nothing."""
        return (self.terminated or _NO_DETAILS).get("exit_message", "")

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel ended its program for its memory limit."""
        return (self.terminated or _NO_DETAILS).get("oom_killed") == "true"

    @property
    def killed(self) -> bool:
        """Whether Nomad stopped it before its program ended."""
        for event in self.events:
            if event.type == "Terminated":
                return False
            if event.type == "Killing":
                return True
        return False

    def count(self, kind: str) -> int:
        """How many events of one type are on record."""
        return sum(event.type == kind for event in self.events)

    def last(self, *kinds: str) -> Event | None:
        """The newest event of these types."""
        return next((event for event in reversed(self.events) if event.type in kinds), None)


class Run(Struct, frozen=True):
    """An allocation of a bridge job."""

    alloc: Alloc
    stage_in: Task
    main: Task
    stage_out: Task

    @classmethod
    def of(cls, alloc: Alloc) -> Self:
        """The tasks of an allocation; one the client has not yet reported is pending."""
        tasks = alloc.task_states or {}
        nothing = TaskState()
        return cls(alloc, *(Task(tasks.get(n, nothing)) for n in (STAGE_IN, MAIN, STAGE_OUT)))

    @property
    def node(self) -> str | None:
        """The machine's name."""
        return self.alloc.node_name or None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen: stage-out comes last. A lost one counts
        as over because Nomad gave it up; should its node come back, it is stopped.
        One that the client could not even set up has no tasks.
        """
        status = self.alloc.client_status
        never_set_up = status in ("failed", "complete") and not self.alloc.task_states
        return self.stage_out.dead or never_set_up or status == "lost"

    @property
    def stopped(self) -> bool:
        """Whether somebody or the scheduler wanted this allocation to end."""
        return self.alloc.desired_status != "run"

    @property
    def stays_as_shown(self) -> bool:
        """Whether Nomad would show it like this for good, should its node go away now. What
        it calls failed or complete, or has stopped, it never makes ``unknown``.
        """
        settled = self.stopped or self.alloc.client_status in ("failed", "complete")
        return settled and not self.is_over

    @property
    def started_at(self) -> float | None:
        """When main started, Unix seconds, as ``ended_at``: by the node's clock, and if that
        is slow, set right by the server's, which knows when it was placed.
        """
        return self._set_right(self.main.started_at)

    @property
    def ended_at(self) -> float | None:
        """When the last task ended."""
        ends = (self.stage_out.finished_at, self.main.finished_at)
        return self._set_right(next((end for end in ends if end is not None), None))

    def _set_right(self, at: float | None) -> float | None:
        first = self.stage_in.started_at
        if at is None or first is None:
            return at
        return at + max(self.alloc.create_time / 1e9 - first, 0.0)


def _seconds(text: str | None) -> float | None:
    # Go writes the year 1 where a time is not set.
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text).timestamp()
