"""Sets: what a name has together is watched and steered with one request.

Only what needs every job's own bucket, deleting data, goes job by job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from bridge.client import waiting
from bridge.client.answers import Attempt, Explanation, Job, JobSet, decode
from bridge.client.api import Api, Tell
from bridge.models.job import JobState

_WORKERS: Final = 8
# Jobs that are read ahead of the workers.
_PAGE: Final = 1000


class Sets:
    """The sets of one caller: the own jobs in them, for an admin the group's.

    Every method raises NotFound for a set without such jobs. ``jobs`` gives those of a
    set, newest first; ``delete`` deletes the data of one. ``tell`` hears, in a sentence,
    why a wait takes longer.
    """

    def __init__(
        self,
        api: Api,
        *,
        jobs: Callable[[str], Iterator[Job]],
        delete: Callable[[Job], object],
        tell: Tell | None = None,
    ) -> None:
        self._api = api
        self._tell = tell
        self._jobs = jobs
        self._delete = delete

    def list(self) -> Sequence[JobSet]:
        """All sets, by name."""
        return tuple(decode(item, JobSet) for item in self._api.pages("sets"))

    def status(self, name: str) -> JobSet:
        """How many jobs of a set are in which state."""
        return decode(self._api.get("sets", name), JobSet)

    def explain(self, name: str) -> Explanation:
        """How a set stands, and why the first of its jobs that wait does."""
        return decode(self._api.get("sets", name, "explain"), Explanation)

    def attempts(self, name: str) -> Iterator[Attempt]:
        """The runs of its jobs, the newest job first, its first run first; read page by page."""
        return (decode(item, Attempt) for item in self._api.pages("sets", name, "attempts"))

    def wait(
        self,
        name: str,
        timeout: float | None = None,
        *,
        report: Callable[[JobSet], None] | None = None,
    ) -> JobSet:
        """Wait until no job of a set is left to end.

        ``timeout`` in seconds. ``report`` is called with every look at the set.

        Raises NotDone when the time is over.
        """
        return waiting.until_set_ended(
            lambda: self.status(name),
            count_held=lambda: self._held(name),
            timeout=timeout,
            report=report,
            tell=self._tell,
        )

    def _held(self, name: str) -> waiting.Held:
        """How many of its jobs are held, by a page of those that wait."""
        answer = self._api.get("jobs", set=name, state=str(JobState.RECEIVED), limit=_PAGE)
        waits = [decode(item, Job) for item in answer["jobs"]]
        return waiting.Held(sum(job.held for job in waits), or_more=bool(answer.get("next")))

    def cancel(self, name: str) -> int:
        """Ask that the live jobs stop; returns how many were asked. Repeatable."""
        return self._steer(name, "cancel")

    def hold(self, name: str) -> int:
        """Keep the waiting jobs from starting; returns how many. Repeatable."""
        return self._steer(name, "hold")

    def release(self, name: str) -> int:
        """Let the held jobs start; returns how many. Repeatable."""
        return self._steer(name, "release")

    def retry(self, name: str) -> int:
        """Put the failed jobs back into the queue; returns how many."""
        # Sent once: a repetition would try those again that failed in between.
        return self._steer(name, "retry", repeatable=False)

    def prune(self, name: str, *, report: Callable[[Job], None] | None = None) -> int:
        """Delete the data of the ended jobs for good; returns of how many. Repeatable.

        ``report`` is called with every job whose data is gone. Live jobs stay as they are.
        """
        self._steer(name, "prune")
        announced = (
            job for job in self._jobs(name) if job.prune_requested_at and not job.pruned_at
        )
        count = 0
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="prune") as pool:
            while page := tuple(islice(announced, _PAGE)):
                for job, _ in zip(page, pool.map(self._delete, page), strict=True):
                    count += 1
                    if report:
                        report(job)
        return count

    def _steer(self, name: str, verb: str, *, repeatable: bool = True) -> int:
        answer = self._api.post("sets", name, verb, repeatable=repeatable)
        return decode(answer["changed"], int)
