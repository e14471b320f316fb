"""What members do with a set of jobs as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from uuid import UUID

from bridge import points
from bridge.core.access import require_user
from bridge.core.outlook import Outlook
from bridge.core.quota import Gate, Quota
from bridge.db import archive, attempts, audit
from bridge.db import sets as sets_db
from bridge.db.engine import Connection, Database
from bridge.db.sets import Chunk, JobSet
from bridge.errors import NotFound
from bridge.models.attempt import Attempt
from bridge.models.explanation import Explanation
from bridge.models.identity import Caller, Role
from bridge.models.job import FINAL, JobState
from bridge.models.job_set import SetSummary
from bridge.models.words import noun
from bridge.points import Point

# Jobs changed by one statement: some milliseconds in which nobody else writes.
_CHUNK: Final = 5000
_CHUNK_OF_ARCHIVE: Final = 500  # jobs that are moved, with their attempts
# How often a cancel looks for jobs that slipped through it; each that did was handed over
# and came back meanwhile.
_ROUNDS: Final = 10

_Change = Callable[..., Chunk]
_Write = Callable[[Callable[[Connection], Chunk]], Chunk]


class Sets:
    """The rules of sets. A member steers the own jobs in a set, an admin all."""

    def __init__(
        self,
        db: Database,
        *,
        outlook: Outlook,
        quota: Quota = Quota(),  # noqa: B008 (frozen)
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._outlook = outlook
        self._gate = Gate(db, quota)
        self._wake = wake
        self._clock = clock

    def find(
        self, caller: Caller, *, limit: int | None = None, after: str = ""
    ) -> list[SetSummary]:
        """The caller's sets by name, for an admin the group's; those that come ``after`` a
        name. Raises Forbidden.
        """
        group, user = caller.group.id, _only(caller)
        return self._db.read(
            lambda conn: sets_db.summaries(conn, group, user, after=after, limit=limit)
        )

    def get(self, caller: Caller, name: str) -> SetSummary:
        """One set. Raises NotFound, Forbidden."""
        group, user = caller.group.id, _only(caller)
        found = self._db.read(lambda conn: sets_db.summaries(conn, group, user, name=name))
        if not found:
            raise _not_there(name)
        return found[0]

    def explain(self, caller: Caller, name: str) -> Explanation:
        """How a set stands, and why the first of its jobs that wait does.

        Raises NotFound, Forbidden.
        """
        which = JobSet(caller.group.id, name, _only(caller))
        counts = self.get(caller, name).jobs
        first = self._db.read(lambda conn: sets_db.first_waiting(conn, which))
        total = sum(counts.values())
        stands = f"Of {total:,} {noun(total, 'job')} {_counted(counts)}."
        details: dict[str, object] = {"jobs": counts}
        if first is None:
            return Explanation(sentence=f"{stands} None waits.", details=details)
        found = self._outlook.explain(first, caller.group)
        return Explanation(
            sentence=f"{stands} The first that waits is {first.id}: {found.sentence}",
            ahead=found.ahead,
            details={**found.details, **details, "job": str(first.id)},
        )

    def attempts(
        self, caller: Caller, name: str, *, limit: int = 100, before: UUID | None = None
    ) -> list[list[Attempt]]:
        """The attempts of each job of a set that had any, the newest job first, its first
        attempt first. ``before`` is the last job of the page before.

        Raises NotFound, Forbidden.
        """
        which = self._named(caller, name)

        def read(conn: Connection) -> list[list[Attempt]]:
            ids = sets_db.with_runs(conn, which, limit, before)
            of_one: dict[UUID, list[Attempt]] = {job_id: [] for job_id in ids}
            for attempt in attempts.of_jobs(conn, ids):
                of_one[attempt.job_id].append(attempt)
            return list(of_one.values())

        return self._db.read(read)

    def cancel(self, caller: Caller, name: str) -> int:
        """Cancel what waits at once, ask the rest to stop; how many jobs that were.

        Raises NotFound, Forbidden.
        """
        now, which = self._clock(), self._named(caller, name)
        changes = [
            partial(sets_db.cancel_handed_over, state=JobState.SUBMITTED, now=now),
            partial(sets_db.cancel_handed_over, state=JobState.RUNNING, now=now),
            # What was asked to stop never waits again. So this finds what went back to the
            # queue before it was asked.
            partial(sets_db.cancel_waiting, now=now),
        ]
        total = 0
        for _ in range(_ROUNDS):
            total += sum(self._change(which, change) for change in changes)
            if not self._db.look_up(lambda conn: sets_db.any_to_cancel(conn, which)):
                break
        return self._note(caller, "cancel", name, total)

    def hold(self, caller: Caller, name: str) -> int:
        """Keep what waits from starting; how many jobs. Raises NotFound, Forbidden."""
        return self._steer(caller, name, "hold", partial(sets_db.set_hold, hold=True))

    def release(self, caller: Caller, name: str) -> int:
        """Let held jobs start; how many. Raises NotFound, Forbidden."""
        return self._steer(caller, name, "release", partial(sets_db.set_hold, hold=False))

    def retry(self, caller: Caller, name: str) -> int:
        """Try failed jobs again; how many.

        Raises NotFound, Forbidden, TooMany when all of them would be over a quota: then
        none is, unless others were handed in meanwhile.
        """
        group, which = caller.group.id, self._named(caller, name)
        failed = self._db.read(lambda conn: sets_db.failed_by_user(conn, which))
        self._gate.foresee(group, failed)
        total = 0
        for user, (known_as, _) in failed.items():
            theirs = JobSet(group, name, user)
            total += self._change(
                theirs,
                sets_db.retry_failed,
                # Each chunk passes the gate by itself.
                partial(self._let_in, group, user, known_as),
            )
        return self._note(caller, "retry", name, total)

    def _let_in(
        self, group: UUID, user: UUID, name: str, part: Callable[[Connection], Chunk]
    ) -> Chunk:
        def grow(conn: Connection) -> tuple[Chunk, dict[UUID, int]]:
            chunk = part(conn)
            return chunk, {user: chunk.changed}

        return self._gate.write(group, {user: name}, grow)

    def prune(self, caller: Caller, name: str) -> int:
        """Give the data of ended jobs up, also of archived ones; how many. The caller deletes
        the buckets and confirms each. Raises NotFound, Forbidden.
        """
        now = self._clock()
        which = JobSet(caller.group.id, name, _only(caller))
        # Before the archived ones: what the archive takes meanwhile is found there.
        changes = [partial(sets_db.prune, state=state, now=now) for state in sorted(FINAL)]
        total = sum(self._change(which, change) for change in changes)
        total += self._prune_archived(which, now)
        self._named(caller, name)  # by now what was archived is there, too
        return self._note(caller, "prune", name, total)

    def _steer(self, caller: Caller, name: str, verb: str, change: _Change) -> int:
        total = self._change(self._named(caller, name), change)
        return self._note(caller, verb, name, total)

    def _prune_archived(self, which: JobSet, now: float) -> int:
        """What of a set has data yet is in lists again, for as long as that is deleted."""
        fields, total = (which.group_id, which.name, which.user_id), 0
        prune = partial(archive.prune_set, now=now, limit=_CHUNK_OF_ARCHIVE)
        while (chunk := self._db.write(lambda conn: prune(conn, *fields))).back:
            points.reach(Point.SET_CHUNK_COMMITTED)
            total += chunk.anew
        return total

    def _change(self, which: JobSet, change: _Change, write: _Write | None = None) -> int:
        """Make one change to all jobs that it concerns, chunk by chunk; how many."""
        total, after, write = 0, sets_db.BEGIN, write or self._db.write
        while True:
            part = partial(change, which=which, after=after, limit=_CHUNK)
            chunk = write(part)
            points.reach(Point.SET_CHUNK_COMMITTED)
            total += chunk.changed
            if chunk.last is None:
                return total
            after = chunk.last

    def _note(self, caller: Caller, verb: str, name: str, total: int) -> int:
        """Have it in the books, and let go on what may; gives ``total`` back."""
        if total:
            self._db.write(lambda conn: self._audit(conn, caller, verb, name, total))
            self._wake()
        return total

    def _audit(self, conn: Connection, caller: Caller, verb: str, name: str, total: int) -> None:
        audit.record(
            conn,
            group_id=caller.group.id,
            actor=require_user(caller).name,
            action=f"set.{verb}",
            target=name,
            detail=f"{total} jobs",
            now=self._clock(),
        )

    def _named(self, caller: Caller, name: str) -> JobSet:
        """The set, or the caller's part of it. Raises NotFound, Forbidden."""
        which = JobSet(caller.group.id, name, _only(caller))
        if not self._db.look_up(lambda conn: sets_db.is_there(conn, which)):
            raise _not_there(name)
        return which


def _only(caller: Caller) -> UUID | None:
    """Whose jobs a caller has in view; None for everybody's. Raises Forbidden."""
    user = require_user(caller)
    return None if caller.role is Role.ADMIN else user.id


def _counted(counts: Mapping[JobState, int]) -> str:
    """For example "1,200 are received, 8 are running and 1 is failed"."""
    first, *more = [
        f"{counts[state]:,} {'is' if counts[state] == 1 else 'are'} {state}"
        for state in JobState
        if counts.get(state)
    ]
    return f"{', '.join([first, *more[:-1]])} and {more[-1]}" if more else first


def _not_there(name: str) -> NotFound:
    return NotFound(
        f"There is no set {name!r} with jobs of yours.", "List yours: nomad-bridge sets."
    )
