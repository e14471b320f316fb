"""Jobs: stored as given, found again, changed only from the right state."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from bridge.db import jobs, queue
from bridge.db.intake import Clash
from bridge.db.jobs import JobFilter
from bridge.db.queue import UnderWay, Waiting
from bridge.models.job import MOVES, Job, JobState, NewJob, Phase
from bridge.models.usage import left_of_run
from tests.integration.db.conftest import NOW, Lab, new_job, waiting


def get(lab: Lab, job_id: UUID | Clash) -> Job:
    assert isinstance(job_id, UUID)
    job = lab.db.read(lambda conn: jobs.get(conn, job_id))
    assert job is not None
    return job


class TestInsertMany:
    def test_stores_every_field(self, lab: Lab) -> None:
        new = NewJob(
            bucket_id=uuid4(),
            image="registry.example/a/b:2",
            name="Benzène 試験",
            set="first set",
            cores=3,
            memory_mb=5,
            time_limit_s=7,
            priority=11,
            hold=True,
            input_sha256="ab" * 32,
            labels={"kind": "dft", "ü": '"\\'},
        )
        [job_id] = lab.insert(new)
        job = get(lab, job_id)
        for field in NewJob.__struct_fields__:
            assert getattr(job, field) == getattr(new, field), field
        assert (job.group_id, job.user_id, job.user) == (lab.group.id, lab.ada.id, "ada")
        assert (job.state, job.attempt, job.created_at) == (JobState.RECEIVED, 0, NOW)
        for field in Job.__struct_fields__[Job.__struct_fields__.index("started_at") :]:
            assert getattr(job, field) is None, field

    def test_keeps_the_order(self, lab: Lab) -> None:
        new = [new_job() for _ in range(1000)]
        ids = lab.insert(*new)
        assert [get(lab, job_id).bucket_id for job_id in ids[::97]] == [
            job.bucket_id for job in new[::97]
        ]
        assert ids == sorted(ids, key=lambda one: one.bytes if isinstance(one, UUID) else b"")

    def test_nothing_is_fine(self, lab: Lab) -> None:
        assert lab.insert() == []

    def test_same_bucket_of_same_user_is_the_same_job(self, lab: Lab) -> None:
        new = [new_job() for _ in range(3)]
        first = lab.insert(*new)
        fresh = new_job()
        again = lab.insert(new[2], fresh, new[0])
        assert [again[0], again[2]] == [first[2], first[0]]
        assert get(lab, again[1]).bucket_id == fresh.bucket_id

    def test_same_bucket_twice_in_one_array(self, lab: Lab) -> None:
        new = new_job()
        ids = lab.insert(new, new_job(), new)
        assert ids[0] == ids[2] != ids[1]

    def test_more_than_one_statement_holds(self, lab: Lab) -> None:
        new = [new_job() for _ in range(250)]
        [first] = lab.insert(new[120])
        ids = lab.insert(*new, new[0])
        assert ids[120] == first
        assert ids[250] == ids[0]
        assert [get(lab, one).bucket_id for one in ids[:250]] == [job.bucket_id for job in new]

    def test_bucket_of_another_member_clashes(self, lab: Lab) -> None:
        taken = new_job()
        lab.insert(taken, user=lab.root)
        mine = new_job()
        answers = lab.insert(mine, taken)
        assert get(lab, answers[0]).user == "ada"
        assert answers[1] == Clash(taken.bucket_id)

    def test_groups_do_not_share_buckets(self, lab: Lab) -> None:
        other = lab.add_user("eve", group=lab.add_group("other"))
        new = new_job()
        assert isinstance(lab.insert(new, user=other)[0], UUID)
        assert isinstance(lab.insert(new)[0], UUID)

    def test_racing_calls_give_one_job_for_a_bucket(self, lab: Lab) -> None:
        new = [new_job() for _ in range(50)]
        gate = threading.Barrier(4)

        def insert(number: int) -> list[UUID | Clash]:
            gate.wait(10)
            # In different orders, so that PostgreSQL has deadlocks to undo.
            return sorted(lab.insert(*(new if number % 2 else reversed(new))), key=str)

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(insert, range(4)))
        assert all(result == results[0] for result in results)
        assert len(set(results[0])) == 50


class TestGet:
    def test_of_the_group_only(self, lab: Lab) -> None:
        job_id = lab.add_job()
        other = lab.add_group("other")
        assert lab.db.read(lambda conn: jobs.get(conn, job_id, lab.group.id)) is not None
        assert lab.db.read(lambda conn: jobs.get(conn, job_id, other.id)) is None

    def test_unknown(self, lab: Lab) -> None:
        assert lab.db.read(lambda conn: jobs.get(conn, uuid4())) is None
        known = lab.add_job()
        found = lab.db.read(lambda conn: jobs.get_many(conn, [uuid4(), known]))
        assert [job.id for job in found] == [known]


class TestFind:
    def find(
        self, lab: Lab, limit: int = 100, before: UUID | None = None, **wanted: object
    ) -> list[UUID]:
        which = JobFilter(group_id=lab.group.id, **wanted)  # type: ignore[arg-type]
        return [job.id for job in lab.db.read(lambda conn: jobs.find(conn, which, limit, before))]

    def test_newest_first_over_all_states(self, lab: Lab) -> None:
        ids = [lab.add_job() for _ in range(6)]
        lab.db.write(
            lambda conn: [
                jobs.move(conn, ids[1], frm={JobState.RECEIVED}, to=JobState.CANCELED),
                jobs.move(conn, ids[3], frm={JobState.RECEIVED}, to=JobState.SUBMITTED),
            ]
        )
        assert self.find(lab) == ids[::-1]

    def test_pages(self, lab: Lab) -> None:
        ids = [lab.add_job() for _ in range(5)][::-1]
        assert self.find(lab, limit=2) == ids[:2]
        assert self.find(lab, limit=2, before=ids[1]) == ids[2:4]
        assert self.find(lab, limit=2, before=ids[3]) == ids[4:]
        assert self.find(lab, limit=2, before=ids[4]) == []

    def test_filters(self, lab: Lab) -> None:
        hers = lab.add_job(set="s")
        his = lab.add_job(user=lab.root, set="s")
        done = lab.add_job()
        lab.db.write(
            lambda conn: jobs.move(conn, done, frm={JobState.RECEIVED}, to=JobState.FAILED)
        )
        lab.add_job(user=lab.add_user("ada", group=lab.add_group("other")), set="s")
        assert self.find(lab, user="ada") == [done, hers]
        assert self.find(lab, user_id=lab.root.id) == [his]
        assert self.find(lab, user_id=lab.root.id, user="ada") == []
        assert self.find(lab, user="nobody") == []
        assert self.find(lab, state=JobState.FAILED) == [done]
        assert self.find(lab, state=JobState.RECEIVED, user="ada") == [hers]
        assert self.find(lab, set="s") == [his, hers]
        assert self.find(lab, set="s", user="ada", state=JobState.RECEIVED) == [hers]
        assert self.find(lab, set="t") == []


class TestWaiting:
    def test_order_and_what_does_not_wait(self, lab: Lab) -> None:
        low, first, second, high, _held, gone = [
            lab.add_job(priority=priority, hold=hold)
            for priority, hold in [
                (1, False),
                (50, False),
                (50, False),
                (90, False),
                (99, True),
                (99, False),
            ]
        ]
        lab.db.write(
            lambda conn: jobs.move(conn, gone, frm={JobState.RECEIVED}, to=JobState.SUBMITTED)
        )
        found = lab.db.read(lambda conn: waiting(conn, lab.group.id))
        assert [one.id for one in found] == [high, first, second, low]
        assert found[0] == Waiting(high, lab.ada.id, 90, 1, 4000)

    def test_groups(self, lab: Lab) -> None:
        idle, held, busy = (lab.add_group(name) for name in ("idle", "held", "busy"))
        lab.add_user("u", group=idle)
        lab.add_job(user=lab.add_user("u", group=held), hold=True)
        for _ in range(2):
            lab.add_job(user=lab.add_user(str(uuid4()), group=busy))
        assert lab.db.read(queue.groups_waiting) == [busy.id]


class TestTake:
    def test_what_waits_in_the_order_asked_for(self, lab: Lab) -> None:
        first, second, third = (lab.add_job() for _ in range(3))
        held = lab.add_job(hold=True)
        canceled = lab.add_job()
        lab.db.write(
            lambda conn: jobs.touch(
                conn, canceled, state={JobState.RECEIVED}, cancel_requested_at=NOW
            )
        )
        wanted = [third, held, first, uuid4(), canceled, second]
        taken = lab.db.write(lambda conn: jobs.take(conn, wanted))
        assert [job.id for job in taken] == [third, first, second]
        assert taken == [get(lab, job.id) for job in taken]
        assert {(job.state, job.attempt) for job in taken} == {(JobState.SUBMITTED, 1)}
        assert lab.db.write(lambda conn: jobs.take(conn, wanted)) == []

    def test_more_than_one_statement_holds(self, lab: Lab) -> None:
        ids = [one for one in lab.insert(*(new_job() for _ in range(150))) if isinstance(one, UUID)]
        taken = lab.db.write(lambda conn: jobs.take(conn, ids))
        assert [job.id for job in taken] == ids

    def test_nothing(self, lab: Lab) -> None:
        assert lab.db.write(lambda conn: jobs.take(conn, [])) == []

    def test_one_job_goes_to_one_taker(self, lab: Lab) -> None:
        job_id = lab.add_job()
        barrier = threading.Barrier(4)

        def take(_: int) -> int:
            barrier.wait(10)
            return len(lab.db.write(lambda conn: jobs.take(conn, [job_id])))

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(take, range(4))) == [0, 0, 0, 1]


class TestUnderWay:
    def test_counts_what_was_handed_over_by_user(self, lab: Lab) -> None:
        waits, pending, running, other = (lab.add_job() for _ in range(4))
        his = lab.add_job(user=lab.root)
        lab.db.write(lambda conn: jobs.take(conn, [pending, running, his, other]))
        lab.db.write(
            lambda conn: jobs.move(
                conn,
                running,
                frm={JobState.SUBMITTED},
                to=JobState.RUNNING,
                started_at=NOW - 20,
            )
        )
        lab.db.write(
            lambda conn: jobs.move(conn, other, frm={JobState.SUBMITTED}, to=JobState.FAILED)
        )
        assert get(lab, waits).state is JobState.RECEIVED
        cores = lab.db.read(lambda conn: jobs.get(conn, running)).cores  # type: ignore[union-attr]
        found = lab.db.read(lambda conn: queue.under_way(conn, lab.group.id, NOW, 1e9))
        mine = found.pop(lab.ada.id)
        assert (mine.attempts, mine.pending, mine.cores) == (2, 1, 2 * cores)
        assert mine.use == pytest.approx(20.0 * cores)
        assert found == {lab.root.id: UnderWay(1, pending=1, cores=cores, use=0.0)}
        assert lab.db.read(lambda conn: queue.pending(conn, lab.group.connector)) == 2
        assert lab.db.read(lambda conn: queue.pending(conn, "another")) == 0

    @pytest.mark.parametrize("half_life_s", [30.0, 0.001])
    def test_a_long_run_counts_as_it_will_when_it_ends(self, lab: Lab, half_life_s: float) -> None:
        job = lab.add_job()
        lab.db.write(lambda conn: jobs.take(conn, [job]))
        lab.db.write(
            lambda conn: jobs.move(
                conn, job, frm={JobState.SUBMITTED}, to=JobState.RUNNING, started_at=NOW - 60
            )
        )
        found = lab.db.read(lambda conn: queue.under_way(conn, lab.group.id, NOW, half_life_s))
        (one,) = found.values()
        assert one.use == pytest.approx(one.cores * left_of_run(60.0, half_life_s))


class TestMove:
    def test_compares_and_sets(self, lab: Lab) -> None:
        job_id = lab.add_job()

        def submit() -> bool:
            return lab.db.write(
                lambda conn: jobs.move(
                    conn,
                    job_id,
                    frm={JobState.RECEIVED},
                    to=JobState.SUBMITTED,
                    attempt=1,
                    phase=Phase.STAGING,
                )
            )

        assert submit() is True
        job = get(lab, job_id)
        assert (job.state, job.attempt, job.phase) == (JobState.SUBMITTED, 1, Phase.STAGING)
        assert submit() is False

    def test_one_of_many_wins(self, lab: Lab) -> None:
        job_id = lab.add_job()
        gate = threading.Barrier(8)

        def cancel(number: int) -> bool:
            gate.wait(10)
            return lab.db.write(
                lambda conn: jobs.move(
                    conn,
                    job_id,
                    frm={JobState.RECEIVED},
                    to=JobState.CANCELED,
                    reason=str(number),
                )
            )

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(cancel, range(8)))
        assert won.count(True) == 1
        assert get(lab, job_id).reason == str(won.index(True))

    @pytest.mark.parametrize("frm", JobState)
    @pytest.mark.parametrize("to", JobState)
    def test_refuses_what_is_never_legal_before_asking(self, frm: JobState, to: JobState) -> None:
        nowhere = None  # any question to a connection fails: there is none
        error = AttributeError if to in MOVES[frm] else ValueError
        with pytest.raises(error):
            jobs.move(nowhere, uuid4(), frm={frm}, to=to)  # type: ignore[arg-type]

    def test_refuses_when_one_of_the_sources_is_illegal(self, lab: Lab) -> None:
        job_id = lab.add_job()
        with pytest.raises(ValueError, match="completed"):
            lab.db.write(
                lambda conn: jobs.move(
                    conn,
                    job_id,
                    frm={JobState.RECEIVED, JobState.COMPLETED},
                    to=JobState.SUBMITTED,
                )
            )
        assert get(lab, job_id).state is JobState.RECEIVED

    @pytest.mark.parametrize("column", ["bucket_id", "user_id", "image", "nonsense"])
    def test_refuses_columns_that_do_not_change(self, lab: Lab, column: str) -> None:
        job_id = lab.add_job()
        with pytest.raises(ValueError, match=column):
            lab.db.write(
                lambda conn: jobs.touch(conn, job_id, state={JobState.RECEIVED}, **{column: "x"})
            )


class TestTouch:
    def test_only_in_the_given_states(self, lab: Lab) -> None:
        job_id = lab.add_job()
        assert lab.db.write(
            lambda conn: jobs.touch(conn, job_id, state={JobState.RECEIVED}, hold=True)
        )
        assert not lab.db.write(
            lambda conn: jobs.touch(
                conn, job_id, state={JobState.SUBMITTED, JobState.RUNNING}, reason="no"
            )
        )
        job = get(lab, job_id)
        assert (job.hold, job.reason, job.state) == (True, None, JobState.RECEIVED)

    def test_an_unknown_job(self, lab: Lab) -> None:
        assert not lab.db.write(
            lambda conn: jobs.touch(conn, uuid4(), state=set(JobState), hold=True)
        )
