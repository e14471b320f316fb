from __future__ import annotations

import pytest

from bridge.api import limits
from bridge.api.limits import RateLimit
from bridge.errors import TooMany


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowed(rate: RateLimit, key: str) -> bool:
    try:
        rate.take(key)
    except TooMany:
        return False
    return True


def test_a_minutes_worth_at_once_and_then_evenly() -> None:
    clock = Clock()
    rate = RateLimit(60, clock)
    assert [allowed(rate, "a") for _ in range(61)] == [True] * 60 + [False]
    clock.now += 1.0
    assert [allowed(rate, "a") for _ in range(2)] == [True, False]
    clock.now += 3600.0
    assert [allowed(rate, "a") for _ in range(61)] == [True] * 60 + [False]


def test_a_refusal_says_when_to_come_back_and_keeps_its_word() -> None:
    clock = Clock()
    rate = RateLimit(1, clock)
    rate.take("a")
    clock.now += 20.5
    with pytest.raises(TooMany) as refused:
        rate.take("a")
    assert refused.value.retry_after == 40
    clock.now += refused.value.retry_after
    rate.take("a")


def test_refused_requests_do_not_count() -> None:
    clock = Clock()
    rate = RateLimit(60, clock)
    assert sum(allowed(rate, "a") for _ in range(500)) == 60
    clock.now += 1.0
    assert allowed(rate, "a")


def test_keys_do_not_share() -> None:
    rate = RateLimit(1, Clock())
    assert allowed(rate, "a") and allowed(rate, "b") and not allowed(rate, "a")


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_KEYS", 10)
    rate = RateLimit(1, Clock())
    for key in range(100):
        rate.take(str(key))
    assert len(rate._buckets) == 10
    assert not allowed(rate, "99")
