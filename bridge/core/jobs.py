"""What members do with jobs: hand in, look, cancel, hold, prune."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from bridge.core.access import require_user
from bridge.db import attempts, audit
from bridge.db import jobs as jobs_db
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, NotFound, NotReady, Refused
from bridge.models.attempt import Cause
from bridge.models.identity import Caller, Role
from bridge.models.job import FINAL, LIVE, Job, JobState, NewJob


class Jobs:
    """The rules of a member's jobs. ``wake`` is called when something may start."""

    def __init__(
        self,
        db: Database,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._wake = wake
        self._clock = clock

    def submit(self, caller: Caller, new: NewJob) -> Job:
        """Take one job in; the same bucket again gives the job it already is.

        Raises Forbidden, NotReady, Conflict.
        """
        result = self.submit_many(caller, [new])[0]
        if isinstance(result, Refused):
            raise result
        return self.get(caller, result)

    def submit_many(
        self, caller: Caller, items: Sequence[NewJob | Refused]
    ) -> list[UUID | Refused]:
        """Take many jobs in, durably, in one commit; the answers are in order.

        An item that already is a refusal is passed through. Raises Forbidden
        and NotReady, which concern all items.
        """
        user = require_user(caller)
        if not caller.group.has_compute_secret:
            raise NotReady(
                "The group has no compute secret yet, so it has no nodes.",
                "An admin sets it up: nomad-bridge compute-secret rotate.",
            )
        good = [item for item in items if isinstance(item, NewJob)]
        stored = self._db.write(
            lambda conn: jobs_db.insert_many(
                conn,
                group_id=caller.group.id,
                user_id=user.id,
                jobs=good,
                now=self._clock(),
            )
        )
        self._wake()
        answers = iter(stored)
        return [item if isinstance(item, Refused) else _answer(next(answers)) for item in items]

    def get(self, caller: Caller, job_id: UUID) -> Job:
        """One job of the caller's; for an admin, of the group. Raises NotFound, Forbidden."""
        user = require_user(caller)
        job = self._db.read(lambda conn: jobs_db.get(conn, job_id, group_id=caller.group.id))
        if job is None or (caller.role is not Role.ADMIN and job.user_id != user.id):
            raise NotFound("No such job or not your job.", "List yours: nomad-bridge list.")
        return job

    def find(
        self,
        caller: Caller,
        *,
        state: JobState | None = None,
        user: str | None = None,
        set: str | None = None,
        limit: int = 100,
        before: UUID | None = None,
    ) -> list[Job]:
        """Newest first: the caller's jobs, or the group's for an admin. Raises Forbidden."""
        me = require_user(caller)
        only = None if caller.role is Role.ADMIN else me.id
        wanted = jobs_db.JobFilter(
            group_id=caller.group.id, user_id=only, user=user, state=state, set=set
        )
        return self._db.read(lambda conn: jobs_db.find(conn, wanted, limit, before))

    def activity(self, caller: Caller, limit: int = 100, before: UUID | None = None) -> list[Job]:
        """Newest first, of the whole group; front doors show no bucket of these."""
        wanted = jobs_db.JobFilter(group_id=caller.group.id)
        return self._db.read(lambda conn: jobs_db.find(conn, wanted, limit, before))

    def cancel(self, caller: Caller, job_id: UUID) -> Job:
        """Ask that a job stops. Final jobs stay as they are. Raises NotFound, Forbidden.

        A job that waits is canceled at once. One that was handed over becomes
        ``canceled`` when its scheduler shows that it stopped.
        """
        job = self.get(caller, job_id)
        now = self._clock()

        def write(conn: Connection) -> None:
            self._audit(conn, caller, "job.cancel", job, now)
            if jobs_db.move(
                conn,
                job.id,
                frm={JobState.RECEIVED},
                to=JobState.CANCELED,
                cancel_requested_at=now,
                ended_at=now,
                cause=Cause.CANCELED.value,
                reason=None,
            ):
                return
            if jobs_db.touch(
                conn, job.id, state={JobState.SUBMITTED, JobState.RUNNING}, cancel_requested_at=now
            ):
                attempts.request_stop(conn, job.id, cause=Cause.CANCELED, now=now)

        if job.state not in FINAL and job.cancel_requested_at is None:
            self._db.write(write)
            self._wake()
        return self.get(caller, job_id)

    def hold(self, caller: Caller, job_id: UUID) -> Job:
        """Keep a waiting job from starting. Raises NotFound, Forbidden, Conflict."""
        return self._set_hold(caller, job_id, True)

    def release(self, caller: Caller, job_id: UUID) -> Job:
        """Let a held job start. Raises NotFound, Forbidden, Conflict."""
        return self._set_hold(caller, job_id, False)

    def _set_hold(self, caller: Caller, job_id: UUID, hold: bool) -> Job:
        job = self.get(caller, job_id)
        done = self._db.write(
            lambda conn: jobs_db.touch(conn, job.id, state={JobState.RECEIVED}, hold=hold)
        )
        if not done:
            raise Conflict(
                f"The job is {self.get(caller, job_id).state}; only a received one can be "
                f"{'held' if hold else 'released'}.",
                "Cancel it if it shall not go on.",
            )
        self._wake()
        return self.get(caller, job_id)

    def prune(self, caller: Caller, job_id: UUID, deleted: bool = False) -> Job:
        """Give an ended job's data up; from now on it is never tried again.

        The service holds no storage key: the caller deletes the bucket, then
        confirms with ``deleted``. Both steps may be repeated.
        Raises NotFound, Forbidden, Conflict (the job has not ended).
        """
        job = self.get(caller, job_id)
        if job.state in LIVE:
            raise Conflict(
                f"The job is {job.state}; its data is still needed.",
                "Wait for it or cancel it first.",
            )
        now = self._clock()

        def write(conn: Connection) -> None:
            changes: dict[str, float] = {}
            if job.prune_requested_at is None:
                changes["prune_requested_at"] = now
                self._audit(conn, caller, "job.prune", job, now)
            if deleted and job.pruned_at is None:
                changes["pruned_at"] = now
            if changes:
                jobs_db.touch(conn, job.id, state=FINAL, **changes)

        self._db.write(write)
        return self.get(caller, job_id)

    def _audit(self, conn: Connection, caller: Caller, action: str, job: Job, now: float) -> None:
        user = require_user(caller)
        audit.record(
            conn,
            group_id=caller.group.id,
            actor=user.name,
            action=action,
            target=str(job.id),
            now=now,
        )


def _answer(stored: UUID | jobs_db.Clash) -> UUID | Refused:
    if isinstance(stored, UUID):
        return stored
    return Conflict(
        "This bucket already belongs to a job of another member.",
        "Make a new bucket with a new uuid4 name.",
    )
