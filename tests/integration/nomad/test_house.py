"""The queue over a real cluster in trouble: no job is lost, none runs twice unseen."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.connectors.nomad import faults
from bridge.models.attempt import Cause
from bridge.models.job import FINAL, JobState, NewJob, Phase
from tests.integration.nomad.conftest import MakeHouse
from tests.integration.nomad.house import Given, House, RealStage
from tests.support import nomad_proxy
from tests.support.fake_events import Refuse
from tests.support.nomad_cluster import NODE, POOL, NomadCluster
from tests.support.poll import eventually

pytestmark = pytest.mark.needs("nomad", "docker")

# How long Nomad does not answer once the job has ended; minutes if you want them.
OUTAGE_S = float(os.environ.get("BRIDGE_TEST_OUTAGE_S", "1"))
UNTIL_STOP = "echo ran >>ran.txt; while [ ! -e stop ]; do sleep 0.05; done"


def allocs(nomad: NomadCluster, native_id: str) -> list[dict[str, Any]]:
    found = nomad.call("GET", f"job/{native_id}/allocations", namespace=POOL)
    return sorted(found, key=lambda alloc: alloc["CreateIndex"])


def rundir(nomad: NomadCluster, native_id: str, node: str = NODE, index: int = -1) -> Path:
    alloc = allocs(nomad, native_id)[index]
    return nomad.home / node / "alloc" / str(alloc["ID"]) / "alloc" / "data" / "rundir"


def contents(bucket: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(bucket)): path.read_bytes()
        for path in sorted(bucket.rglob("*"))
        if path.is_file()
    }


def began(nomad: NomadCluster, native_id: str, task: str) -> bool:
    """Whether the newest allocation's client has said that a task runs."""
    states = [alloc["TaskStates"] or {} for alloc in allocs(nomad, native_id)]
    return bool(states) and states[-1].get(task, {}).get("State") == "running"


def exits(alloc: dict[str, Any], task: str) -> list[str]:
    events = alloc["TaskStates"][task]["Events"] or []
    return [one["Details"]["exit_code"] for one in events if one["Type"] == "Terminated"]


def over(nomad: NomadCluster, native_id: str, index: int = 0) -> dict[str, Any]:
    """The allocation, once all of its tasks are dead."""

    def there() -> dict[str, Any] | None:
        alloc = allocs(nomad, native_id)[index]
        states = (alloc["TaskStates"] or {"": {"State": "pending"}}).values()
        return alloc if all(task["State"] == "dead" for task in states) else None

    found = eventually(there, timeout=90, every=0.1)
    assert found is not None
    return found


def test_a_node_away_for_a_short_while_goes_on(open_house: MakeHouse, nomad: NomadCluster) -> None:
    house = open_house()
    given = house.submit(UNTIL_STOP)
    house.running(given)
    nomad.kill_client()
    try:
        eventually(lambda: "out of touch" in (house.look(given).reason or ""), timeout=30)
        assert house.look(given).state is JobState.RUNNING
        (rundir(nomad, house.native_id(given)) / "stop").touch()
    finally:
        nomad.start_client()
    seen = house.end(given)
    assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1)
    assert (given.results / "ran.txt").read_text() == "ran\n"


@pytest.mark.parametrize("script", ["echo half >half.txt; exit 3", UNTIL_STOP])
def test_a_node_that_dies_while_it_uploads_for_an_ended_run_is_lost(
    open_house: MakeHouse, nomad: NomadCluster, script: str
) -> None:
    """Nomad leaves what it calls failed or stopped as it was, also when the node is down."""
    house = open_house(queue__node_lost_after_s=1.0, queue__retries=0)
    given = house.submit(script, "out")
    if script is UNTIL_STOP:
        house.running(given)
        house.bridge.jobs.cancel(house.ada, given.job.id)
    house.until(given, JobState.RUNNING, phase=Phase.UPLOADING)
    nomad.kill_client()
    try:
        seen = house.end(given)
    finally:
        nomad.start_client()
    if script is UNTIL_STOP:
        assert (seen.state, seen.node) == (JobState.CANCELED, NODE), seen
    else:
        assert (seen.state, seen.cause, seen.node) == (JobState.FAILED, Cause.NODE_LOST, NODE), seen


