"""Finds what lives at a scheduler though its attempt has ended, and stops it.

After a restore this is also how we learn what was handed over since the backup: nothing
is handed over before that is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final
from uuid import UUID

import msgspec

from bridge import log, points
from bridge.connectors.base import Connector, Survey
from bridge.core.patience import Act, Patience
from bridge.core.verdict import End
from bridge.core.write import end_attempt
from bridge.db import attempts, identity, instance
from bridge.db import jobs as jobs_db
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection, Transactions
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import LIVE_ATTEMPT, Cause, Handle
from bridge.models.job import FINAL, Job, JobState
from bridge.points import Point

_log = log.get(__name__)

_ANYWHERE: Final = "any namespace"


class _Listing(msgspec.Struct, frozen=True):
    """What lives at a scheduler and has no live attempt, and where that is not known."""

    strays: list[Handle]
    refused: set[str]
    cut_short: bool = False  # the scheduler did not answer


class Sweeper:
    """One pass is ``sweep``, namespace by namespace: where listing is refused, only there
    nothing is learnt.
    """

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        patience: Patience,
        half_life_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._patience = patience
        self._half_life_s = half_life_s
        self._clock = clock
        self._swept = False
        # By connector, where it was found to have something of ours; none before it was asked.
        self._found: dict[str, set[str]] = {}

    def sweep(self) -> int:
        """Stop what should not live; returns how many."""
        found = {name: self._list(one) for name, one in self._connectors.items()}
        if not self._swept and self._is_whole(found):
            self._db.write(lambda conn: instance.record_sweep(conn, now=self._clock()))
            self._swept = True
        return sum(
            self._stop(self._connectors[name], stray)
            for name, listing in found.items()
            for stray in dict.fromkeys(listing.strays)
        )

    def namespaces(self, connector: str) -> set[str]:
        """Where attempts of ours are, or will be, at a connector."""
        return self._db.read(
            lambda conn: _of_groups(conn, connector) | attempts.namespaces(conn, connector)
        )

    def _is_whole(self, found: Mapping[str, _Listing]) -> bool:
        """Whether all was listed that can hold attempts of ours. Where listing is refused,
        but no attempt ever was, does not count: nobody may ever have set that group up.
        """

        def read(conn: Connection) -> bool:
            for name, listing in found.items():
                used = _of_groups(conn, name) & attempts.namespaces_ever(conn, name)
                if listing.refused & (used | attempts.namespaces(conn, name)):
                    return False
            return True

        return not any(one.cut_short for one in found.values()) and self._db.read(read)

    def _list(self, connector: Connector) -> _Listing:
        name = connector.name
        refused: set[str] = set()
        strays: list[Handle] = []
        if not self._survey(connector):
            return _Listing(strays, refused, cut_short=True)
        found = self._found.get(name, set())
        for place in sorted(self.namespaces(name) | found):
            if self._patience.waits(name, Act.SWEEP):
                return _Listing(strays, refused, cut_short=True)
            if self._patience.waits(name, Act.SWEEP, place):
                refused.add(place)
                continue
            try:
                alive = connector.sweep([place])
            except ConnectorUnavailable as away:
                self._patience.failed(name, Act.SWEEP, away, place)
                if not away.narrow:
                    return _Listing(strays, refused, cut_short=True)
                refused.add(place)
                continue
            self._patience.worked(name, Act.SWEEP, place)
            points.reach(Point.SWEEP_LISTED)
            strays += self._strays_among(alive)
            if not alive:
                found.discard(place)
        return _Listing(strays, refused)

    def _survey(self, connector: Connector) -> bool:
        """Ask once where anything of ours lives, for groups that were made after the backup
        from which the database comes. False when the scheduler did not answer.
        """
        name = connector.name
        if not isinstance(connector, Survey) or name in self._found:
            return True
        if self._patience.waits(name, Act.SWEEP):
            return False
        if self._patience.waits(name, Act.SWEEP, _ANYWHERE):
            return True
        try:
            restored = self._db.look_up(instance.is_restored)
            self._found[name] = connector.inhabited() if restored else set()
        except ConnectorUnavailable as away:
            self._patience.failed(name, Act.SWEEP, away, _ANYWHERE)
            return away.narrow
        self._patience.worked(name, Act.SWEEP, _ANYWHERE)
        return True

    def _strays_among(self, alive: Collection[Handle]) -> list[Handle]:
        by_id = {handle.native_id: handle for handle in alive}
        ours = self._db.read(lambda conn: attempts.unfinished(conn, list(by_id)))
        # The latest of a job first: the others are none to go on with.
        unknown = sorted(by_id.keys() - ours, key=lambda one: _named(one)[1], reverse=True)
        return [by_id[one] for one in unknown if not self._goes_on(one)]

    def _stop(self, connector: Connector, stray: Handle) -> bool:
        name, place, native_id = connector.name, stray.namespace, stray.native_id
        if self._patience.waits(name, Act.STOP, place, native_id):
            return False
        _log.warning("action=stop-stray native_id=%s", native_id)
        try:
            connector.cancel(stray)
        except ConnectorUnavailable as away:
            self._patience.failed(name, Act.STOP, away, place, native_id)
            return False
        self._patience.worked(name, Act.STOP, place)
        points.reach(Point.STRAY_STOPPED)
        return True

    def _goes_on(self, native_id: str) -> bool:
        """Whether this is an attempt that was made after the backup from which the database
        comes, of a job that has not ended: then its job goes on with it. The next
        hand-over has its name, and therefore finds it.
        """
        job_id, number = _named(native_id)
        now = self._clock()

        def write(conn: Connection) -> bool:
            job = jobs_db.get(conn, job_id)
            if job is None or job.attempt >= number:
                return False
            if job.state in FINAL:
                # Tried again, it needs a number of which its bucket has not heard.
                jobs_db.touch(conn, job_id, state=FINAL, attempt=number)
                return False
            self._take_back(conn, job, now)
            return jobs_db.touch(conn, job_id, state={JobState.RECEIVED}, attempt=number - 1)

        return self._db.write(write)

    def _take_back(self, conn: Connection, job: Job, now: float) -> None:
        for one in attempts.of_job(conn, job.id):
            if one.state in LIVE_ATTEMPT:
                end = End(
                    job=JobState.RECEIVED,
                    cause=Cause.WITHDRAWN,
                    reason="a later attempt is under way since before the restore",
                    ended_at=now,
                )
                end_attempt(conn, AttemptOfJob(one, job), end, self._half_life_s, now=now)


def _of_groups(conn: Connection, connector: str) -> set[str]:
    return {one.namespace for one in identity.list_groups(conn) if one.connector == connector}


def _named(native_id: str) -> tuple[UUID, int]:
    """The job and the number of an attempt, from its name; number 0 if it is none of ours."""
    *_, job, number = native_id.split("-")
    try:
        return UUID(job), int(number)
    except ValueError:
        return UUID(int=0), 0
