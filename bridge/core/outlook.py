"""Gathers what ``explain`` judges: the queue before a job, the room of its pool, limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

import msgspec

from bridge.connectors.base import Capacity, Connector, Room
from bridge.core.explain import COUNTED, Facts, explain
from bridge.core.patience import Act, Fault
from bridge.core.queue import ahead, members_of
from bridge.db import attempts, identity, instance, usage
from bridge.db import queue as queue_db
from bridge.db.engine import Connection, Database
from bridge.errors import ConnectorUnavailable
from bridge.models.attempt import AttemptState
from bridge.models.explanation import Explanation
from bridge.models.identity import Group
from bridge.models.job import FINAL, Job, JobState

_FRESH_S: Final = 2.0  # what a pool was last seen to have is told again for so long
_PATIENCE_S: Final = 1.0  # so long a second question waits for the answer to the first


class Limits(msgspec.Struct, frozen=True):
    """How many attempts may be under way at once; 0 is any number."""

    per_user: int = 0
    per_group: int = 0


class Look(msgspec.Struct, frozen=True):
    """What was seen of a pool, or why it could not be looked at."""

    room: Room | None = None
    away: str | None = None
    until: float = 0.0


class Rooms:
    """Looks at pools for those who only want to know, one look at a time: a scheduler that
    does not answer shall not hold every thread that serves a request.
    """

    def __init__(self, connectors: Mapping[str, Connector], clock: Callable[[], float]) -> None:
        self._connectors = connectors
        self._clock = clock
        self._asking = threading.Lock()
        self._seen: dict[tuple[str, str, str], Look] = {}

    def look(self, group: Group) -> Look:
        """What the group's pool has, as it is or was lately."""
        connector = self._connectors.get(group.connector)
        if connector is None:
            return Look(away="it is not configured here.")
        if not isinstance(connector, Capacity):
            return Look()
        key = (group.connector, group.namespace, group.node_pool)
        if not self._asking.acquire(timeout=_PATIENCE_S):
            return self._seen.get(key, Look(away="it is slow to answer."))
        try:
            last = self._seen.get(key)
            if last is None or self._clock() >= last.until:
                last = self._seen[key] = self._ask(connector, group)
            return last
        finally:
            self._asking.release()

    def _ask(self, connector: Capacity, group: Group) -> Look:
        try:
            room = connector.room(group.namespace, group.node_pool)
        except ConnectorUnavailable as exc:
            return Look(away=exc.message, until=self._clock() + exc.retry_after)
        return Look(room, until=self._clock() + _FRESH_S)


class Outlook:
    """Says why a job waits. ``faults`` gives what cannot be asked of a connector at present,
    the same in every process.
    """

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        *,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        half_life_s: float = 7 * 86400,
        faults: Callable[[str], Iterable[Fault]] = lambda _: (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = tuple(connectors)
        self._rooms = Rooms(connectors, clock)
        self._faults = faults
        self._limits = limits
        self._half_life_s = half_life_s
        self._clock = clock

    def explain(self, job: Job, group: Group) -> Explanation:
        """Where a job of a group is, and what it waits for."""
        if job.state in FINAL:  # no scheduler is asked
            return explain(job, Facts(connector=group.connector), now=self._clock())
        look = self._rooms.look(group)
        facts = self._db.read(lambda conn: self._stored(conn, job, group, look.room))
        facts = msgspec.structs.replace(
            facts,
            room=look.room,
            away=look.away,
            refused=self._refused(group, facts.attempt),
            unlisted=None if facts.unlisted is None else self._unlisted(),
        )
        return explain(job, facts, now=self._clock())

    def _refused(self, group: Group, attempt: AttemptState | None) -> str | None:
        """Why nothing of the group is handed over, or what is so cannot be looked at."""
        taken = attempt not in {None, AttemptState.CLAIMED}
        act, place = (Act.LOOK, group.namespace) if taken else (Act.FEED, group.name)
        concern = (
            fault.message
            for fault in self._faults(group.connector)
            if fault.act is act and fault.place in {"", place}
        )
        return next(concern, None)

    def _unlisted(self) -> str:
        """What keeps any scheduler from being listed; empty: nothing that is known."""
        faults = (fault for name in self._connectors for fault in self._faults(name))
        return next((fault.message for fault in faults if fault.act is Act.SWEEP), "")

    def _stored(self, conn: Connection, job: Job, group: Group, room: Room | None) -> Facts:
        if job.state is JobState.RECEIVED:
            return self._queue(conn, job, group, room)
        last = attempts.of_job(conn, job.id)[-1]
        return Facts(connector=group.connector, attempt=last.state)

    def _queue(self, conn: Connection, job: Job, group: Group, room: Room | None) -> Facts:
        now = self._clock()
        under_way = queue_db.under_way(conn, group.id, now, self._half_life_s)
        shares = usage.lately(conn, group.id)
        before = ahead(
            queue_db.Waiting(job.id, job.user_id, job.priority, job.cores, job.memory_mb),
            partial(queue_db.levels, conn, group.id, now),
            members=members_of(under_way, shares, now=now, half_life_s=self._half_life_s),
            room=room,
            per_user=self._limits.per_user,
            at_most=COUNTED + 1,
        )
        mine = under_way.get(job.user_id)
        names = {user.id: user.name for user in identity.list_users(conn, group.id)}
        return Facts(
            connector=group.connector,
            unlisted=None if instance.is_swept(conn) else "",
            ahead={names[user]: count for user, count in before.items()},
            mine_under_way=mine.attempts if mine else 0,
            group_under_way=sum(one.attempts for one in under_way.values()),
            running_per_user=self._limits.per_user,
            running_per_group=self._limits.per_group,
        )
