"""Use of machines: what counts for fair share, and the books."""

from __future__ import annotations

import calendar
import math
import time

import msgspec


def decayed(core_seconds: float, age_s: float, half_life_s: float) -> float:
    """What is left of a use that is ``age_s`` seconds old."""
    return core_seconds * math.exp2(-max(age_s, 0.0) / half_life_s)


def left_of_run(seconds: float, half_life_s: float) -> float:
    """What is left, when a run ends that took ``seconds``, of one core that it used: each
    moment of it has lost weight since.
    """
    constant = half_life_s / math.log(2)
    return -constant * math.expm1(-max(seconds, 0.0) / constant)


def months_of(seconds: float, at: float) -> list[tuple[str, float]]:
    """The seconds in each month (UTC, YYYY-MM) of a run that ended at the Unix time ``at``,
    that of the end first. Together they are ``seconds``.
    """
    year, month = time.gmtime(at)[:2]
    parts, left, end = [], max(seconds, 0.0), at
    while True:
        begin = calendar.timegm((year, month, 1, 0, 0, 0))
        here = min(left, end - begin)
        parts.append((f"{year:04}-{month:02}", here))
        left, end = left - here, begin
        if left <= 0:
            return parts
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)


class Share(msgspec.Struct, frozen=True):
    """A decaying use: it counted ``core_seconds`` at the Unix time ``at``."""

    core_seconds: float
    at: float

    def now(self, now: float, half_life_s: float) -> float:
        """What it counts at a later time."""
        return decayed(self.core_seconds, now - self.at, half_life_s)

    def plus(self, cores: int, seconds: float, at: float, half_life_s: float) -> Share:
        """With a run that ended at ``at``, which may be before what is counted already."""
        later = max(self.at, at)
        new = decayed(cores * left_of_run(seconds, half_life_s), later - at, half_life_s)
        return Share(self.now(later, half_life_s) + new, later)


class GroupMonth(msgspec.Struct, frozen=True):
    """What a group used in a month (UTC, YYYY-MM): core-seconds of that month, attempts that
    ended in it. Withdrawn attempts do not count.
    """

    month: str
    attempts: int
    core_seconds: float
    gpu_seconds: float


class Month(msgspec.Struct, frozen=True):
    """What a user used in a month, as ``GroupMonth``."""

    user: str
    month: str
    attempts: int
    core_seconds: float
    gpu_seconds: float
