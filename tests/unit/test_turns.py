"""One thread computes at a time, in order; nobody can keep the others from going on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from bridge import turns
from bridge.turns import Turns, long_work
from tests.support.poll import eventually

USUAL_S = 0.003


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def one() -> Turns:
    return Turns(longest_s=0.05)


@pytest.fixture
def usual() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(USUAL_S)
    yield
    sys.setswitchinterval(before)


def queue(one: Turns, pool: ThreadPoolExecutor, names: str) -> tuple[list[str], list[Future[None]]]:
    """Threads that want a turn, in this order, and the names of those that had one."""
    had: list[str] = []

    def work(name: str) -> None:
        with one.taken():
            had.append(name)

    waiting = []
    for number, name in enumerate(names, start=1):
        waiting.append(pool.submit(work, name))
        eventually(lambda number=number: len(one._waiting) == number)  # type: ignore[misc]
    return had, waiting


def test_in_the_order_in_which_they_asked(one: Turns, pool: ThreadPoolExecutor) -> None:
    with one.taken():
        assert not one.wanted()
        had, waiting = queue(one, pool, "abc")
        assert one.wanted()
        assert had == []
    for thread in waiting:
        thread.result(10)
    assert had == ["a", "b", "c"]
    assert not one.wanted()


def test_who_waits_lets_the_others_go_on_and_queues_again(
    one: Turns, pool: ThreadPoolExecutor
) -> None:
    with one.taken():
        had, waiting = queue(one, pool, "ab")
        with one.given():
            assert not one.has()
            for thread in waiting:
                thread.result(10)
        assert one.has()
        assert had == ["a", "b"]


def test_without_a_turn_there_is_nothing_to_give(one: Turns, pool: ThreadPoolExecutor) -> None:
    def other() -> None:
        with one.given():
            one.give()
        assert not one.has()

    with one.taken():
        pool.submit(other).result(10)
        assert one.has()
    with one.given():
        assert not one.has()
    assert not one.has()


def test_a_turn_that_lasts_too_long_is_lost_to_who_watches(pool: ThreadPoolExecutor) -> None:
    one, go_on = Turns(longest_s=1.0), threading.Event()

    def forgets() -> bool:
        with one.taken():
            go_on.wait(10)
            return one.has()

    slow = pool.submit(forgets)
    eventually(lambda: one._whose is not None)
    had, waiting = queue(one, pool, "a")
    with one.taken(watch=True):
        assert had == ["a"]
        go_on.set()
        assert slow.result(10) is False
        assert one.has()  # the late one has not given ours away
    waiting[0].result(10)


def test_a_pause_ends_with_a_turn_for_who_had_one(one: Turns, pool: ThreadPoolExecutor) -> None:
    made: list[turns.Pause] = []

    def work() -> bool:
        with one.taken():
            made.append(turns.Pause(one))
            assert made[0].wait(10)
            return one.has()

    paused = pool.submit(work)
    eventually(lambda: made and one._whose is None)
    with one.taken():
        made[0].end()
        eventually(one.wanted)
        assert not paused.done()
    assert paused.result(10) is True


def test_a_pause_of_who_has_no_turn_ends_at_once(one: Turns, pool: ThreadPoolExecutor) -> None:
    made: list[turns.Pause] = []

    def work() -> bool:
        mine = turns.Pause(one)
        assert not mine.wait(0.01)
        made.append(mine)
        assert mine.wait(10)
        return one.has()

    paused = pool.submit(work)
    eventually(lambda: made)
    with one.taken():
        made[0].end()
        assert paused.result(10) is False


def turn_s() -> float:
    return round(sys.getswitchinterval(), 5)  # Python keeps whole microseconds, cut off


@pytest.mark.usefixtures("usual")
def test_short_turns_until_the_last_long_work_is_done() -> None:
    first, second = long_work(), long_work()
    with first:
        assert turn_s() < USUAL_S
        second.__enter__()
    assert turn_s() < USUAL_S
    second.__exit__(None, None, None)
    assert turn_s() == USUAL_S


@pytest.mark.usefixtures("usual")
def test_also_when_it_fails() -> None:
    with pytest.raises(KeyError), long_work():
        raise KeyError
    assert turn_s() == USUAL_S


@pytest.mark.usefixtures("usual")
def test_never_longer_than_usual() -> None:
    sys.setswitchinterval(0.0001)
    with long_work():
        assert turn_s() == 0.0001
    assert turn_s() == 0.0001


@pytest.mark.usefixtures("usual")
def test_of_a_function() -> None:
    @long_work()
    def work() -> float:
        return turn_s()

    assert work() < USUAL_S
    assert turn_s() == USUAL_S


def test_long_work_is_out_of_turn() -> None:
    with turns.taken():
        assert turns._turns.has()
        with long_work():
            assert not turns._turns.has()
        assert turns._turns.has()


class TestStepAside:
    def test_nobody_there(self, one: Turns) -> None:
        one.step_aside()
        with one.taken():
            one.step_aside()
            assert one.has()

    def test_all_who_queue_go_first(self, one: Turns, pool: ThreadPoolExecutor) -> None:
        one.take()
        had, waiting = queue(one, pool, "ab")
        aside = pool.submit(one.step_aside)
        eventually(lambda: len(one._waiting) == 3)
        assert not aside.done()
        one.give()
        aside.result(10)
        for thread in waiting:
            thread.result(10)
        assert had == ["a", "b"]
        assert one._whose is None

    def test_long_work_does_so_at_every_few_items(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stepped: list[None] = []
        monkeypatch.setattr(turns, "step_aside", lambda: stepped.append(None))
        seen = [(item, len(stepped)) for item in turns.in_steps(range(70))]
        assert seen == [(item, 1 + item // 32) for item in range(70)]


class TestRest:
    """Who computes for long gives the processor away now and then while others are served."""

    @pytest.fixture
    def slept(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        made: list[float] = []
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=made.append)
        monkeypatch.setattr(turns, "time", clock)
        monkeypatch.setattr(turns, "_WORK_S", 0.0)
        monkeypatch.setattr(turns, "_LATELY_S", 60.0)
        return made

    def meet(self, one: Turns, pool: ThreadPoolExecutor) -> None:
        """Step aside for somebody who has a turn."""
        one.take()
        aside = pool.submit(one.step_aside)
        eventually(one.wanted)
        one.give()
        aside.result(10)

    def test_not_when_nobody_is_served(self, one: Turns, slept: list[float]) -> None:
        for _ in range(3):
            one.step_aside()
        assert slept == []

    def test_while_somebody_was_served_lately(
        self,
        one: Turns,
        pool: ThreadPoolExecutor,
        slept: list[float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.meet(one, pool)
        assert len(slept) == 1
        one.step_aside()
        assert len(slept) == 2
        monkeypatch.setattr(turns, "_LATELY_S", 0.0)
        one.step_aside()
        assert len(slept) == 2

    def test_not_at_every_step(
        self,
        one: Turns,
        pool: ThreadPoolExecutor,
        slept: list[float],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.meet(one, pool)
        one.step_aside()
        monkeypatch.setattr(turns, "_WORK_S", 60.0)
        before = len(slept)
        one.step_aside()
        assert len(slept) == before

    def test_not_in_turn(self, one: Turns, pool: ThreadPoolExecutor, slept: list[float]) -> None:
        self.meet(one, pool)
        before = len(slept)
        with one.taken():
            one.step_aside()
        assert len(slept) == before
