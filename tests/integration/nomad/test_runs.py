"""Attempts on a real agent, through the connector, to each kind of end."""

from __future__ import annotations

import json
import subprocess
import time
from functools import partial

import pytest

from bridge.connectors.nomad.connector import NomadConnector
from bridge.models.attempt import Cause, Observation, Observed
from bridge.models.job import Phase
from tests.integration.nomad.conftest import PREFIX, MakeTrial, Trial
from tests.support.nomad_cluster import NODE, POOL, NomadCluster
from tests.support.poll import eventually
from tests.unit.connectors.nomad import recorded

pytestmark = pytest.mark.needs("nomad", "docker")


def run(trial: MakeTrial, script: str, **changes: object) -> tuple[Trial, Observation]:
    one = trial(script, **changes)
    one.connector.submit(one.spec)
    return one, one.end()


def docker(*arguments: str) -> str:
    answer = subprocess.run(
        ["docker", *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return answer.stdout


def test_success_uploads_what_the_program_wrote(trial: MakeTrial) -> None:
    one, seen = run(trial, "echo hello; echo trouble >&2; echo 42 >answer.txt")
    assert (seen.state, seen.cause, seen.exit_code) == (Observed.ENDED, None, 0)
    assert one.file("answer.txt") == "42\n"
    assert (one.file("joblog.txt"), one.file("joberr.txt")) == ("hello\n", "trouble\n")
    assert seen.node == "node-1"
    assert seen.started_at is not None and seen.ended_at is not None
    assert seen.started_at < seen.ended_at < time.time() + 1


def test_exit_code_and_partial_results_of_a_failed_program(trial: MakeTrial) -> None:
    one, seen = run(trial, "echo half >half.txt; exit 3")
    assert (seen.cause, seen.exit_code, seen.reason) == (Cause.EXIT, 3, "Exit code 3")
    assert one.file("half.txt") == "half\n"


def test_out_of_memory(trial: MakeTrial) -> None:
    # The engine tells of it by an event, which is to come before the program's end.
    script = "dd if=/dev/zero of=/dev/null bs=200M count=1; code=$?; sleep 1; exit $code"
    one, seen = run(trial, script, memory_mb=32)
    assert (seen.cause, seen.exit_code) == (Cause.OOM, 137)
    assert (one.results / "joblog.txt").exists()


def test_the_container_is_confined(trial: MakeTrial) -> None:
    script = """
    pwd; ls -d /sys/class/net/*; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status
    echo threads=$OMP_NUM_THREADS,$MKL_NUM_THREADS home=$HOME
    echo bridge=$(env | grep -c BRIDGE_)
    """
    one, seen = run(trial, script)
    assert seen.cause is None
    log = one.file("joblog.txt").splitlines()
    assert log[0] == "/rundir"
    assert "/sys/class/net/lo" in log and not any("eth" in line for line in log)
    assert "CapEff:\t0000000000000000" in log and "NoNewPrivs:\t1" in log
    assert "threads=1,1 home=/tmp" in log
    assert "bridge=0" in log  # the program is not told its bucket


def test_the_container_gets_no_more_than_it_asked_for(trial: MakeTrial) -> None:
    one = trial("while [ ! -e stop ]; do sleep 0.05; done", memory_mb=64)
    one.connector.submit(one.spec)
    one.until(Observed.RUNNING, Phase.EXECUTING)
    of_job = f"label=com.hashicorp.nomad.job_name={one.handle.native_id}"
    container = docker("ps", "-q", "--filter", of_job).strip()
    limits = json.loads(docker("inspect", container))[0]["HostConfig"]
    assert limits["Memory"] == limits["MemorySwap"] == 64 * 2**20
    assert limits["PidsLimit"] == 4096
    assert limits["CpuQuota"] / limits["CpuPeriod"] == pytest.approx(1, rel=0.01)


def test_stage_is_told_everything_by_environment(trial: MakeTrial, nomad: NomadCluster) -> None:
    one, _ = run(trial, "true", input_sha256="ab" * 32, number=1)
    for step in ("in", "out"):
        told = dict(
            line.partition("=")[::2]
            for line in (one.bucket / f"{step}.env").read_text().splitlines()
        )
        assert told["BRIDGE_HOME"] == str(nomad.node_home)
        assert told["BRIDGE_BUCKET"] == str(one.spec.bucket_id)
        assert told["BRIDGE_CODE_BUCKET"] == "code-abc"
        assert told["BRIDGE_IMAGE"] == one.spec.image
        assert told["BRIDGE_INPUT_SHA256"] == "ab" * 32
        assert told["BRIDGE_ATTEMPT"] == "1"
        assert told["BRIDGE_RUNTIME"] == "docker"
        assert told["BRIDGE_UPLOAD_PATIENCE"] == told["BRIDGE_STAGE_IN_LIMIT"] == "3600"
        assert told["NOMAD_ALLOC_DIR"].startswith(str(nomad.home))


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (10, Cause.WITHDRAWN),
        (11, Cause.INPUT_MISSING),
        (12, Cause.INPUT_INVALID),
        (13, Cause.STORAGE),
        (14, Cause.IMAGE_MISSING),
        (15, Cause.INTERNAL),
    ],
)
def test_stage_in_says_why_it_failed(trial: MakeTrial, code: int, cause: Cause) -> None:
    one = trial("echo ran >ran.txt")
    (one.bucket / "in.exit").write_text(str(code))
    one.connector.submit(one.spec)
    seen = one.end()
    assert seen.cause is cause
    assert seen.started_at is None
    assert not (one.results / "ran.txt").exists()
    if cause is Cause.INPUT_MISSING:
        assert seen.reason == "Input files missing"


