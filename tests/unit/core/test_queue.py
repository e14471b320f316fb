"""Who goes next."""

from __future__ import annotations

from uuid import uuid4

from bridge.connectors.base import Room
from bridge.core.queue import Waiting, choose


def job(cores: int = 1, memory_mb: int = 100) -> Waiting:
    return Waiting(id=uuid4(), user_id=uuid4(), priority=50, cores=cores, memory_mb=memory_mb)


def room(slots: int = 99, cores: int = 4, memory_mb: int = 1000) -> Room:
    return Room(
        slots=slots,
        cores_free=cores,
        memory_free_mb=memory_mb,
        cores_total=8,
        memory_total_mb=2000,
    )


class TestChoose:
    def test_keeps_the_order_up_to_the_window(self) -> None:
        waiting = [job() for _ in range(5)]
        assert choose(waiting, window=3, room=None).now == tuple(waiting[:3])

    def test_a_full_window_takes_nothing(self) -> None:
        assert choose([job()], window=0, room=None).now == ()
        assert choose([job()], window=-2, room=None).now == ()

    def test_cores_and_memory_bound_what_starts(self) -> None:
        waiting = [job(cores=2), job(cores=2), job(cores=1)]
        assert choose(waiting, window=9, room=room(cores=4)).now == tuple(waiting[:2])
        waiting = [job(memory_mb=600), job(memory_mb=500)]
        assert choose(waiting, window=9, room=room(memory_mb=1000)).now == tuple(waiting[:1])

    def test_a_large_job_is_not_overtaken(self) -> None:
        waiting = [job(cores=6), job(cores=1)]
        assert choose(waiting, window=9, room=room(cores=4)).now == ()

    def test_what_no_machine_can_hold_is_set_aside(self) -> None:
        huge, small = job(cores=9), job()
        choice = choose([huge, small], window=9, room=room())
        assert choice.too_big == (huge,)
        assert choice.now == (small,)

    def test_slots_bound_too(self) -> None:
        waiting = [job(), job()]
        assert choose(waiting, window=9, room=room(slots=1)).now == tuple(waiting[:1])
