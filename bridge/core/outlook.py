"""Gathers what ``explain`` judges: the queue before a job, the room of its pool, limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from bridge.connectors.base import Capacity, Connector, Room
from bridge.core.explain import COUNTED, Facts, explain
from bridge.core.queue import ahead, members
from bridge.db import identity, usage
from bridge.db import queue as queue_db
from bridge.db.engine import Connection, Database
from bridge.errors import ConnectorUnavailable
from bridge.models.explanation import Explanation
from bridge.models.identity import Group
from bridge.models.job import Job


class Limits(msgspec.Struct, frozen=True):
    """How many attempts may be under way at once; 0 is any number."""

    per_user: int = 0
    per_group: int = 0


class Outlook:
    """Says why a job waits."""

    def __init__(
        self,
        db: Database,
        connectors: Mapping[str, Connector],
        *,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        half_life_s: float = 7 * 86400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._limits = limits
        self._half_life_s = half_life_s
        self._clock = clock

    def explain(self, job: Job, group: Group) -> Explanation:
        """Where a job of a group is, and what it waits for."""
        room, away = self._room(group)

        def read(conn: Connection) -> Facts:
            now = self._clock()
            under_way = queue_db.under_way(conn, group.id, now)
            shares = usage.lately(conn, group.id)
            before = ahead(
                _waiting(job),
                queue_db.lines(conn, group.id, now),
                members=members(under_way, shares, now=now, half_life_s=self._half_life_s),
                at_most=COUNTED,
            )
            mine = under_way.get(job.user_id)
            names = {user.id: user.name for user in identity.list_users(conn, group.id)}
            return Facts(
                connector=group.connector,
                away=away,
                room=room,
                ahead={names[user]: count for user, count in before.items()},
                mine_under_way=mine.attempts if mine else 0,
                group_under_way=sum(one.attempts for one in under_way.values()),
                running_per_user=self._limits.per_user,
                running_per_group=self._limits.per_group,
            )

        return explain(job, self._db.read(read), now=self._clock())

    def _room(self, group: Group) -> tuple[Room | None, str | None]:
        connector = self._connectors.get(group.connector)
        if connector is None:
            return None, "it is not configured here."
        if not isinstance(connector, Capacity):
            return None, None
        try:
            return connector.room(group.namespace, group.node_pool), None
        except ConnectorUnavailable as exc:
            return None, exc.message


def _waiting(job: Job) -> queue_db.Waiting:
    return queue_db.Waiting(job.id, job.user_id, job.priority, job.cores, job.memory_mb)
