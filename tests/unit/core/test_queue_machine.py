"""Anything in any order: who goes next, beside a model of a scheduler.

Whatever members and machines do, no more is handed over than has a place or the reserve
allows, nobody has more than allowed, nobody is overtaken unduly, and nobody starves.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bridge.connectors.base import Machine, Room
from bridge.core.queue import Chosen, Member, Reserve, Waiting, choose, reserve
from tests.unit.core.model_scheduler import Run, Scheduler, could_hold, has_free
from tests.unit.core.test_queue import levels

USERS: Final = [UUID(int=number) for number in (1, 2, 3)]
MOST: Final = 40  # jobs that wait
MACHINES: Final = 4
NOMINAL_S: Final = 60  # what a job under way counts for, for each core

# How many, of whom, cores, MiB, priority, held.
jobs = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 4]),
        st.sampled_from([USERS[0], *USERS]),
        st.sampled_from([1, 1, 2, 4, 8, 10]),
        st.sampled_from([100, 100, 1000, 4000, 9000]),
        st.sampled_from([1, 1, 2]),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=6,
)
sizes = st.tuples(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1000, 4000]))


class Pass(msgspec.Struct, frozen=True):
    """One look at the queue: what there was, and what was chosen of it. Methods say what
    must hold.
    """

    scheduler: Scheduler
    room: Room | None
    able: Sequence[Waiting]  # what waits and is not held, oldest first
    use: Mapping[UUID, int]
    has: Counter[UUID]  # by user, what is under way
    slots: int  # left of the reserve
    at_once: int
    per_user: int
    jobs: Sequence[Waiting] = ()  # the chosen ones, in order

    def check(self) -> None:
        self.bounds_are_kept()
        self.all_have_a_place()
        self.nobody_is_overtaken()
        self.members_take_turns()
        self.who_is_next_goes_first()
        self.what_waits_at_the_scheduler_can_start()
        self.no_machine_idles()

    def bounds_are_kept(self) -> None:
        assert len(self.jobs) <= max(self.at_once, 0)
        assert len({job.id for job in self.jobs}) == len(self.jobs)
        assert all(job in self.able for job in self.jobs)
        for user, count in Counter(job.user_id for job in self.jobs).items():
            assert not self.per_user or self.has[user] + count <= self.per_user

    def all_have_a_place(self) -> None:
        """What cannot start, however it is packed, is no more than the reserve allows."""
        wait = 0 if self.scheduler.alone else max(self.slots, 0)
        if self.room is None:
            assert len(self.jobs) <= wait
            return
        jobs = [job for job in self.jobs if self.scheduler.holds(job)]
        assert len(jobs) == len(self.jobs) or self.scheduler.alone
        for asked, free in (
            ([job.cores for job in jobs], [one.cores_free for one in self.room.machines]),
            ([job.memory_mb for job in jobs], [one.memory_free_mb for one in self.room.machines]),
        ):
            assert sum(sorted(asked)[: max(len(jobs) - wait, 0)]) <= sum(free)
            for least in set(asked):
                large = sum(size >= least for size in asked)
                assert large - wait <= sum(here // least for here in free)

    def nobody_is_overtaken(self) -> None:
        """One that stays could not have started where what was behind it does."""
        priorities = [job.priority for job in self.jobs]
        assert priorities == sorted(priorities, reverse=True)
        assert not any(itertools.starmap(is_behind, itertools.combinations(self.jobs, 2)))
        for first in self.stay():
            behind = [one for one in self.jobs if is_behind(one, first)]
            assert all(self._goes_elsewhere(one, first) for one in behind)

    def _goes_elsewhere(self, one: Waiting, first: Waiting) -> bool:
        if self.room is None:
            return False
        if not self.scheduler.holds(first) or not self.scheduler.holds(one):
            return True
        return any(has_free(at, one) and not could_hold(at, first) for at in self.room.machines)

    def members_take_turns(self) -> None:
        """Of two who go, the one goes first who used less until then."""
        use = Counter(self.use)
        for at, job in enumerate(self.jobs):
            later = [one.user_id for one in self.jobs[at:] if one.priority == job.priority]
            assert use[job.user_id] == min(use[user] for user in later)
            use[job.user_id] += job.cores * NOMINAL_S

    def who_is_next_goes_first(self) -> None:
        """Who used least, with the oldest job that could run here, or is to be refused."""
        able = [
            job
            for job in self.able
            if (self.scheduler.alone or self.scheduler.holds(job)) and self._may_have_more(job)
        ]
        if not able or self.at_once <= 0 or self.room is None or self.room.slots <= 0:
            return
        top = max(job.priority for job in able)
        heads = {job.user_id: job for job in reversed(able) if job.priority == top}
        _, _, head = min((self.use[user], job.id, job) for user, job in heads.items())
        starts = any(has_free(machine, head) for machine in self.room.machines)
        waits = not self.scheduler.alone and self.slots > 0 and not self.scheduler.pending
        if starts or waits or not self.scheduler.holds(head):
            assert self.jobs[:1] == [head]

    def what_waits_at_the_scheduler_can_start(self) -> None:
        """None waits there for less than one before it, or starts on the only machine that
        another waits for: schedulers place whatever fits.
        """
        if self.room is None or self.scheduler.alone:
            return
        free = self.scheduler.free()
        before = [
            one.job
            for one in self.scheduler.pending
            if self.scheduler.holds(one.job) and not any(has_free(at, one.job) for at in free)
        ]
        for job in self.jobs:
            if any(has_free(one, job) for one in self.room.machines):
                taken = [one.name for one in map(self._only_machine, before) if one]
                assert any(has_free(one, job) and one.name not in taken for one in free)
            else:
                assert all(job.cores >= one.cores for one in before)
                assert all(job.memory_mb >= one.memory_mb for one in before)
                before.append(job)

    def _only_machine(self, job: Waiting) -> Machine | None:
        found = [one for one in self.scheduler.free() if one.ready and could_hold(one, job)]
        return found[0] if len(found) == 1 else None

    def no_machine_idles(self) -> None:
        """None stays empty on which something could run and for which nothing else waits."""
        if self.room is None or len(self.jobs) >= min(self.at_once, self.room.slots):
            return
        ahead = [one.job for one in self.scheduler.pending] + list(self.jobs)
        for one in self.room.machines:
            if one.ready and one.cores_free == one.cores and one.memory_free_mb == one.memory_mb:
                used = any(could_hold(one, job) for job in ahead)
                assert used or not any(could_hold(one, job) for job in self.stay())

    def stay(self) -> Iterator[Waiting]:
        """What could have gone as well, for all that its member is allowed."""
        going = self.has + Counter(job.user_id for job in self.jobs)
        for job in self.able:
            if job not in self.jobs and not 0 < self.per_user <= going[job.user_id]:
                yield job

    def _may_have_more(self, job: Waiting) -> bool:
        return not 0 < self.per_user <= self.has[job.user_id]


class Queue(RuleBasedStateMachine):
    """What members, machines and limits may do, and passes of the queue between."""

    kind = "many machines"

    @initialize(
        machines=st.lists(sizes, min_size=1, max_size=3),
        at_once=st.integers(1, 12),
        least=st.sampled_from([1, 2, 6]),
    )
    def build(self, machines: list[tuple[int, int]], at_once: int, least: int) -> None:
        self.scheduler = Scheduler(self.kind)
        self.at_once = at_once
        self.reserve = reserve(0.0, Reserve(least=least))
        self.per_user = self.per_group = 0  # 0: no limit
        self.elsewhere = 0  # so many of the reserve are others'
        self.waiting: list[Waiting] = []  # oldest first
        self.held: set[UUID] = set()
        self.use: Counter[UUID] = Counter()
        self.made = 0
        for size in machines[:1] if self.scheduler.alone else machines:
            self.join(size)

    def teardown(self) -> None:
        self._nobody_starves()
        self._all_have_their_turn()

    # Members

    @rule(jobs=jobs, seen=st.booleans())
    def submit(self, jobs: list[tuple[int, UUID, int, int, int, bool]], seen: bool) -> None:
        for count, user, cores, memory_mb, priority, hold in jobs:
            for _ in range(min(count, MOST - len(self.waiting))):
                self.made += 1
                job = Waiting(UUID(int=100 + self.made), user, priority, cores, memory_mb)
                self.waiting.append(job)
                if hold:
                    self.held.add(job.id)
        if seen:
            self.feed()

    @rule(data=st.data(), verb=st.sampled_from(["hold", "release", "cancel"]))
    @precondition(lambda self: self.waiting)
    def steer(self, data: st.DataObject, verb: str) -> None:
        job = data.draw(st.sampled_from(self.waiting))
        self.held.discard(job.id)
        if verb == "hold":
            self.held.add(job.id)
        if verb == "cancel":
            self.waiting.remove(job)

    @rule(
        user=st.sampled_from(USERS),
        use=st.sampled_from([0, 100, 600]),
        of_user=st.sampled_from([0, 0, 1, 3]),
        of_group=st.sampled_from([0, 0, 1, 8]),
        others=st.sampled_from([0, 0, 2, 9]),
    )
    def limits(self, user: UUID, use: int, of_user: int, of_group: int, others: int) -> None:
        self.per_user, self.per_group, self.elsewhere = of_user, of_group, others
        self.use[user] = use

    # Machines

    @rule(size=sizes)
    @precondition(lambda self: not self.scheduler.alone and len(self.scheduler.machines) < MACHINES)
    def join(self, size: tuple[int, int]) -> None:
        name, (cores, memory_mb) = f"m{len(self.scheduler.machines)}", size
        self.scheduler.machines[name] = Machine(
            name=name, cores=cores, memory_mb=memory_mb, cores_free=0, memory_free_mb=0
        )

    @rule(data=st.data(), lost=st.booleans())
    @precondition(lambda self: not self.scheduler.alone)
    def comes_or_goes(self, data: st.DataObject, lost: bool) -> None:
        """It may be drained, or lost with what runs there: that waits again."""
        name = data.draw(st.sampled_from(sorted(self.scheduler.machines)))
        one = self.scheduler.machines[name]
        self.scheduler.machines[name] = msgspec.structs.replace(one, ready=not one.ready)
        here = [run for run in self.scheduler.running if run.where == name]
        if lost and len(self.waiting) + len(here) <= MOST:
            jobs = [*self.waiting, *(run.job for run in here)]
            self.waiting = sorted(jobs, key=lambda job: job.id)
            self._end(here)

    def _end(self, runs: Sequence[Run]) -> None:
        self.scheduler.running = [one for one in self.scheduler.running if one not in runs]

    # The queue

    @rule()
    def feed(self) -> None:
        """One pass, as the feeder makes it."""
        has, at_once = self.scheduler.under_way(), self.at_once
        if self.per_group:
            at_once = min(at_once, self.per_group - has.total())
        look = Pass(
            scheduler=self.scheduler,
            room=self.scheduler.room(),
            able=self._able(),
            use=self.use,
            has=has,
            slots=self.reserve - len(self.scheduler.pending) - self.elsewhere,
            at_once=at_once,
            per_user=self.per_user,
        )
        chosen = choose(
            levels(look.able),
            members={user: Member(has[user], self.use[user]) for user in USERS},
            slots=look.slots,
            room=look.room,
            per_user=look.per_user,
            at_once=look.at_once,
        )
        msgspec.structs.replace(look, jobs=[one.job for one in chosen]).check()
        self._hand_over(chosen)

    @rule(newest_first=st.booleans(), one_ends=st.booleans(), data=st.data())
    def go_on(self, newest_first: bool, one_ends: bool, data: st.DataObject) -> None:
        self.scheduler.place(newest_first=newest_first)
        if self.scheduler.running and one_ends:
            self._end([data.draw(st.sampled_from(self.scheduler.running))])
        self.feed()

    def _hand_over(self, chosen: Sequence[Chosen]) -> None:
        for one in chosen:
            self.waiting.remove(one.job)
            if self.scheduler.holds(one.job):  # else it is refused
                self.scheduler.pending.append(one)
                self.use[one.job.user_id] += one.job.cores * NOMINAL_S
        if self.scheduler.alone:
            self.scheduler.place()
            assert not self.scheduler.pending, "handed over without a place"

    def _able(self) -> list[Waiting]:
        return [job for job in self.waiting if job.id not in self.held]

    # The end

    def _nobody_starves(self) -> None:
        """Though others go on to hand in small jobs of no higher priority."""
        self._settle()
        able = [job for job in self._able() if self.scheduler.holds(job)]
        if not able:
            return
        patient = max(able, key=lambda job: (job.cores, job.memory_mb))
        for user in itertools.islice(itertools.cycle(USERS), 1000):
            if patient not in self.waiting:
                return
            self.submit([(1, user, 1, 100, patient.priority, False)], seen=False)
            self._pass(lasts=2)
        raise AssertionError(f"starved: {patient}")

    def _all_have_their_turn(self) -> None:
        self._settle()
        for _ in range(3 * len(self.waiting) + 1):
            if not any(self.scheduler.holds(job) for job in self._able()):
                return
            self._pass(lasts=1)
        raise AssertionError(f"left over: {self._able()}")

    def _settle(self) -> None:
        """Nothing has a place in the reserve, or within a limit, for ever."""
        self.elsewhere = 0
        pending = self.scheduler.pending
        self.scheduler.pending = [one for one in pending if self.scheduler.holds(one.job)]

    def _pass(self, lasts: int) -> None:
        """What has run for so many passes ends; then others go."""
        self._end([run for run in self.scheduler.running if run.passes >= lasts])
        for run in self.scheduler.running:
            run.passes += 1
        self.scheduler.place()
        self.feed()


def is_behind(one: Waiting, other: Waiting) -> bool:
    if one.priority != other.priority:
        return one.priority < other.priority
    return one.user_id == other.user_id and one.id > other.id


class QueueOfOneMachine(Queue):
    kind = "one machine"


class QueueOfUnknownRoom(Queue):
    kind = "blind"


@pytest.mark.parametrize(
    ("machine", "examples"), [(Queue, 400), (QueueOfOneMachine, 100), (QueueOfUnknownRoom, 50)]
)
def test_who_goes_next(
    machine: type[Queue], examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Few jobs without a place are many: what fits nothing is not to count among them.
    monkeypatch.setattr("bridge.core.queue._OF_A_LINE", 3)
    monkeypatch.setattr("bridge.core.queue._OF_A_PASS", 6)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
