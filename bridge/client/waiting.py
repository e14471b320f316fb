"""Waiting for jobs, without asking more often than is useful."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from bridge.client.answers import Job, JobSet
from bridge.client.api import Tell
from bridge.errors import BridgeError, NotDone, NotFound, TooMany, Unavailable, Unreachable

T = TypeVar("T")

# Late by at most a tenth of the time waited so far, within these bounds.
_SHORTEST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_SHARE: Final = 0.1
# More jobs than this are read from the list, page by page, instead of one by one.
_FEW: Final = 20
# An upgrade of the service or a restart of its machine takes minutes.
_AWAY_S: Final = 600.0
_AWAY: Final = (Unreachable, Unavailable, TooMany)

Get = Callable[[str], Job]
Newest = Callable[[], Iterator[Job]]
Report = Callable[[Job], None]
Lost = Callable[[str, NotFound], None]


@dataclass(frozen=True)
class Held:
    """How many jobs are held; ``or_more`` if not all were looked at."""

    count: int
    or_more: bool = False

    def __str__(self) -> str:
        return f"at least {self.count}" if self.or_more else str(self.count)


def until_ended(
    ids: Iterable[str],
    *,
    get: Get,
    newest: Newest,
    timeout: float | None = None,
    report: Report | None = None,
    lost: Lost | None = None,
    tell: Tell | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[Job]:
    """Ask until all jobs have ended; returns them in the order of ``ids``.

    ``timeout`` in seconds. ``report`` hears of every job that looks different
    from the last time, ``lost`` of unknown ids, which are then left out. ``tell``
    hears, in a sentence, that jobs are held or the service is away. ``newest`` lists
    the caller's jobs, newest first.

    Raises NotDone when the time is over, NotFound for an unknown id without ``lost``,
    Unreachable when the service did not answer at first or not for ten minutes.
    """
    watched = _Watched(ids, get, newest, report, lost)
    patience = _Patience(timeout, tell, sleep, clock)
    while True:
        jobs = patience.ask(watched.look)
        live = sum(not job.ended for job in jobs)
        if not live:
            return jobs
        held = sum(job.held for job in jobs)
        patience.mention(Held(held), len(jobs))
        patience.pause(live, len(jobs), partial(Held, held))


def until_set_ended(
    look: Callable[[], JobSet],
    *,
    count_held: Callable[[], Held],
    timeout: float | None = None,
    report: Callable[[JobSet], None] | None = None,
    tell: Tell | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> JobSet:
    """Ask until all jobs of a set have ended; returns the set.

    ``timeout`` in seconds. ``report`` hears of every look, ``tell`` as in
    ``until_ended``. ``count_held`` is asked for at the beginning and the end only.

    Raises NotDone when the time is over, Unreachable as ``until_ended``.
    """
    patience = _Patience(timeout, tell, sleep, clock)
    first = True
    while True:
        found = patience.ask(look)
        if report:
            report(found)
        live = found.size - found.ended
        if not live:
            return found
        if first:
            patience.mention(patience.ask(count_held), found.size)
            first = False
        patience.pause(live, found.size, count_held)


class _Watched:
    """Jobs and how they looked last; those that have ended are not asked about again."""

    def __init__(
        self,
        ids: Iterable[str],
        get: Get,
        newest: Newest,
        report: Report | None,
        lost: Lost | None,
    ) -> None:
        self._wanted = dict.fromkeys(ids)
        self._get = get
        self._newest = newest
        self._report = report
        self._lost = lost
        self._seen: dict[str, Job] = {}

    def look(self) -> list[Job]:
        """All that exist, in the order of their ids as given."""
        ended = {job_id for job_id, job in self._seen.items() if job.ended}
        for job_id, found in _look(set(self._wanted) - ended, self._get, self._newest):
            if isinstance(found, Job):
                if self._report and self._seen.get(job_id) != found:
                    self._report(found)
                self._seen[job_id] = found
            elif self._lost is None:
                raise found
            else:
                self._lost(job_id, found)
                del self._wanted[job_id]
        return [self._seen[job_id] for job_id in self._wanted]


class _Patience:
    """Pauses that grow with the time waited, until it is over."""

    def __init__(
        self,
        timeout: float | None,
        tell: Tell | None,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._timeout = timeout
        self._tell = tell or (lambda _: None)
        self._sleep = sleep
        self._clock = clock
        self._began = clock()
        self._answered_at: float | None = None
        self._away = False
        self._mentioned = False

    def ask(self, look: Callable[[], T]) -> T:
        """What ``look`` finds; once the service has answered, its absence is waited out.

        Raises what ``look`` does.
        """
        while True:
            try:
                found = look()
            except _AWAY as error:
                self._bear(error)
                continue
            if self._away:
                self._tell("The service answers again.")
            self._answered_at, self._away = self._clock(), False
            return found

    def _bear(self, error: BridgeError) -> None:
        if self._answered_at is None or self._is_over():
            raise error
        absence = self._clock() - self._answered_at
        if absence >= _AWAY_S:
            raise error
        if not self._away:
            self._tell(f"The service is away, trying again: {error.message}")
        self._away = True
        self._rest(absence)

    def mention(self, held: Held, total: int) -> None:
        """Say, once, that jobs are held: nothing but a release ends the wait for them."""
        if held.count and not self._mentioned:
            self._mentioned = True
            are = "is" if str(held) == "1" else "are"
            self._tell(
                f"{held} of {total} jobs {are} held and will wait until released "
                "(nomad-bridge release)."
            )

    def pause(self, live: int, total: int, count_held: Callable[[], Held]) -> None:
        """Sleep before the next look. Raises NotDone when there is none."""
        if self._is_over():
            raise _not_done(live, total, self._timeout or 0, count_held())
        self._rest(self._clock() - self._began)

    def _is_over(self) -> bool:
        return self._timeout is not None and self._clock() - self._began >= self._timeout

    def _rest(self, waited: float) -> None:
        pause = min(max(waited * _SHARE, _SHORTEST_S), _LONGEST_S)
        if self._timeout is not None:
            pause = min(pause, self._began + self._timeout - self._clock())
        self._sleep(max(pause, 0))


def _not_done(live: int, total: int, timeout: float, held: Held) -> NotDone:
    message = f"{live} of {total} jobs have not ended after {timeout:g} s"
    hint = "They go on; wait again, or look at them with status."
    if not held.count:
        return NotDone(message, hint)
    release = "What is held waits until it is released: nomad-bridge release."
    return NotDone(
        f"{message}; {held} of them held",
        release if held.count >= live else f"{release} The others go on; wait again.",
    )


def _look(pending: set[str], get: Get, newest: Newest) -> Iterator[tuple[str, Job | NotFound]]:
    if len(pending) > _FEW:
        # Ids are in time order: below the smallest there is none of ours left.
        oldest, pending = min(pending), set(pending)
        for job in newest():
            if job.id in pending:
                pending.discard(job.id)
                yield job.id, job
            if not pending or job.id < oldest:
                break
    for job_id in pending:
        try:
            yield job_id, get(job_id)
        except NotFound as error:
            yield job_id, error
