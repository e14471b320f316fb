"""Chooses who goes next, claims those jobs, and has them handed over (``hand_over``)."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import msgspec

from bridge import points
from bridge.connectors.base import Backlog, Capacity, Connector, Pending, Room
from bridge.core.hand_over import HandOver
from bridge.core.patience import Act, Patience
from bridge.core.queue import Chosen, Reserve, choose, members_of, reserve
from bridge.db import attempts, claims, identity, instance, selftests, usage
from bridge.db import queue as queue_db
from bridge.db.attempts import AttemptOfJob
from bridge.db.engine import Connection, Transactions
from bridge.db.queue import Marks
from bridge.errors import ConnectorUnavailable
from bridge.models.identity import Group
from bridge.models.ids import new_id
from bridge.points import Point

_RATE_OVER_S: Final = 10.0
# A look reads every attempt under way, and who has waited for a minute may wait a little more.
_LOOK_FOR_EXPIRED_S: Final = 1.0


class Pace(msgspec.Struct, frozen=True):
    """How the feeder goes. Times in seconds; limits of 0 are none."""

    reserve: Reserve = Reserve()
    reserve_total: int = 512  # of all groups of a scheduler
    at_once: int = 64  # calls to a scheduler in one pass
    claim_ttl_s: float = 60
    threads: int = 8
    half_life_s: float = 7 * 86400
    running_per_user: int = 0
    running_per_group: int = 0


class _Starts:
    """How fast attempts of each group start, learnt from how many still wait."""

    def __init__(self) -> None:
        self._expected: dict[UUID, int] = {}  # waiting at the scheduler, had none started
        self._rates: dict[UUID, tuple[float, float]] = {}  # last look, starts per second

    def rate(self, group_id: UUID, pending: int, now: float) -> float:
        """Starts per second, averaged over about _RATE_OVER_S."""
        started = max(self._expected.get(group_id, pending) - pending, 0)
        at, rate = self._rates.get(group_id, (now, 0.0))
        if now > at:
            rate += (started / (now - at) - rate) * min((now - at) / _RATE_OVER_S, 1.0)
        self._rates[group_id] = (now, rate)
        self._expected[group_id] = pending
        return rate

    def handed_over(self, group_id: UUID, count: int) -> None:
        """So many more wait at the scheduler now."""
        self._expected[group_id] = self._expected.get(group_id, 0) + count


class Feeder:
    """One pass is ``step``; the daemon calls it when woken and every interval."""

    def __init__(
        self,
        db: Transactions,
        connectors: Mapping[str, Connector],
        *,
        prefix: str,
        pace: Pace,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._connectors = connectors
        self._prefix = prefix
        self._pace = pace
        self._patience = patience or Patience(ticks)
        self._clock = clock
        self._ticks = ticks
        self._hand_over: Final = HandOver(
            db,
            threads=pace.threads,
            half_life_s=pace.half_life_s,
            patience=self._patience,
            clock=clock,
        )
        self._next_look_for_expired: dict[str, float] = {}
        self._starts = _Starts()
        self._marks: defaultdict[UUID, Marks] = defaultdict(Marks)
        self._swept = False
        self._recalled = False

    def begin(self) -> None:
        """This process leads from now on: others may have handed over until now."""
        self._recalled = False

    def step(self) -> int:
        """Hand over what can start now; returns how many attempts were handed over.

        After a restore nothing, until it is known what lives at the schedulers.
        """
        self._swept = self._swept or self._db.look_up(instance.is_swept)
        if not self._swept:
            return 0
        if not self._recalled:
            self._recall()
            self._hand_over.forget()
            self._marks.clear()
            self._recalled = True
        return sum(self._serve(connector) for connector in self._connectors.values())

    def _recall(self) -> None:
        """Else smaller jobs would overtake a large one that waits at its scheduler already."""
        unplaced = self._db.read(attempts.unplaced)
        for name, connector in self._connectors.items():
            if isinstance(connector, Backlog):
                mine = (one for one in unplaced if one.connector == name)
                connector.recall(Pending(one.handle, one.cores, one.memory_mb) for one in mine)

    def close(self) -> None:
        """Wait for calls under way, then stop."""
        self._hand_over.close()

    def native_id(self, job_id: UUID, number: int) -> str:
        """The deterministic name of an attempt at its scheduler."""
        return f"{self._prefix}{job_id.hex}-{number}"

    def _serve(self, connector: Connector) -> int:
        """What can start at one scheduler. What is refused to one group is no other's loss."""
        if self._patience.waits(connector.name, Act.FEED):
            return 0
        count = self._hand_over.call(connector, self._reclaim(connector))
        count += self._hand_over.call(connector, self._claim_selftests(connector))
        for group in self._groups(connector.name):
            if not self._patience.waits(connector.name, Act.FEED, group.name):
                count += self._feed(connector, group)
        return count

    def _groups(self, connector: str) -> list[Group]:
        def read(conn: Connection) -> list[Group]:
            waiting = [identity.group_by_id(conn, one) for one in queue_db.groups_waiting(conn)]
            return [group for group in waiting if group and group.connector == connector]

        return self._db.read(read)

    def _reclaim(self, connector: Connector) -> list[AttemptOfJob]:
        some_are_free = self._hand_over.free_some(connector.name)
        now, ticks = self._clock(), self._ticks()
        if not some_are_free and ticks < self._next_look_for_expired.get(connector.name, ticks):
            return []
        self._next_look_for_expired[connector.name] = ticks + _LOOK_FOR_EXPIRED_S
        if not self._db.read(lambda conn: claims.any_expired(conn, connector.name, now)):
            return []
        claimed = self._db.write(
            lambda conn: claims.reclaim(
                conn,
                connector.name,
                but=self._hand_over.held_back(connector.name),
                token=new_id(),
                now=now,
                expires_at=now + self._pace.claim_ttl_s,
                limit=self._pace.at_once,
            )
        )
        points.reach(Point.RECLAIM_COMMITTED)
        return claimed

    def _claim_selftests(self, connector: Connector) -> list[AttemptOfJob]:
        """All that wait: nobody's turn, and nobody's share."""
        waiting = self._db.read(selftests.waiting)
        claimed = []
        for group_id, job_id in waiting:
            group = self._db.read(partial(identity.group_by_id, group_id=group_id))
            if group is not None and group.connector == connector.name:
                claim = self._claim_for(connector, group)
                claimed += self._db.write(partial(claims.claim, job_ids=[job_id], by=claim))
        return claimed

    def _feed(self, connector: Connector, group: Group) -> int:
        room = None
        if isinstance(connector, Capacity):
            try:
                room = connector.room(group.namespace, group.node_pool)
            except ConnectorUnavailable as away:
                self._patience.failed(connector.name, Act.FEED, away, group.name)
                return 0
        chosen = self._choose_for(group, room)
        avoid = {one.job.id: one.avoid for one in chosen}
        return self._hand_over.call(connector, self._claim(connector, group, chosen), avoid)

    def _choose_for(self, group: Group, room: Room | None) -> tuple[Chosen, ...]:
        now = self._clock()
        # Nothing is written, but the writer has in memory what it wrote last: who is ahead in
        # a deep queue is found in half the time, and it is what the claim is about to change.
        chosen = self._db.write(lambda conn: self._choose(conn, group, room, now))
        points.reach(Point.CLAIM_CHOSEN)
        return chosen

    def _claim(
        self, connector: Connector, group: Group, chosen: Sequence[Chosen]
    ) -> list[AttemptOfJob]:
        claim = self._claim_for(connector, group)

        def write(conn: Connection) -> list[AttemptOfJob]:
            claimed = claims.claim(conn, [one.job.id for one in chosen], claim)
            points.reach(Point.CLAIM_BEFORE_COMMIT)
            return claimed

        # Lost with its machine, a claim is taken again under the same name.
        claimed = self._db.write(write, lasting=False) if chosen else []
        points.reach(Point.CLAIM_COMMITTED)
        self._starts.handed_over(group.id, len(claimed))
        return claimed

    def _claim_for(self, connector: Connector, group: Group) -> claims.Claim:
        now = self._clock()
        return claims.Claim(
            connector=connector.name,
            namespace=group.namespace,
            native_id=self.native_id,
            token=new_id(),
            now=now,
            expires_at=now + self._pace.claim_ttl_s,
            generations=group.generations(now),
        )

    def _choose(
        self, conn: Connection, group: Group, room: Room | None, now: float
    ) -> tuple[Chosen, ...]:
        pace = self._pace
        under_way = queue_db.under_way(conn, group.id, now, pace.half_life_s)
        shares = usage.lately(conn, group.id)
        pending = sum(one.pending for one in under_way.values())
        slots = min(
            reserve(self._starts.rate(group.id, pending, now), pace.reserve) - pending,
            pace.reserve_total - queue_db.pending(conn, group.connector),
        )
        # One, to hear whether it is taken now: the others would leave the queue, and its order,
        # for nothing.
        at_once = 1 if self._hand_over.is_held_up(group.connector, group.name) else pace.at_once
        if pace.running_per_group:
            total = sum(one.attempts for one in under_way.values())
            at_once = min(at_once, pace.running_per_group - total)
        return choose(
            partial(queue_db.levels, conn, group.id, now, marks=self._marks[group.id]),
            members=members_of(under_way, shares, now=now, half_life_s=pace.half_life_s),
            slots=slots,
            room=room,
            per_user=pace.running_per_user,
            at_once=at_once,
        )
