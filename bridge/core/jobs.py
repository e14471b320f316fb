"""What members do with jobs: hand in, look, cancel, hold, prune."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from operator import eq
from uuid import UUID

from bridge import points
from bridge.core.access import require_user
from bridge.core.images import Images
from bridge.core.outlook import Outlook
from bridge.core.quota import Gate, Quota
from bridge.db import attempts, audit, intake
from bridge.db import jobs as jobs_db
from bridge.db.engine import Connection, Database
from bridge.errors import Conflict, NotFound, NotReady, Refused
from bridge.models.attempt import Attempt, Cause
from bridge.models.explanation import Explanation
from bridge.models.identity import Caller, Group, Role
from bridge.models.ids import new_id, new_ids
from bridge.models.job import FINAL, Job, JobState, NewJob, as_received
from bridge.points import Point


class Jobs:
    """The rules of a member's jobs. ``wake`` is called when something may start;
    ``connectors`` are those that are configured (None: whichever a group has).
    """

    def __init__(
        self,
        db: Database,
        *,
        outlook: Outlook,
        quota: Quota = Quota(),  # noqa: B008 (frozen)
        images: Images = Images(),  # noqa: B008 (never changed)
        connectors: Collection[str] | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._outlook = outlook
        self._gate = Gate(db, quota)
        self._images = images
        self._connectors = connectors
        self._wake = wake
        self._clock = clock

    def submit(self, caller: Caller, new: NewJob) -> Job:
        """Take one job in; the same bucket again gives the job it already is.

        Raises InvalidRequest, Forbidden, NotReady, Conflict, TooMany.
        """
        user, job_id, now = require_user(caller), new_id(), self._clock()
        [result] = self._take_in(caller, [self._if_usable(new)], now, [job_id])
        if isinstance(result, Refused):
            raise result
        if result != job_id:  # it was one already
            return self.get(caller, result)
        return as_received(new, id=job_id, owner=user, now=now)

    def submit_many(
        self, caller: Caller, items: Sequence[NewJob | Refused]
    ) -> list[UUID | Refused]:
        """Take many jobs in, durably, in one commit; the answers are in order.

        An item that already is a refusal is passed through. Raises Forbidden,
        NotReady and TooMany (the quota), which concern all items.
        """
        return self._take_in(caller, [self._if_usable(one) for one in items], self._clock())

    def _take_in(
        self,
        caller: Caller,
        items: Sequence[NewJob | Refused],
        now: float,
        ids: Sequence[UUID] | None = None,
    ) -> list[UUID | Refused]:
        user = require_user(caller)
        self._refuse_without_nodes(caller.group)
        self._refuse_unconfigured(caller.group)
        good = [item for item in items if isinstance(item, NewJob)]
        if not good:
            return [item for item in items if isinstance(item, Refused)]

        own = ids or new_ids(len(good))

        def insert(conn: Connection) -> tuple[list[UUID | intake.Clash], dict[UUID, int]]:
            stored = intake.insert_many(
                conn, group_id=caller.group.id, user_id=user.id, jobs=good, now=now, ids=own
            )
            points.reach(Point.SUBMIT_BEFORE_COMMIT)
            # What is handed in again, because its answer was lost, counts once.
            return stored, {user.id: sum(map(eq, stored, own))}

        stored = self._gate.write(caller.group.id, {user.id: user.name}, insert)
        points.reach(Point.SUBMIT_COMMITTED)
        if not all(job.hold for job in good):
            self._wake()
        answers = iter(stored)
        return [item if isinstance(item, Refused) else _answer(next(answers)) for item in items]

    def _refuse_without_nodes(self, group: Group) -> None:
        if not group.has_compute_secret:
            raise NotReady(
                "The group has no compute secret yet, so it has no nodes.",
                "An admin sets it up: nomad-bridge compute-secret rotate.",
            )

    def _refuse_unconfigured(self, group: Group) -> None:
        if self._connectors is not None and group.connector not in self._connectors:
            raise NotReady(
                f"The group's jobs are run by the connector {group.connector}, for which this "
                "service is not configured.",
                "Ask its operator to configure it again, or to move the group to another one "
                "(nomad-bridge groups move).",
            )

    def get(self, caller: Caller, job_id: UUID) -> Job:
        """One job of the caller's; for an admin, of the group. Raises NotFound, Forbidden."""
        user = require_user(caller)
        job = self._db.look_up(lambda conn: jobs_db.get(conn, job_id, group_id=caller.group.id))
        mine = job is not None and (caller.role is Role.ADMIN or job.user_id == user.id)
        if job is None or not mine or job.pinned_to is not None:
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
        return self._db.look_up(lambda conn: jobs_db.find(conn, wanted, limit, before))

    def activity(self, caller: Caller, limit: int = 100, before: UUID | None = None) -> list[Job]:
        """Newest first, of the whole group; front doors show no bucket of these."""
        wanted = jobs_db.JobFilter(group_id=caller.group.id)
        return self._db.look_up(lambda conn: jobs_db.find(conn, wanted, limit, before))

    def cancel(self, caller: Caller, job_id: UUID) -> Job:
        """Ask that a job stops. Final jobs stay as they are. Raises NotFound, Forbidden.

        A job that waits is canceled at once. One that was handed over becomes
        ``canceled`` when its scheduler shows that it stopped.
        """
        job = self.get(caller, job_id)
        now = self._clock()

        def write(conn: Connection) -> None:
            self._audit(conn, caller, "job.cancel", job, now)
            cancel_job(conn, job.id, now)
            points.reach(Point.CANCEL_BEFORE_COMMIT)

        if job.state not in FINAL and job.cancel_requested_at is None:
            self._db.write(write)
            points.reach(Point.CANCEL_COMMITTED)
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
        now = self._clock()

        def write(conn: Connection) -> bool:
            before = jobs_db.lock(conn, job.id)
            done = jobs_db.touch(conn, job.id, state={JobState.RECEIVED}, hold=hold)
            if done and before is not None and before.hold is not hold:
                self._audit(conn, caller, "job.hold" if hold else "job.release", job, now)
            return done

        if not self._db.write(write):
            raise _not_held(self.get(caller, job_id), hold)
        self._wake()
        return self.get(caller, job_id)

    def prune(self, caller: Caller, job_id: UUID, deleted: bool = False) -> Job:
        """Give an ended job's data up; from now on it is never tried again.

        The service holds no storage key: the caller deletes the bucket, then
        confirms with ``deleted``. Both steps may be repeated.
        Raises NotFound, Forbidden, Conflict (the job has not ended).
        """
        job = self.get(caller, job_id)
        now = self._clock()
        changes: dict[str, float] = {}
        if job.prune_requested_at is None:
            changes["prune_requested_at"] = now
        if deleted and job.pruned_at is None:
            changes["pruned_at"] = now

        def write(conn: Connection) -> None:
            # Not decided by what we read: it may be back in the queue since.
            if not jobs_db.touch(conn, job.id, state=FINAL, **changes):
                raise Conflict(
                    "The job has not ended; its data is still needed.",
                    "Wait for it or cancel it first.",
                )
            if "prune_requested_at" in changes:
                self._audit(conn, caller, "job.prune", job, now)
            points.reach(Point.PRUNE_BEFORE_COMMIT)

        if changes:
            self._db.write(write)
            points.reach(Point.PRUNE_COMMITTED)
        return self.get(caller, job_id)

    def retry(self, caller: Caller, job_id: UUID) -> Job:
        """Try a failed or canceled job again, as if new.

        Raises NotFound, Forbidden, Conflict (not ended so, or its data was given up),
        TooMany (its owner's quota).
        """
        job = self.get(caller, job_id)
        now = self._clock()

        def write(conn: Connection) -> tuple[bool, dict[UUID, int]]:
            again = jobs_db.again(conn, job.id)
            if again:
                self._audit(conn, caller, "job.retry", job, now)
            points.reach(Point.RETRY_BEFORE_COMMIT)
            return again, {job.user_id: int(again)}

        done = self._gate.write(caller.group.id, {job.user_id: job.user}, write)
        points.reach(Point.RETRY_COMMITTED)
        if not done:
            raise _not_again(self.get(caller, job_id))
        self._wake()
        return self.get(caller, job_id)

    def attempts(self, caller: Caller, job_id: UUID) -> list[Attempt]:
        """All attempts of a job, first to last. Raises NotFound, Forbidden."""
        job = self.get(caller, job_id)
        return self._db.read(lambda conn: attempts.of_job(conn, job.id))

    def explain(self, caller: Caller, job_id: UUID) -> Explanation:
        """Why a job is where it is. Raises NotFound, Forbidden."""
        return self._outlook.explain(self.get(caller, job_id), caller.group)

    def _if_usable(self, item: NewJob | Refused) -> NewJob | Refused:
        if isinstance(item, Refused):
            return item
        return self._images.refusal(item.image) or item

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


