"""Who goes next."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from bridge.connectors.base import Room
from bridge.core.queue import Choice, Line, Member, Reserve, Waiting, choose, reserve
from bridge.models.ids import new_id
from bridge.models.usage import Share, decayed

ADA, BOB, EVE = (new_id() for _ in range(3))


def job(user: UUID = ADA, cores: int = 1, memory_mb: int = 100, priority: int = 50) -> Waiting:
    return Waiting(id=new_id(), user_id=user, priority=priority, cores=cores, memory_mb=memory_mb)


def lines(jobs: Iterable[Waiting]) -> list[Line]:
    """As the database gives them: by priority, then one line for each user."""
    found: dict[tuple[int, UUID], list[Waiting]] = {}
    for one in jobs:
        found.setdefault((-one.priority, one.user_id), []).append(one)
    return [Line(-key[0], key[1], iter(found[key])) for key in sorted(found)]


def pick(
    jobs: Iterable[Waiting],
    slots: int = 99,
    room: Room | None = None,
    members: dict[UUID, Member] | None = None,
    per_user: int = 0,
    at_once: int = 99,
) -> Choice:
    return choose(
        lines(jobs),
        members=members or {},
        slots=slots,
        room=room,
        per_user=per_user,
        at_once=at_once,
    )


def room(
    slots: int = 99,
    cores: int = 4,
    memory_mb: int = 1000,
    *,
    ready: bool = True,
    queues: bool = False,
) -> Room:
    return Room(
        ready=ready,
        queues=queues,
        slots=slots,
        cores_free=cores,
        memory_free_mb=memory_mb,
        cores_total=8,
        memory_total_mb=2000,
    )


class TestOrder:
    def test_oldest_first_up_to_the_slots(self) -> None:
        waiting = [job() for _ in range(5)]
        assert pick(waiting, slots=3).now == tuple(waiting[:3])

    def test_priority_first(self) -> None:
        low, high = job(priority=1), job(BOB, priority=99)
        assert pick([low, high]).now == (high, low)

    def test_members_take_turns(self) -> None:
        ada = [job(ADA) for _ in range(4)]
        bob = [job(BOB) for _ in range(2)]
        assert pick(ada + bob, slots=4).now == (ada[0], bob[0], ada[1], bob[1])

    def test_who_used_least_lately_goes_first(self) -> None:
        ada, bob = job(ADA), job(BOB)
        used = {ADA: Member(use=500.0), BOB: Member(use=1.0)}
        assert pick([ada, bob], slots=1, members=used).now == (bob,)

    def test_use_does_not_beat_priority(self) -> None:
        ada, bob = job(ADA, priority=60), job(BOB, priority=50)
        assert pick([ada, bob], slots=1, members={ADA: Member(use=1e9)}).now == (ada,)

    def test_large_jobs_use_up_a_turn_sooner(self) -> None:
        ada = [job(ADA, cores=4), job(ADA, cores=4)]
        bob = [job(BOB) for _ in range(4)]
        assert pick(ada + bob, slots=5).now == (ada[0], *bob)

    def test_lines_are_read_only_as_far_as_needed(self) -> None:
        read = 0

        def endless() -> Iterable[Waiting]:
            nonlocal read
            while True:
                read += 1
                yield job()

        choose([Line(50, ADA, iter(endless()))], members={}, slots=10, room=None, at_once=10)
        assert read <= 12


class TestBounds:
    def test_no_slots_take_nothing(self) -> None:
        assert pick([job()], slots=0).now == ()
        assert pick([job()], slots=-2).now == ()

    def test_cores_and_memory(self) -> None:
        waiting = [job(cores=2), job(cores=2), job(cores=1)]
        assert pick(waiting, room=room(cores=4)).now == tuple(waiting[:2])
        waiting = [job(memory_mb=600), job(memory_mb=500)]
        assert pick(waiting, room=room(memory_mb=1000)).now == tuple(waiting[:1])

    def test_a_large_job_is_not_overtaken(self) -> None:
        assert pick([job(cores=6), job(cores=1)], room=room(cores=4)).now == ()

    def test_what_no_machine_can_hold_is_set_aside(self) -> None:
        huge, small = job(cores=9), job()
        choice = pick([huge, small], room=room())
        assert choice.too_big == (huge,)
        assert choice.now == (small,)

    def test_room_may_have_fewer_slots(self) -> None:
        assert len(pick([job(), job()], room=room(slots=1)).now) == 1

    def test_a_scheduler_that_queues_gets_what_fits_and_a_reserve(self) -> None:
        waiting = [job() for _ in range(9)]
        assert len(pick(waiting, slots=2, room=room(cores=4, queues=True)).now) == 6
        assert len(pick(waiting, slots=-3, room=room(cores=4, queues=True)).now) == 4
        assert len(pick(waiting, slots=2, room=room(cores=4, queues=True), at_once=5).now) == 5

    def test_a_pool_without_a_ready_node_gets_nothing(self) -> None:
        none = Room(
            slots=0,
            cores_free=0,
            memory_free_mb=0,
            cores_total=0,
            memory_total_mb=0,
            ready=False,
            queues=True,
        )
        choice = pick([job()], room=none)
        assert (choice.now, choice.too_big) == ((), ())

    def test_per_user_counts_what_runs(self) -> None:
        ada, bob = [job(ADA) for _ in range(3)], [job(BOB) for _ in range(3)]
        now = pick(ada + bob, members={ADA: Member(running=2)}, per_user=2).now
        assert now == (bob[0], bob[1])

    def test_per_user_holds_across_priorities(self) -> None:
        waiting = [job(priority=60), job(priority=60), job(priority=50)]
        assert pick(waiting, per_user=2).now == tuple(waiting[:2])


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
    assert len(choice.now) <= max(slots, 0)
    assert len({one.id for one in choice.now}) == len(choice.now)
    priorities = [one.priority for one in choice.now]
    assert priorities == sorted(priorities, reverse=True)
    for user in (ADA, BOB, EVE):
        for priority in (1, 2, 3):
            mine = [one.id for one in choice.now if (one.user_id, one.priority) == (user, priority)]
            assert mine == sorted(mine)
    if place:
        assert sum(one.cores for one in choice.now) <= place.cores_free
        assert sum(one.memory_mb for one in choice.now) <= place.memory_free_mb


class TestReserve:
    def test_follows_how_fast_jobs_start_within_bounds(self) -> None:
        bounds = Reserve(least=4, most=64, ahead_s=5)
        assert [reserve(rate, bounds) for rate in (0.0, 2.0, 100.0)] == [4, 10, 64]


class TestDecay:
    def test_half_after_a_half_life(self) -> None:
        assert decayed(100.0, 10.0, 10.0) == 50.0
        assert decayed(100.0, -5.0, 10.0) == 100.0

    @given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4))
    def test_the_order_of_reports_does_not_matter(
        self, first: float, second: float, at: float, later: float
    ) -> None:
        start = Share(0.0, 0.0)
        one = start.plus(first, at, 1e4).plus(second, later, 1e4)
        other = start.plus(second, later, 1e4).plus(first, at, 1e4)
        assert abs(one.core_seconds - other.core_seconds) <= 1e-6 * (1 + one.core_seconds)
        assert one.at == other.at
