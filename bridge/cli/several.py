"""One thing done to each of several jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from bridge.cli import output
from bridge.cli.options import Target
from bridge.errors import BridgeError, Conflict, FolderError, NotFound, ResultsError

T = TypeVar("T")

# What concerns one job only; any other error would meet the next one, too.
_OF_A_JOB: Final = (Conflict, NotFound, ResultsError)


def each(
    targets: Sequence[Target], act: Callable[[Target], T], *, as_json: bool
) -> tuple[list[T], int]:
    """Act on jobs one by one; returns the results and the exit code.

    What goes wrong with one is shown, with its name, and keeps no other from it. After an
    error that concerns all, the rest is left alone.
    """
    results: list[T] = []
    failures = _Failures(as_json=as_json)
    for at, target in enumerate(targets):
        try:
            job = target.job
        except (NotFound, FolderError) as error:
            # The error names the folder: there is no job to add.
            failures.show(error, target)
            continue
        try:
            results.append(act(target))
        except _OF_A_JOB as error:
            failures.show(error, target, job)
        except BridgeError as error:
            failures.show(error, target, job, not_tried=len(targets) - at - 1)
            break
    return results, failures.code


class _Failures:
    """Shows what went wrong, and with which job; keeps the first exit code.

    Before people each hint is given once: over and over it would hide the jobs.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.code = output.FINE
        self._as_json = as_json
        self._hints: set[str] = set()

    def show(
        self, error: BridgeError, target: Target, job: str | None = None, not_tried: int = 0
    ) -> None:
        self.code = self.code or output.exit_code(error)
        output.show_error(
            error,
            as_json=self._as_json,
            job=job,
            folder=target.folder,
            not_tried=not_tried,
            with_hint=self._as_json or error.hint not in self._hints,
        )
        self._hints.add(error.hint)
