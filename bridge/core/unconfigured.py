"""Tells of groups and attempts at connectors that this service is not configured for.

It goes on without them: one group that was forgotten shall not keep the others from being
served. But what nobody looks after shall be known.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bridge import log
from bridge.connectors.base import Finding
from bridge.db import unconfigured
from bridge.db.engine import Transactions
from bridge.db.unconfigured import UnconfiguredConnector
from bridge.models.words import noun

_log = log.get(__name__)


class Unconfigured:
    """Looks anew each time, for groups move and attempts end."""

    def __init__(self, db: Transactions, connectors: Collection[str]) -> None:
        self._db = db
        self._connectors = frozenset(connectors)
        self._told: list[Finding] = []

    def findings(self) -> list[Finding]:
        """One for each such connector. Raises Unavailable."""
        look = partial(unconfigured.connectors, configured=self._connectors)
        return [
            Finding(f"connector {one.name}", False, _detail(one), _remedy(one), degrades=True)
            for one in self._db.read(look)
        ]

    def tell(self) -> None:
        """Log what has changed since it was called last. Raises Unavailable."""
        found = self.findings()
        for one in found:
            if one not in self._told:
                _log.warning(
                    "action=look-for-unconfigured what=%s fault=%s hint=%s",
                    one.what,
                    one.detail,
                    one.remedy,
                )
        self._told = found


def _detail(one: UnconfiguredConnector) -> str:
    parts = [
        f"{count:,} {noun(count, word)} {rest}"
        for count, word, rest in (
            (one.groups, "group", "to be served by it"),
            (one.live, "attempt", "that nobody follows or can stop"),
            (one.ended, "ended attempt", "that it was not told to forget"),
        )
        if count
    ]
    return f"it is not configured, and there {_is(one)} {_list(parts)}"


def _is(one: UnconfiguredConnector) -> str:
    first = one.groups or one.live or one.ended
    return "is" if first == 1 else "are"


def _list(parts: list[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _remedy(one: UnconfiguredConnector) -> str:
    until = " until they have ended and are forgotten" if one.live or one.ended else ""
    back = f"Name {one.name} in `connectors` of the configuration again{until}."
    if not one.groups:
        return back
    return f"{back} `nomad-bridge groups move` lets another connector serve a group."