def test_the_ghost_of_a_lost_node_uploads_nothing(
    real_house: MakeHouse, real_stage: RealStage, nomad: NomadCluster
) -> None:
    house = real_house(queue__node_lost_after_s=1.0)
    given = house.submit("echo $(hostname) >who.txt; " + UNTIL_STOP)
    lost = house.running(given)
    with nomad.another_client("n2"):
        nomad.kill_client()
        try:
            house.running(given, attempt=2)
            (rundir(nomad, house.native_id(given, 2), "n2") / "stop").touch()
            seen = house.end(given)
            assert (seen.state, seen.attempt) == (JobState.COMPLETED, 2), seen
            assert (lost.node, seen.node) == (NODE, "n2")
            stand = contents(given.bucket)
            assert "who.txt" in stand
        finally:
            nomad.start_client()
        ghost = over(nomad, house.native_id(given, 1))
        assert exits(ghost, "stage-out") == ["10"]  # superseded
        assert contents(given.bucket) == stand
    assert house.look(given).state is JobState.COMPLETED


def test_the_ghost_of_a_replaced_allocation_does_not_start(
    real_house: MakeHouse, real_stage: RealStage, nomad: NomadCluster
) -> None:
    """Nomad itself places an allocation anew whose node goes away before it runs."""
    house = real_house()
    with frozen_before_it_runs(house, real_stage, nomad) as given:
        native_id = house.native_id(given)
        with nomad.another_client("n3"):
            seen = house.end(given)
            assert (seen.state, seen.attempt, seen.node) == (JobState.COMPLETED, 1, "n3"), seen
            stand = contents(given.bucket)
            real_stage.go_on(given.bucket, "in")
            state = rundir(nomad, native_id, index=0).parents[2] / "stage-in" / "local"
            eventually((state / "in.result").exists)
            assert (state / "in.result").read_text().startswith("10\n")  # superseded
    ghost = over(nomad, native_id)
    assert exits(ghost, "main") == []
    assert contents(given.bucket) == stand


@contextlib.contextmanager
def frozen_before_it_runs(
    house: House, real_stage: RealStage, nomad: NomadCluster
) -> Iterator[Given]:
    """A job in stage-in on a node that went out of touch before Nomad heard that it runs. The
    node says so now and then, and may do it before we can hinder it.
    """
    for _ in range(20):
        given = house.submit(
            "echo ran >>ran.txt", before=lambda bucket: real_stage.hold_first(bucket, "in")
        )
        taken = real_stage.holds / f"{given.bucket.name}.in.taken"
        eventually(taken.exists, timeout=60, every=0.001)
        with nomad.frozen():
            if allocs(nomad, house.native_id(given))[0]["ClientStatus"] == "pending":
                yield given
                return
        real_stage.go_on(given.bucket, "in")
        house.end(given)
    pytest.fail("Nomad always heard of it before")


def test_a_drained_job_is_queued_again(open_house: MakeHouse, nomad: NomadCluster) -> None:
    house = open_house(queue__retries=0)
    given = house.submit(f"echo half >half.txt; {UNTIL_STOP}; echo all >all.txt")
    house.running(given)
    path = f"node/{nomad.node()['ID']}/drain"
    nomad.call("POST", path, {"DrainSpec": {"Deadline": 1}, "MarkEligible": False})
    try:
        again = house.until(given, JobState.RECEIVED, JobState.SUBMITTED, attempt=None)
        eventually(lambda: house.look(given).attempt == 2 or house.look(given).reason, timeout=60)
    finally:
        nomad.call("POST", path, {"DrainSpec": None, "MarkEligible": True})
    assert again.exit_code is None
    house.running(given, attempt=2)
    (rundir(nomad, house.native_id(given, 2)) / "stop").touch()
    seen = house.end(given)
    assert (seen.state, seen.attempt, seen.retries) == (JobState.COMPLETED, 2, 0)
    (used,) = house.bridge.usage.by_month(house.ada)
    assert used.attempts == 1  # the one that ended by itself


def test_a_machine_that_a_large_job_waits_for_is_left_to_it(
    open_house: MakeHouse, nomad: NomadCluster
) -> None:
    """Nomad packs machines tightly: it would go on filling the one that is in use."""
    house = open_house()
    node = nomad.call("GET", f"node/{nomad.node()['ID']}")
    cores = node["NodeResources"]["Cpu"]["CpuShares"] // 1000
    door = f"node/{node['ID']}/eligibility"
    with nomad.another_client("large", {"cpu_total_compute": 8000 * cores}):
        nomad.call("POST", door, {"Eligibility": "ineligible"})
        try:
            first = house.submit(UNTIL_STOP, cores=6 * cores)
            assert house.running(first).node == "large"
        finally:
            nomad.call("POST", door, {"Eligibility": "eligible"})
        wide = house.submit("true", cores=8 * cores)
        house.until(wide, JobState.SUBMITTED)
        narrow = house.submit(UNTIL_STOP)
        assert house.running(narrow).node == NODE
        (rundir(nomad, house.native_id(first), "large") / "stop").touch()
        assert house.end(wide).node == "large"
        (rundir(nomad, house.native_id(narrow)) / "stop").touch()
        assert house.end(narrow).state is JobState.COMPLETED


