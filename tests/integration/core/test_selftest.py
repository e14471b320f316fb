"""The self-test of a node: a job of its own, which nobody sees and nobody pays for."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from bridge.core.jobs import Jobs
from bridge.core.outlook import Outlook
from bridge.core.quota import Quota
from bridge.core.usage import Usage
from bridge.db import jobs as jobs_db
from bridge.db import selftests
from bridge.db.engine import Database
from bridge.errors import Conflict, InvalidRequest, NotFound
from bridge.models.attempt import Cause, Observed
from bridge.models.job import Job, JobState, NewJob
from bridge.models.node import SelftestFinding
from tests.integration.core.machines import Hall


@pytest.fixture
def house(db: Database) -> Iterator[Hall]:
    built = Hall(db)
    built.join()
    yield built
    built.feeder.close()


def start(house: Hall, bucket: UUID | None = None) -> Job:
    return house.selftests.start(*house.door, "n1", bucket or uuid4())


def look(house: Hall, job: Job) -> Job:
    return house.selftests.look(*house.door, "n1", job.id)


def test_it_runs_on_the_node_that_asked(house: Hall) -> None:
    job = start(house)
    house.step()
    spec = house.machines.specs[house.machines.submits[-1]]
    assert (spec.native_node, spec.image) == ("id-n1", "bridge-selftest:1")
    assert spec.generations == (house.group.generation,)
    assert not spec.requires_limits
    house.machines.show(Observed.ENDED, exit_code=0, node="n1", started_at=house.clock())
    house.reconciler.step()
    assert look(house, job).state is JobState.COMPLETED


def test_it_is_in_no_list_and_nobodys_job(house: Hall) -> None:
    job = start(house)
    own = house.submit()
    assert [one.id for one in house.jobs.find(house.root)] == [own.id]
    assert [one.id for one in house.jobs.activity(house.root, limit=1)] == [own.id]
    assert house.sets.find(house.root) == []
    assert [user.name for user in house.groups.list_users(house.root)] == ["ada", "root"]
    for act in (house.jobs.get, house.jobs.cancel, house.jobs.attempts, house.jobs.prune):
        with pytest.raises(NotFound):
            act(house.root, job.id)


def test_lists_are_full_pages_whatever_is_left_out(house: Hall) -> None:
    jobs = []
    for _ in range(4):
        start(house)
        jobs.append(house.submit().id)
    start(house)
    first = house.jobs.find(house.root, limit=3)
    assert [one.id for one in first] == jobs[:0:-1]
    rest = house.jobs.find(house.root, limit=3, before=first[-1].id)
    assert [one.id for one in rest] == jobs[:1]


def test_it_is_charged_to_nobody_and_counts_against_no_quota(house: Hall) -> None:
    job = start(house)
    outlook = Outlook(house.db, {"local": house.machines}, clock=house.clock)
    jobs = Jobs(house.db, outlook=outlook, quota=Quota(per_group=1), clock=house.clock)
    jobs.submit(house.ada, NewJob(bucket_id=uuid4(), image="a:1"))
    house.step()
    house.pass_time(100)
    house.machines.show(
        Observed.ENDED, cause=Cause.STORAGE, node="n1", started_at=house.clock() - 50
    )
    house.reconciler.step()
    assert look(house, job).state is JobState.FAILED  # and not tried again
    [month] = Usage(house.db).by_month(house.root)
    assert (month.user, month.attempts) == ("ada", 1)
    assert house.stored().failures == 1  # that of ada's job


def test_asked_for_again_it_is_the_same_and_another_replaces_it(house: Hall) -> None:
    bucket = uuid4()
    first = start(house, bucket)
    assert start(house, bucket).id == first.id
    second = start(house)
    assert look(house, first).state is JobState.CANCELED
    assert look(house, second).state is JobState.RECEIVED


def test_a_members_bucket_is_refused(house: Hall) -> None:
    job = house.submit()
    with pytest.raises(Conflict, match="bucket"):
        start(house, job.bucket_id)
    bucket = uuid4()
    start(house, bucket)
    with pytest.raises(Conflict, match="bucket"):
        house.submit(bucket_id=bucket)


def test_other_jobs_and_other_nodes_are_not_looked_at(house: Hall) -> None:
    job = house.submit()
    mine = start(house)
    house.join("n2")
    for name, job_id in (("n1", job.id), ("n2", mine.id), ("n1", uuid4())):
        with pytest.raises(NotFound):
            house.selftests.look(*house.door, name, job_id)


@pytest.mark.parametrize("what", ["paused", "gone", "old"])
def test_a_node_that_can_take_no_job_is_told_so(house: Hall, what: str) -> None:
    if what == "paused":
        house.machines.change("id-n1", paused=True)
    elif what == "gone":
        house.machines.views.clear()
    else:
        house.machines.change("id-n1", generation="old")
    words = {"paused": "by its owner", "gone": "not registered", "old": "rotated"}
    with pytest.raises(Conflict, match=words[what]):
        start(house)


def test_members_cannot_use_its_image(house: Hall) -> None:
    with pytest.raises(InvalidRequest, match="bridge-selftest:1"):
        house.submit(image="bridge-selftest:1")


def test_one_that_never_starts_is_given_up_and_an_old_one_forgotten(house: Hall) -> None:
    job = start(house)
    house.step()
    house.pass_time(901)
    house.watch.step()
    assert look(house, job).cancel_requested_at == house.clock()
    house.machines.show(Observed.ENDED, cause=Cause.CANCELED)
    house.reconciler.step()
    assert look(house, job).state is JobState.CANCELED
    house.pass_time(86_401)
    house.watch.step()
    assert house.db.read(lambda conn: jobs_db.get(conn, job.id)) is not None  # not forgotten yet
    house.reconciler.forget()
    house.watch.step()
    assert house.db.read(lambda conn: jobs_db.get(conn, job.id)) is None
    assert house.db.read(lambda conn: selftests.count_live(conn, house.group.id)) == 0


def test_what_a_node_finds_is_shown_without_what_does_not_belong_there(house: Hall) -> None:
    found = [
        SelftestFinding(what="clock", ok=True, detail="fine"),
        SelftestFinding(
            what="memory\x1b[31m",
            ok=False,
            detail=f"limit {house.compute_secret}",
            remedy="delegate",
        ),
    ]
    house.selftests.report(*house.door, "n1", False, found)
    node = house.stored()
    assert (node.selftest_at, node.selftest_ok) == (house.clock(), False)
    assert node.selftest_detail == "memory?[31m: limit *** delegate"
    with pytest.raises(NotFound):
        house.selftests.report(*house.door, "n9", True, [])
