"""Waiting for jobs, without asking more often than is useful."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bridge.client.answers import Job, JobSet
from bridge.errors import NotDone

# Late by at most a tenth of the time waited so far, within these bounds.
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_SHARE: Final = 0.1
# More jobs than this are read from the list, page by page, instead of one by one.
_FEW: Final = 20

Get = Callable[[str], Job]
Newest = Callable[[], Iterator[Job]]
Report = Callable[[Job], None]


def until_ended(
    ids: Iterable[str],
    *,
    get: Get,
    newest: Newest,
    timeout: float | None = None,
    report: Report | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Job]:
    """Ask until all jobs have ended; returns them in the order of ``ids``.

    ``timeout`` in seconds. ``report`` hears of every job that looks different
    from the last time. ``newest`` lists the caller's jobs, newest first.

    Raises NotDone when the time is over, NotFound for an unknown id.
    """
    wanted = list(dict.fromkeys(ids))
    seen: dict[str, Job] = {}
    patience = _Patience(timeout, sleep, clock)
    while True:
        pending = {job_id for job_id in wanted if job_id not in seen or not seen[job_id].ended}
        for job in _look(pending, get, newest):
            if report and seen.get(job.id) != job:
                report(job)
            seen[job.id] = job
        live = sum(not seen[job_id].ended for job_id in wanted)
        if not live:
            return [seen[job_id] for job_id in wanted]
        patience.pause(live, len(wanted))


def until_set_ended(
    look: Callable[[], JobSet],
    *,
    timeout: float | None = None,
    report: Callable[[JobSet], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> JobSet:
    """Ask until all jobs of a set have ended; returns the set.

    ``timeout`` in seconds. ``report`` hears of every look.

    Raises NotDone when the time is over.
    """
    patience = _Patience(timeout, sleep, clock)
    while True:
        found = look()
        if report:
            report(found)
        live = found.size - found.ended
        if not live:
            return found
        patience.pause(live, found.size)


class _Patience:
    """Pauses that grow with the time waited, until it is over."""

    def __init__(
        self, timeout: float | None, sleep: Callable[[float], None], clock: Callable[[], float]
    ) -> None:
        self._timeout = timeout
        self._sleep = sleep
        self._clock = clock
        self._began = clock()

    def pause(self, live: int, total: int) -> None:
        """Sleep before the next look. Raises NotDone when there is none."""
        waited = self._clock() - self._began
        pause = min(max(waited * _SHARE, _SHORTEST_S), _LONGEST_S)
        if self._timeout is not None:
            if waited >= self._timeout:
                raise NotDone(
                    f"{live} of {total} jobs have not ended after {self._timeout:g} s",
                    "They go on; wait again, or look at them with status.",
                )
            pause = min(pause, self._timeout - waited)
        self._sleep(pause)


def _look(pending: set[str], get: Get, newest: Newest) -> Iterator[Job]:
    if len(pending) > _FEW:
        # Ids are in time order: below the smallest there is none of ours left.
        oldest, pending = min(pending), set(pending)
        for job in newest():
            if job.id in pending:
                pending.discard(job.id)
                yield job
            if not pending or job.id < oldest:
                break
    for job_id in pending:
        yield get(job_id)