@pytest.mark.parametrize("task", ["stage-in", "main", "stage-out"])
def test_a_client_killed_in_a_task_goes_on(
    open_house: MakeHouse, nomad: NomadCluster, task: str
) -> None:
    house = open_house()
    step = {"stage-in": "in", "stage-out": "out"}.get(task)
    given = house.submit(
        UNTIL_STOP if task == "main" else "echo ran >>ran.txt", *filter(None, [step])
    )
    # A client that dies before it noted down that a task began starts it again: another run.
    eventually(lambda: began(nomad, house.native_id(given), task), timeout=20)
    nomad.kill_client()
    try:
        if step:
            given.go_on(step)
        else:
            (rundir(nomad, house.native_id(given)) / "stop").touch()
    finally:
        nomad.start_client()
    seen = house.end(given)
    assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1), seen
    assert (given.results / "ran.txt").read_text() == "ran\n"


def test_after_a_reboot_the_job_runs_in_a_new_folder(
    real_house: MakeHouse, nomad: NomadCluster
) -> None:
    house = real_house()
    given = house.submit(f"ls >seen.txt; {UNTIL_STOP}")
    house.running(given)
    alloc = allocs(nomad, house.native_id(given))[0]["ID"]
    nomad.kill_client()
    subprocess.run(
        ["docker", "rm", "-f", f"main-{alloc}"], check=True, timeout=60, capture_output=True
    )
    nomad.start_client()
    house.running(given, attempt=2)
    (rundir(nomad, house.native_id(given, 2)) / "stop").touch()
    seen = house.end(given)
    assert (seen.state, seen.attempt) == (JobState.COMPLETED, 2), seen
    assert (given.bucket / "ran.txt").read_text() == "ran\n"
    assert "ran.txt" not in (given.bucket / "seen.txt").read_text()


def test_a_restarted_server_changes_nothing(open_house: MakeHouse, nomad: NomadCluster) -> None:
    house = open_house()
    given = house.submit(UNTIL_STOP)
    house.running(given)
    nomad.kill_server()
    try:
        eventually(lambda: not house.is_ready(), timeout=20)
        waits = house.submit("echo late >ran.txt")
        (rundir_while_away(nomad) / "stop").touch()
        assert house.look(given).state is JobState.RUNNING
        assert house.look(waits).state in (JobState.RECEIVED, JobState.SUBMITTED)
    finally:
        nomad.start_server()
    for one in (given, waits):
        seen = house.end(one)
        assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1), seen
    eventually(house.is_ready, timeout=100)  # a fault that nothing meets again is over then


def rundir_while_away(nomad: NomadCluster) -> Path:
    """The one run directory in use; the server cannot be asked whose it is."""
    found = [one.parent for one in (nomad.home / NODE).glob("alloc/*/alloc/data/rundir/ran.txt")]
    return max(found, key=lambda one: one.stat().st_mtime)


@pytest.mark.parametrize(
    "trouble",
    [
        None,
        Refuse(429, "", {"Retry-After": "1"}),
        Refuse(500, "No cluster leader"),
        Refuse(403, "Permission denied"),
    ],
    ids=["unreachable", "429", "500", "403"],
)
def test_while_nomad_does_not_answer_nothing_changes(
    open_house: MakeHouse, nomad: NomadCluster, trouble: Refuse | None
) -> None:
    with nomad_proxy.before(nomad) as door:
        house = open_house(nomad__address=door.url, nomad__client_cert=None, nomad__client_key=None)
        given = house.submit(UNTIL_STOP)
        before = house.running(given)
        door.refusal, door.away = trouble, trouble is None
        door.cut()
        eventually(lambda: not house.is_ready(), timeout=20)
        late = house.submit("true")
        canceled = house.submit("true")
        house.bridge.jobs.cancel(house.ada, canceled.job.id)
        (rundir(nomad, house.native_id(given)) / "stop").touch()
        over(nomad, house.native_id(given))
        until = time.monotonic() + OUTAGE_S
        while time.monotonic() < until:
            seen = house.look(given)
            assert (seen.state, seen.attempt) == (before.state, before.attempt)
            assert house.look(late).attempt <= 1
            assert not house.is_ready()
            time.sleep(0.2)  # a look now and then, for as long as it is away
        last = house.submit("true")
        assert house.look(last).state in (JobState.RECEIVED, JobState.SUBMITTED)
        door.refusal, door.away = None, False
        hurry(house)
        assert house.end(given).state is JobState.COMPLETED
        assert house.end(late).state is JobState.COMPLETED
        assert house.end(last).state is JobState.COMPLETED
        assert house.end(canceled).state is JobState.CANCELED


