"""Whoever dies, an attempt has one run and one end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from bridge import process
from bridge.connectors.local import connector, leftovers, steps
from bridge.connectors.local.steps import Mark
from bridge.models.attempt import Cause, Observed
from tests.support.local import LocalNode, alive
from tests.support.poll import eventually

ROOT = Path(__file__).resolve().parents[3]


def test_a_job_goes_on_while_the_bridge_is_down(node: LocalNode, tmp_path: Path) -> None:
    """A bridge process hands a job over and is killed; the next one has its exit code."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from pathlib import Path\n"
        "from tests.support.local import LocalNode\n"
        "import os, signal\n"
        "node = LocalNode(Path(sys.argv[2]))\n"
        "script = 'while [ ! -e go ]; do sleep 0.02; done; exit 7'\n"
        "print(node.submit(script).native_id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = process.run([sys.executable, "-c", code, str(ROOT), str(tmp_path)], timeout=30)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (handle,) = eventually(lambda: list(node.connector.sweep([])))
    assert handle.native_id == done.stdout.strip()
    node.wait(handle, Observed.RUNNING)
    (node.folder(handle).rundir / "go").touch()
    assert node.wait(handle).exit_code == 7


def test_an_attempt_without_a_supervisor_is_started(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash between making the folder and starting the supervisor."""
    spec = node.spec("echo run >>runs.txt")
    with monkeypatch.context() as crash:
        crash.setattr(connector.LocalConnector, "_start", lambda self, home: None)
        node.connector.submit(spec)
    assert not node.folder(spec.handle).steps.exists()
    assert set(node.new_connector().sweep([])) == {spec.handle}
    assert node.wait(spec.handle).cause is None
    assert node.get(spec, "runs.txt") == "run\n"


def test_many_starters_one_run(node: LocalNode) -> None:
    spec = node.spec("echo run >>runs.txt")
    connectors = [node.new_connector() for _ in range(5)]
    for each in connectors:
        each.submit(spec)
    assert node.wait(spec.handle).cause is None
    eventually(lambda: not _supervisors(node))
    assert node.get(spec, "runs.txt") == "run\n"


def test_an_attempt_canceled_before_its_start_never_runs(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = node.spec("echo never >ran")
    with monkeypatch.context() as crash:
        crash.setattr(connector.LocalConnector, "_start", lambda self, home: None)
        node.connector.submit(spec)
    node.connector.cancel(spec.handle)
    assert node.wait(spec.handle).cause is Cause.CANCELED
    assert not (node.bucket(spec) / "ran").exists()


def test_a_killed_supervisor_leaves_nothing_running(node: LocalNode) -> None:
    handle = node.submit(
        "echo $$ >pids; sleep 600 & echo $! >>pids\n"
        "setsid sleep 600 & echo $! >>pids; echo ok >ready; wait"
    )
    rundir = node.folder(handle).rundir
    eventually((rundir / "ready").exists)
    pids = [int(line) for line in (rundir / "pids").read_text().split()]
    assert all(alive(pid) for pid in pids)
    _kill(node.step(handle, Mark.SUPERVISED).pid)
    seen = node.wait(handle)
    assert (seen.cause, seen.reason) == (Cause.NODE_LOST, "the job's supervisor was killed")
    assert not any(alive(pid) for pid in pids)
    assert node.new_connector().poll([handle])[handle].cause is Cause.NODE_LOST


def test_a_supervisor_killed_in_stage_in(node: LocalNode) -> None:
    spec = node.spec("echo never >ran")
    node.put(spec, ".stage-in", "sleep 600")
    node.connector.submit(spec)
    staging = node.step(spec.handle, Mark.STAGE_IN).pid
    _kill(node.step(spec.handle, Mark.SUPERVISED).pid)
    assert node.wait(spec.handle).cause is Cause.NODE_LOST
    assert staging is not None and not alive(staging)
    assert not (node.bucket(spec) / "ran").exists()


def test_a_restarted_machine_is_node_lost(node: LocalNode) -> None:
    handle = node.submit("exec sleep 600")
    node.wait(handle, Observed.RUNNING)
    _kill(node.step(handle, Mark.SUPERVISED).pid)
    job = node.step(handle, Mark.MAIN).pid
    _kill(job)
    _change_boot(node.folder(handle).steps)
    seen = node.wait(handle)
    assert (seen.cause, seen.reason) == (Cause.NODE_LOST, "the machine was restarted")


def test_after_a_restart_no_process_of_the_same_pid_is_touched(node: LocalNode) -> None:
    handle = node.submit("sleep 600")
    node.wait(handle, Observed.RUNNING)
    supervisor = node.step(handle, Mark.SUPERVISED).pid
    steps = node.folder(handle).steps
    text = steps.read_text()
    _change_boot(steps)
    assert node.look(handle).cause is Cause.NODE_LOST
    assert supervisor is not None and alive(supervisor)
    steps.write_text(text)
    other = node.new_connector()
    other.cancel(handle)
    eventually(lambda: other.poll([handle])[handle].state is Observed.ENDED)


def test_what_has_ended_is_read_after_a_restart(node: LocalNode) -> None:
    handle = node.submit("exit 4")
    node.wait(handle)
    _change_boot(node.folder(handle).steps)
    assert node.new_connector().poll([handle])[handle].exit_code == 4


def test_a_job_that_may_still_run_has_not_ended(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor is dead, and what it ran cannot be killed."""
    handle = node.submit("sleep 600")
    node.wait(handle, Observed.RUNNING)
    with monkeypatch.context() as powerless:
        powerless.setattr(leftovers, "kill_processes", lambda native_id, found: False)
        _kill(node.step(handle, Mark.SUPERVISED).pid)
        assert node.look(handle).state is Observed.UNKNOWN
    assert node.look(handle).cause is Cause.NODE_LOST


def test_steps_of_ended_attempts_are_read_once(
    node: LocalNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait to be forgotten, thousands of them, cost a sweep next to nothing."""
    handle = node.submit("true")
    node.wait(handle)
    template = node.folder(handle).path
    for number in range(3):
        copy = template.with_name(f"{template.name}-{number}")
        copy.mkdir()
        for name in ("spec.json", "steps.jsonl"):
            (copy / name).write_bytes((template / name).read_bytes())
    assert node.connector.sweep([]) == {}
    monkeypatch.setattr(steps.Step, "parse", lambda line: pytest.fail(f"read again: {line}"))
    assert node.connector.sweep([]) == {}


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid))


def _change_boot(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["boot"] = "00000000-0000-0000-0000-000000000000"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _supervisors(node: LocalNode) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path("/proc", entry, "cmdline").read_text(errors="replace")
            except OSError:
                continue
            if str(node.data_dir) in line and "supervisor" in line:
                found.append(int(entry))
    return found
