"""Who goes next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.base import Machine, Room
from bridge.core.queue import (
    Chosen,
    Level,
    Levels,
    Line,
    Member,
    Reserve,
    Waiting,
    ahead,
    choose,
    members_of,
    reserve,
)
from bridge.db.queue import UnderWay
from bridge.models.ids import new_id
from bridge.models.sizes import Sizes
from bridge.models.usage import Share, decayed

ADA, BOB, EVE = (new_id() for _ in range(3))


def job(user: UUID = ADA, cores: int = 1, memory_mb: int = 100, priority: int = 50) -> Waiting:
    return Waiting(id=new_id(), user_id=user, priority=priority, cores=cores, memory_mb=memory_mb)


def levels(jobs: Iterable[Waiting]) -> Levels:
    """As the database gives them: by priority, in it one line for each user."""
    return lambda sizes: _levels(jobs, sizes)


def within(jobs: Iterable[Waiting], sizes: Callable[[], Sizes]) -> Iterator[Waiting]:
    """Those that fit one of the sizes when they are read."""
    for one in jobs:
        if sizes().hold(one.cores, one.memory_mb):
            yield one


def _levels(jobs: Iterable[Waiting], sizes: Callable[[], Sizes]) -> list[Level]:
    found: dict[int, dict[UUID, list[Waiting]]] = {}
    for one in jobs:
        found.setdefault(one.priority, {}).setdefault(one.user_id, []).append(one)
    return [
        Level(
            priority,
            [Line(user, within(found[priority][user], sizes)) for user in sorted(found[priority])],
        )
        for priority in sorted(found, reverse=True)
    ]


def pick(jobs: Iterable[Waiting], **where: Any) -> tuple[Waiting, ...]:
    return tuple(one.job for one in pick_all(jobs, **where))


def pick_all(
    jobs: Iterable[Waiting],
    slots: int = 99,
    room: Room | None = None,
    members: dict[UUID, Member] | None = None,
    per_user: int = 0,
    at_once: int = 99,
) -> tuple[Chosen, ...]:
    return choose(
        levels(jobs),
        members=members or {},
        slots=slots,
        room=room,
        per_user=per_user,
        at_once=at_once,
    )


def machine(name: str = "m1", cores: int = 8, memory_mb: int = 2000, **changes: Any) -> Machine:
    """One that is empty, where nothing else is said."""
    free = {"cores_free": cores, "memory_free_mb": memory_mb}
    return Machine(name=name, cores=cores, memory_mb=memory_mb, **free | changes)


def room(
    slots: int = 99, cores: int = 4, memory_mb: int = 1000, *, queues: bool = False, **changes: Any
) -> Room:
    """One machine of 8 cores and 2000 MiB, with so much of it free."""
    one = machine(cores_free=cores, memory_free_mb=memory_mb)
    return Room(slots=slots, machines=(one,), queues=queues, **changes)


class TestOrder:
    def test_oldest_first_up_to_the_slots(self) -> None:
        waiting = [job() for _ in range(5)]
        assert pick(waiting, slots=3) == tuple(waiting[:3])

    def test_priority_first(self) -> None:
        low, high = job(priority=1), job(BOB, priority=99)
        assert pick([low, high]) == (high, low)

    def test_members_take_turns(self) -> None:
        ada = [job(ADA) for _ in range(4)]
        bob = [job(BOB) for _ in range(2)]
        assert pick(ada + bob, slots=4) == (ada[0], bob[0], ada[1], bob[1])

    def test_who_used_least_lately_goes_first(self) -> None:
        ada, bob = job(ADA), job(BOB)
        used = {ADA: Member(use=500.0), BOB: Member(use=1.0)}
        assert pick([ada, bob], slots=1, members=used) == (bob,)

    def test_use_does_not_beat_priority(self) -> None:
        ada, bob = job(ADA, priority=60), job(BOB, priority=50)
        assert pick([ada, bob], slots=1, members={ADA: Member(use=1e9)}) == (ada,)

    def test_large_jobs_use_up_a_turn_sooner(self) -> None:
        ada = [job(ADA, cores=4), job(ADA, cores=4)]
        bob = [job(BOB) for _ in range(4)]
        assert pick(ada + bob, slots=5) == (ada[0], *bob)

    def test_lines_are_read_only_as_far_as_needed(self) -> None:
        read = 0

        def endless() -> Iterable[Waiting]:
            nonlocal read
            while True:
                read += 1
                yield job()

        choose(
            lambda _: [Level(50, [Line(ADA, iter(endless()))])],
            members={},
            slots=10,
            room=None,
            at_once=10,
        )
        assert read <= 12


class TestBounds:
    def test_no_slots_take_nothing(self) -> None:
        assert pick([job()], slots=0) == ()
        assert pick([job()], slots=-2) == ()

    def test_cores_and_memory(self) -> None:
        waiting = [job(cores=2), job(cores=2), job(cores=1)]
        assert pick(waiting, room=room(cores=4)) == tuple(waiting[:2])
        waiting = [job(memory_mb=600), job(memory_mb=500)]
        assert pick(waiting, room=room(memory_mb=1000)) == tuple(waiting[:1])

    def test_a_large_job_is_not_overtaken(self) -> None:
        assert pick([job(cores=6), job(cores=1)], room=room(cores=4)) == ()

    def test_what_no_machine_can_hold_is_passed_over(self) -> None:
        huge, small = job(cores=9), job()
        assert pick([huge, small], room=room()) == (small,)
        assert pick([huge, small], room=room(queues=True)) == (small,)

    def test_where_no_other_machine_joins_the_scheduler_refuses_it(self) -> None:
        huge, small = job(cores=9), job()
        assert pick([huge, small], room=room(complete=True)) == (huge, small)

    def test_what_no_machine_can_hold_delays_nobody_else(self) -> None:
        huge = [job(cores=9) for _ in range(300)]
        others = [job(BOB) for _ in range(3)]
        for busy in (0.0, 20_000.0):
            members = {BOB: Member(use=busy)}
            choice = pick([*huge, *others], room=room(queues=True), members=members)
            assert choice == tuple(others)
        higher = [job(cores=9, priority=60) for _ in range(300)]
        assert pick([*higher, *others], room=room(queues=True)) == tuple(others)

    def test_what_waits_for_a_busy_machine_delays_nothing_that_runs_elsewhere(self) -> None:
        large = machine("large", 64, cores_free=0)
        place = Room(slots=99, machines=(large, machine("small")), queues=True)
        waiting = [*(job(cores=32) for _ in range(5000)), *(job() for _ in range(3))]
        assert pick(waiting, slots=8, room=place) == (*waiting[:8], *waiting[-3:])

    def test_a_pass_looks_only_so_far(self) -> None:
        read = 0

        def endless(user: UUID) -> Iterator[Waiting]:
            nonlocal read
            while True:
                read += 1
                yield job(user, cores=9)

        lines = [Line(user, endless(user)) for user in (new_id() for _ in range(100))]
        where: dict[str, Any] = {
            "members": {},
            "slots": 8,
            "room": room(queues=True),
            "at_once": 64,
        }
        assert choose(lambda _: [Level(50, lines[:1])], **where) == ()
        assert read <= 52
        assert choose(lambda _: [Level(50, lines)], **where) == ()
        assert read <= 1200

    def test_the_largest_of_each_kind_together_are_no_machine(self) -> None:
        wide, deep = machine("wide", 16, 1000), machine("deep", 2, 9000)
        both = job(cores=16, memory_mb=9000)
        after = job(cores=16)
        choice = pick([both, after], room=Room(slots=9, machines=(wide, deep), queues=True))
        assert choice == (after,)

    def test_what_fits_only_a_machine_that_is_away_waits_for_it(self) -> None:
        small = machine("small", 4)
        large = machine("large", 64, cores_free=0, memory_free_mb=0, ready=False)
        place = Room(slots=99, machines=(small, large), queues=True)
        waiting = [*(job(cores=32) for _ in range(9)), *(job(BOB) for _ in range(3))]
        assert pick(waiting, slots=8, room=place) == tuple(waiting[9:])

    def test_free_cores_of_several_machines_do_not_add_up(self) -> None:
        two = tuple(machine(name, cores_free=2) for name in ("a", "b"))
        waiting = [job(cores=2), job(cores=4)]
        assert pick(waiting, room=Room(slots=9, machines=two)) == (waiting[0],)

    def test_small_jobs_leave_the_emptiest_machine_to_large_ones(self) -> None:
        two = (machine("empty"), machine("nearly-full", cores_free=1))
        waiting = [job(cores=1), job(cores=8)]
        assert pick(waiting, room=Room(slots=9, machines=two)) == tuple(waiting)

    def test_room_may_have_fewer_slots(self) -> None:
        assert len(pick([job(), job()], room=room(slots=1))) == 1

    def test_a_scheduler_that_queues_gets_what_fits_and_a_reserve(self) -> None:
        waiting = [job() for _ in range(9)]
        assert len(pick(waiting, slots=2, room=room(cores=4, queues=True))) == 6
        assert len(pick(waiting, slots=-3, room=room(cores=4, queues=True))) == 4
        assert len(pick(waiting, slots=2, room=room(cores=4, queues=True), at_once=5)) == 5

    def test_none_in_the_reserve_overtakes_a_larger_one_there(self) -> None:
        large, small, equal = job(cores=6), job(cores=1), job(cores=6)
        full = room(cores=0, memory_mb=0, queues=True)
        assert pick([large, small], slots=8, room=full) == (large,)
        assert pick([small, large, equal], slots=8, room=full) == (small, large, equal)
        known = room(cores=0, memory_mb=0, queues=True, waiting_cores=6, waiting_memory_mb=100)
        assert pick([small], slots=8, room=known) == ()

    def test_a_machine_is_kept_for_what_waits_there(self) -> None:
        two = (machine("kept", cores_free=4), machine("other", cores=2, cores_free=1))
        place = Room(slots=99, machines=two, queues=True)
        large, small = job(cores=8), [job() for _ in range(4)]
        assert pick([large, *small], slots=8, room=place) == (large, small[0])

    def test_a_busy_large_machine_idles_no_others(self) -> None:
        large = machine("large", 64, 64_000, cores_free=0, memory_free_mb=0)
        small = [machine(f"s{number}", 8, 8000) for number in range(2)]
        place = Room(slots=99, machines=(large, *small), queues=True)
        wide = [job(ADA, cores=64) for _ in range(20)]
        narrow = [job(user) for user in (ADA, BOB) for _ in range(8)]
        for used, priority in ((0.0, 50), (1e6, 50), (0.0, 40)):
            low = [msgspec.structs.replace(one, priority=priority) for one in narrow]
            members = {BOB: Member(use=used)}
            choice = pick([*wide, *low], slots=8, room=place, members=members)
            assert set(choice) == {*wide[:8], *low}
        assert set(pick([*wide, *narrow], slots=0, room=place)) == set(narrow)

    def test_what_starts_avoids_a_machine_that_is_kept_for_another(self) -> None:
        two = (machine("large", 64, cores_free=4), machine("small", 8))
        place = Room(slots=99, machines=two, queues=True)
        first, wide, narrow = job(priority=3), job(cores=64, priority=2), job(priority=1)
        chosen = pick_all([first, wide, narrow], slots=1, room=place)
        assert chosen == (Chosen(first), Chosen(wide), Chosen(narrow, ("large",)))
        chosen = pick_all([wide, narrow], slots=0, room=place)
        assert chosen == (Chosen(narrow, ("large",)),)

    def test_a_pool_without_a_ready_node_gets_nothing(self) -> None:
        away = machine(cores_free=0, memory_free_mb=0, ready=False)
        none = Room(slots=0, machines=(away,), queues=True)
        assert pick([job()], room=none) == ()

    def test_per_user_counts_what_runs(self) -> None:
        ada, bob = [job(ADA) for _ in range(3)], [job(BOB) for _ in range(3)]
        now = pick(ada + bob, members={ADA: Member(running=2)}, per_user=2)
        assert now == (bob[0], bob[1])

    @pytest.mark.parametrize("running", [0, 3])
    def test_per_user_does_not_count_what_has_no_place(self, running: int) -> None:
        huge, small = [job(cores=9) for _ in range(5)], [job() for _ in range(5)]
        members = {ADA: Member(running=running)}
        choice = pick([*huge, *small], room=room(queues=True), per_user=4, members=members)
        assert choice == tuple(small[: 4 - running])

    def test_per_user_holds_across_priorities(self) -> None:
        waiting = [job(priority=60), job(priority=60), job(priority=50)]
        assert pick(waiting, per_user=2) == tuple(waiting[:2])


_jobs = st.lists(
    st.builds(
        job,
        st.sampled_from([ADA, BOB, EVE]),
        st.integers(1, 10),
        st.integers(1, 2500),
        st.integers(1, 3),
    ),
    max_size=30,
)


@given(_jobs, st.integers(-1, 10), st.none() | st.builds(room, st.integers(0, 9)))
def test_whatever_waits(jobs: list[Waiting], slots: int, place: Room | None) -> None:
    choice = pick(jobs, slots=slots, room=place)
    if place is None:
        assert len(choice) <= max(slots, 0)
    assert len({one.id for one in choice}) == len(choice)
    priorities = [one.priority for one in choice]
    assert priorities == sorted(priorities, reverse=True)
    for user in (ADA, BOB, EVE):
        for priority in (1, 2, 3):
            mine = [one.id for one in choice if (one.user_id, one.priority) == (user, priority)]
            assert mine == sorted(mine)
    if place:
        [one] = place.machines
        assert sum(job.cores for job in choice) <= one.cores_free
        assert sum(job.memory_mb for job in choice) <= one.memory_free_mb


class TestAhead:
    def before(self, one: Waiting, waiting: list[Waiting], **members: float) -> dict[UUID, int]:
        users = {"ada": ADA, "bob": BOB}
        used = {users[name]: Member(use=use) for name, use in members.items()}
        return ahead(one, levels(waiting), members=used, at_most=100)

    def test_it_is_what_would_be_picked_first(self) -> None:
        waiting = [job(ADA) for _ in range(4)] + [job(BOB) for _ in range(2)] + [job(EVE, 2)]
        order = pick(waiting, slots=99)
        for position, one in enumerate(order):
            assert sum(self.before(one, waiting).values()) == position

    def test_who_used_less_is_ahead_though_later(self) -> None:
        ada, bob = job(ADA), job(BOB)
        assert self.before(ada, [ada, bob], ada=500.0) == {BOB: 1}
        assert self.before(bob, [ada, bob], ada=500.0) == {}

    def test_higher_priorities_are_and_lower_ones_not(self) -> None:
        low, mine, high = job(BOB, priority=1), job(ADA), job(EVE, priority=99)
        assert self.before(mine, [low, mine, high]) == {EVE: 1}

    def test_one_that_is_in_no_line_has_its_place_too(self) -> None:
        first, held, last = job(ADA), job(ADA), job(ADA)
        assert self.before(held, [first, last]) == {ADA: 1}
        assert self.before(held, []) == {}

    def test_who_may_not_start_more_is_not_counted_as_ahead(self) -> None:
        mine, his = job(ADA), [job(BOB, priority=60) for _ in range(9)]
        running = {BOB: Member(running=2)}
        found = ahead(mine, levels([mine, *his]), members=running, per_user=4, at_most=100)
        assert found == {BOB: 2}

    def test_what_no_machine_could_hold_is_not_counted_as_ahead(self) -> None:
        small, large, mine = job(BOB), job(BOB, cores=64), job(ADA)
        waiting, used = [small, large, mine], {ADA: Member(use=1e9)}
        for place, before in ((None, 2), (room(9), 1)):
            found = ahead(mine, levels(waiting), members=used, room=place, at_most=100)
            assert found == {BOB: before}

    def test_it_counts_no_further_than_asked(self) -> None:
        waiting = [job(ADA) for _ in range(9)]
        assert ahead(waiting[-1], levels(waiting), members={}, at_most=5) == {ADA: 5}
        above = [job(BOB, priority=60) for _ in range(9)]
        found = ahead(waiting[-1], levels([*above, *waiting]), members={}, at_most=10)
        assert found == {BOB: 9, ADA: 1}


class TestMembers:
    def test_what_runs_counts_before_it_has_ended(self) -> None:
        under_way = {ADA: UnderWay(attempts=2, pending=1, cores=3, use=100.0)}
        shares = {ADA: Share(40.0, 0.0), BOB: Share(8.0, 0.0)}
        found = members_of(under_way, shares, now=10.0, half_life_s=10.0)
        assert found[ADA] == Member(running=2, use=20.0 + 100.0 + 3 * 60.0)
        assert found[BOB] == Member(running=0, use=4.0)


class TestReserve:
    def test_follows_how_fast_jobs_start_within_bounds(self) -> None:
        bounds = Reserve(least=4, most=64, ahead_s=5)
        assert [reserve(rate, bounds) for rate in (0.0, 2.0, 100.0)] == [4, 10, 64]


class TestDecay:
    def test_half_after_a_half_life(self) -> None:
        assert decayed(100.0, 10.0, 10.0) == 50.0
        assert decayed(100.0, -5.0, 10.0) == 100.0

    @pytest.mark.parametrize("seconds", [0.0, 1e-3, 10.0, 400.0])
    def test_a_run_counts_as_its_parts_would(self, seconds: float) -> None:
        parts = 1000
        whole = Share(0.0, 0.0).plus(3, seconds, seconds, 10.0)
        split = Share(0.0, 0.0)
        for number in range(parts):
            split = split.plus(3, seconds / parts, seconds * (number + 1) / parts, 10.0)
        assert whole.now(seconds + 10, 10.0) == pytest.approx(split.now(seconds + 10, 10.0))
        assert whole.core_seconds <= 3 * seconds

    @given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4))
    def test_the_order_of_reports_does_not_matter(
        self, first: float, second: float, at: float, later: float
    ) -> None:
        start = Share(0.0, 0.0)
        one = start.plus(1, first, at, 1e4).plus(2, second, later, 1e4)
        other = start.plus(2, second, later, 1e4).plus(1, first, at, 1e4)
        assert abs(one.core_seconds - other.core_seconds) <= 1e-6 * (1 + one.core_seconds)
        assert one.at == other.at