def hurry(house: House) -> None:
    """Do not wait for the back-off, which may take half a minute."""
    house.bridge.patience.clear()


def test_a_group_that_nobody_set_up_holds_up_no_other(
    open_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When what is refused is asked for again: whoever waits for that is seen.
    monkeypatch.setattr(faults, "_OPERATOR_S", 300.0)
    house = open_house()
    _, secret = house.bridge.groups.add_group(
        "den", "bob", connector="nomad", namespace="elsewhere", node_pool=POOL
    )
    bob = house.bridge.access.by_secret(secret)
    house.bridge.groups.rotate_compute_secret(bob)
    bob = house.bridge.access.by_secret(secret)
    new = NewJob(bucket_id=uuid.uuid4(), image=house.image, memory_mb=64)
    theirs = house.bridge.jobs.submit(bob, new)
    eventually(lambda: not house.is_ready(), timeout=20)
    began = time.monotonic()
    for _ in range(2):
        assert house.end(house.submit("true")).state is JobState.COMPLETED
    assert time.monotonic() - began < 90
    assert house.bridge.jobs.get(bob, theirs.id).state is JobState.RECEIVED
    told = [one for one in house.bridge.ready() if not one.ok]
    assert {one.detail.partition(":")[0] for one in told} <= {"in den", "in elsewhere"}
    assert all("lacks" in one.remedy for one in told), told


def test_a_cut_stream_is_followed_again(open_house: MakeHouse, nomad: NomadCluster) -> None:
    with nomad_proxy.before(nomad) as door:
        house = open_house(nomad__address=door.url, nomad__client_cert=None, nomad__client_key=None)
        told: list[str | None] = []
        stopped = threading.Event()
        watch = house.bridge.connectors["nomad"].watch  # type: ignore[attr-defined]
        thread = threading.Thread(target=watch, args=(lambda: [POOL], told.append, stopped))
        thread.start()
        try:
            eventually(lambda: None in told, timeout=10)
            first = house.submit("true")
            house.end(first)
            eventually(lambda: house.native_id(first) in told, timeout=10)
            told.clear()
            door.cut()
            eventually(lambda: None in told, timeout=10)
            second = house.submit("true")
            house.end(second)
            eventually(lambda: house.native_id(second) in told, timeout=10)
        finally:
            stopped.set()
            thread.join(timeout=10)


def test_results_that_nomad_dropped_do_not_leave_a_job_behind(
    open_house: MakeHouse, nomad: NomadCluster
) -> None:
    with nomad_proxy.before(nomad) as door:
        house = open_house(
            nomad__address=door.url,
            nomad__client_cert=None,
            nomad__client_key=None,
            queue__retries=0,
        )
        given = house.submit(UNTIL_STOP)
        house.running(given)
        door.away = True
        eventually(lambda: not house.is_ready(), timeout=20)
        (rundir(nomad, house.native_id(given)) / "stop").touch()
        native_id = house.native_id(given)
        over(nomad, native_id)
        nomad.call("DELETE", f"job/{native_id}", namespace=POOL, purge="true")
        nomad.call("PUT", "system/gc")
        eventually(lambda: not allocs(nomad, native_id), timeout=20)
        door.away = False
        hurry(house)
        seen = house.end(given)
        assert (seen.state, seen.cause) == (JobState.FAILED, Cause.INTERNAL)
        assert seen.reason is not None and "no longer knows" in seen.reason


def test_an_end_is_seen_by_events_long_before_the_next_look(
    open_house: MakeHouse, nomad: NomadCluster
) -> None:
    house = open_house(queue__reconcile_interval_s=600.0)
    given = house.submit(UNTIL_STOP)
    house.running(given)
    (rundir(nomad, house.native_id(given)) / "stop").touch()
    house.end(given)


def test_large_results_fit_the_memory_of_the_stage_tasks(real_house: MakeHouse) -> None:
    """A root client enforces it, and rclone keeps parts of what it uploads in memory."""
    house = real_house()
    names = ("whole", "a", "b", "c", "d")
    sizes = {name: 100 if name == "whole" else 30 for name in names}
    script = "".join(
        f"dd if=/dev/zero of={name} bs=1M count={size}\n" for name, size in sizes.items()
    )
    given = house.submit(script)
    seen = house.until(given, *FINAL, timeout=180)
    assert (seen.state, seen.attempt) == (JobState.COMPLETED, 1), seen
    for name, size in sizes.items():
        assert (given.bucket / name).stat().st_size == size * 2**20