def test_failed_upload_is_no_success(trial: MakeTrial) -> None:
    one = trial("true")
    (one.bucket / "out.exit").write_text("13")
    one.connector.submit(one.spec)
    seen = one.end()
    assert (seen.cause, seen.exit_code) == (Cause.STORAGE, 0)


def test_image_that_is_nowhere(trial: MakeTrial) -> None:
    _, seen = run(trial, "true", image="no-such-image:1")
    assert seen.cause is Cause.IMAGE_MISSING
    assert seen.reason is not None and "no-such-image:1" in seen.reason


def test_phases_are_seen(trial: MakeTrial) -> None:
    one = trial("while [ ! -e stop ]; do sleep 0.05; done")
    one.hold("in")
    one.hold("out")
    one.connector.submit(one.spec)
    assert one.until(Observed.PENDING, Phase.STAGING).node == "node-1"
    one.go_on("in")
    assert one.until(Observed.RUNNING, Phase.EXECUTING).started_at is not None
    one.connector.cancel(one.handle)
    one.until(Observed.RUNNING, Phase.UPLOADING)
    one.go_on("out")
    assert one.end().cause is Cause.CANCELED


def test_cancel_before_the_node_starts_anything(trial: MakeTrial) -> None:
    one = trial("true")
    one.hold("in")
    one.connector.submit(one.spec)
    one.connector.cancel(one.handle)
    seen = one.end()
    assert (seen.cause, seen.started_at) == (Cause.CANCELED, None)


def test_cancel_while_running_uploads_partial_results(trial: MakeTrial) -> None:
    one = trial("trap 'echo tidy >tidy.txt; exit 9' TERM; echo half >half.txt; sleep 60 & wait")
    one.connector.submit(one.spec)
    one.until(Observed.RUNNING, Phase.EXECUTING)
    one.await_output("half.txt")
    one.connector.cancel(one.handle)
    seen = one.end()
    assert seen.cause is Cause.CANCELED
    assert one.file("half.txt") == "half\n"


def test_cancel_while_uploading_changes_nothing(trial: MakeTrial) -> None:
    one = trial("echo all >all.txt")
    one.hold("out")
    one.connector.submit(one.spec)
    one.until(Observed.RUNNING, Phase.UPLOADING)
    one.connector.cancel(one.handle)
    one.go_on("out")
    assert one.end().cause is None
    assert one.file("all.txt") == "all\n"


def test_the_recorded_job_file_is_what_nomad_makes_of_the_shipped_one(
    connector: NomadConnector,
) -> None:
    assert connector._parsed(POOL) == recorded.template()


def test_many_are_polled_together_and_swept(trial: MakeTrial, connector: NomadConnector) -> None:
    waiting = [trial("true") for _ in range(10)]
    for one in waiting:
        one.hold("in")
        connector.submit(one.spec)
    never = trial("true")
    handles = [one.handle for one in (*waiting, never)]
    seen = connector.poll(handles)
    assert set(seen) == set(handles)
    assert {seen[one.handle].state for one in waiting} == {Observed.PENDING}
    assert seen[never.handle].state is Observed.GONE
    swept = connector.sweep([one.handle.namespace for one in waiting])
    assert {one.handle for one in waiting} <= set(swept)
    assert POOL in connector.inhabited()
    assert all(handle.native_id.startswith(PREFIX) for handle in swept)
    for one in waiting:
        connector.cancel(one.handle)
    eventually(
        lambda: (
            {s.state for h, s in connector.poll(handles).items() if h != never.handle}
            == {Observed.ENDED}
        ),
        timeout=60,
    )
    assert not set(handles) & set(connector.sweep([never.handle.namespace]))


def test_too_big_says_what_is_short(trial: MakeTrial) -> None:
    one = trial("true", memory_mb=9_000_000)
    one.connector.submit(one.spec)
    reason = eventually(lambda: one.look().reason, timeout=10)
    assert reason == (
        "Waiting for a machine: not enough memory free on 1 machine (the job needs 9000000 MiB)"
    )
    assert one.look().state is Observed.PENDING
    one.connector.cancel(one.handle)
    assert one.end().cause is Cause.CANCELED


def _reason(one: Trial) -> str | None:
    return one.look().reason


def test_many_that_wait_say_the_same_as_one(
    trial: MakeTrial, connector: NomadConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [trial("true", memory_mb=9_000_000) for _ in range(12)]
    for one in many:
        connector.submit(one.spec)
    for one in many:
        eventually(partial(_reason, one), timeout=10)
    alone = many[0].look()
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(connector._client, "job", lambda *job: asked.append(job))
    seen = connector.poll([one.handle for one in many])
    swept = connector.sweep([POOL])
    assert [seen[one.handle] for one in many] == [alone] * 12
    assert alone.reason is not None and "not enough memory" in alone.reason
    assert not asked
    assert {swept[one.handle].state for one in many} == {Observed.PENDING}


def test_a_node_that_failed_a_job_is_its_last_choice(trial: MakeTrial, nomad: NomadCluster) -> None:
    _, seen = run(trial, "true", avoid=(NODE,))
    assert (seen.cause, seen.node) == (None, NODE)
    with nomad.another_client("n4"):
        for avoid, node in ((NODE, "n4"), ("n4", NODE)):
            for _ in range(2):
                _, seen = run(trial, "true", avoid=(avoid,))
                assert (seen.cause, seen.node) == (None, node)


def test_a_group_without_enrolled_nodes_waits(trial: MakeTrial) -> None:
    one = trial("true", generations=("g1",))
    one.connector.submit(one.spec)
    reason = eventually(lambda: one.look().reason, timeout=10)
    assert reason is not None and "not enrolled" in reason and "g1" not in reason