def cancel_job(conn: Connection, job_id: UUID, now: float) -> None:
    """What waits is canceled, what was handed over asked to stop, what has ended left."""
    # Without the lock the job could go back to the queue between the two changes.
    jobs_db.lock(conn, job_id)
    if jobs_db.move(
        conn,
        job_id,
        frm={JobState.RECEIVED},
        to=JobState.CANCELED,
        cancel_requested_at=now,
        ended_at=now,
        cause=Cause.CANCELED.value,
        reason=None,
    ):
        return
    points.reach(Point.CANCEL_HALFWAY)
    handed_over = {JobState.SUBMITTED, JobState.RUNNING}
    if jobs_db.touch(conn, job_id, state=handed_over, cancel_requested_at=now):
        attempts.request_stop(conn, job_id, cause=Cause.CANCELED, now=now)


def _not_held(job: Job, hold: bool) -> Conflict:
    what = "held" if hold else "released"
    if job.state in FINAL:
        remedy = "It has ended."
    elif hold:
        remedy = "It was handed over: cancel it if it shall not go on."
    else:
        remedy = "It was handed over: nothing holds it."
    return Conflict(f"The job is {job.state}; only a received one can be {what}.", remedy)


def _not_again(job: Job) -> Conflict:
    if job.state not in FINAL:
        remedy = "It has not ended: wait for it, or cancel it first."
    else:
        remedy = "Submit its folder as a new job: nomad-bridge submit --again."
    pruned = " and its data was given up" if job.prune_requested_at else ""
    return Conflict(
        f"The job is {job.state}{pruned}; "
        "only a failed or canceled one that has its data can be tried again.",
        remedy,
    )


def _answer(stored: UUID | intake.Clash) -> UUID | Refused:
    if isinstance(stored, UUID):
        return stored
    return Conflict(
        "This bucket already belongs to a job of another member.",
        "Make a new bucket with a new uuid4 name.",
    )
