"""How many jobs may wait or run: what makes more of them passes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from bridge.db import quotas
from bridge.db.engine import Connection, Database
from bridge.db.quotas import Whose
from bridge.errors import OverQuota
from bridge.models.words import noun

T = TypeVar("T")

# Makes jobs live; its result, and how many more of each member that were.
Growth = Callable[[Connection], tuple[T, Mapping[UUID, int]]]


class Quota(msgspec.Struct, frozen=True):
    """How many jobs may wait or run; 0 is any number."""

    per_user: int = 0
    per_group: int = 0


class _Limit(msgspec.Struct, frozen=True):
    whose: Whose
    name: str
    most: int

    def more(self, by_user: Mapping[UUID, int]) -> int:
        user = self.whose.user_id
        return sum(by_user.values()) if user is None else by_user.get(user, 0)

    def check(self, before: int, more: int) -> None:
        """``before``: the jobs that are live already."""
        if before + more <= self.most:
            return
        fit = max(self.most - before, 0)
        raise OverQuota(
            f"{more} more {noun(more, 'job')} would be over the limit of {self.most} "
            f"that {self.name} may have waiting, held or running; {before} are.",
            f"Hand in {f'{fit} now, and ' if fit else ''}the rest when some have ended.",
            retry_after=60,
        )


class Gate:
    """Lets no more jobs in than a quota allows, also beside other processes."""

    def __init__(self, db: Database, quota: Quota) -> None:
        self._db = db
        self._quota = quota
        # Whose bound this process saw counted. What is stored from before may leave out what
        # was let in while there was no limit.
        self._known: Final[set[Whose]] = set()

    def write(self, group_id: UUID, members: Mapping[UUID, str], grow: Growth[T]) -> T:
        """Run ``grow``, which makes jobs of these members live, in a transaction. ``members``
        are names by id. Raises OverQuota, and then nothing is stored.
        """
        limits = self._limits(group_id, members)

        def write(conn: Connection) -> tuple[T, set[Whose]]:
            bounds = [quotas.lock(conn, one.whose) for one in limits]
            result, by_user = grow(conn)
            grown = set()
            for limit, bound in zip(limits, bounds, strict=True):
                if more := limit.more(by_user):
                    self._let_in(conn, limit, bound, more)
                    grown.add(limit.whose)
            return result, grown

        result, grown = self._db.write(write)
        self._known.update(grown)
        return result

    def foresee(self, group_id: UUID, coming: Mapping[UUID, tuple[str, int]]) -> None:
        """Raises OverQuota when so many more jobs (names and numbers by user id) are too many.

        For what grows in several steps: nothing is promised for the steps.
        """
        by_user = {user: count for user, (_, count) in coming.items()}
        names = {user: name for user, (name, _) in coming.items()}
        for limit in self._limits(group_id, names):
            more = limit.more(by_user)
            count = partial(quotas.count, whose=limit.whose, at_most=limit.most + 1)
            limit.check(self._db.read(count), more)

    def _limits(self, group_id: UUID, members: Mapping[UUID, str]) -> list[_Limit]:
        """The group's first, then users by id: everybody locks in this order."""
        found = []
        if self._quota.per_group:
            found.append(_Limit(Whose(group_id), "the group", self._quota.per_group))
        if self._quota.per_user:
            found += (
                _Limit(Whose(group_id, user), members[user], self._quota.per_user)
                for user in sorted(members)
            )
        return found

    def _let_in(self, conn: Connection, limit: _Limit, bound: int | None, more: int) -> None:
        known = bound is not None and limit.whose in self._known
        live = (bound or 0) + more
        if not known or live > limit.most:
            live = quotas.count(conn, limit.whose, limit.most + 1 + more)
            limit.check(live - more, more)
        quotas.store(conn, limit.whose, live)
