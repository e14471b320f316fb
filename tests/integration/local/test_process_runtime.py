"""Jobs as plain processes, with a stage program that copies folders."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from bridge.connectors.local.steps import Mark
from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import Cause, Handle, Observed
from bridge.models.job import Phase
from tests.support import half_ended
from tests.support.local import LocalNode, alive, bucket_ids, command_lines
from tests.support.poll import eventually
from tests.support.room import free, largest


def test_a_folder_goes_in_and_comes_back(node: LocalNode) -> None:
    handle = node.submit("cat data.txt; echo careful >&2; mkdir out; echo 42 >out/result")
    node.put(handle, "data.txt", "input")
    seen = node.wait(handle)
    assert (seen.state, seen.cause, seen.exit_code) == (Observed.ENDED, None, 0)
    assert seen.node == "here"
    assert seen.started_at is not None and seen.ended_at is not None
    assert seen.started_at <= seen.ended_at
    assert node.get(handle, "joblog.txt") == "input"
    assert node.get(handle, "joberr.txt") == "careful\n"
    assert node.get(handle, "out/result") == "42\n"


def test_exit_codes_come_back(node: LocalNode) -> None:
    seen = node.wait(node.submit("echo partial >part.txt; exit 3"))
    assert (seen.cause, seen.exit_code, seen.reason) == (Cause.EXIT, 3, "exit code 3")


def test_a_signal_is_named(node: LocalNode) -> None:
    seen = node.wait(node.submit("kill -SEGV $$"))
    assert (seen.exit_code, seen.reason) == (139, "exit code 139 (killed by SIGSEGV)")


def test_phases_are_shown(node: LocalNode) -> None:
    spec = node.spec("while [ ! -e go-run ]; do sleep 0.02; done")
    gate = node.bucket(spec)
    wait = 'while [ ! -e "$bucket/{0}" ]; do sleep 0.02; done'
    node.put(spec, ".stage-in", "echo pulling >$BRIDGE_STATE/phase\n" + wait.format("go-in"))
    node.put(spec, ".stage-out", wait.format("go-out"))
    node.connector.submit(spec)
    eventually(lambda: node.look(spec.handle).phase is Phase.PULLING)
    assert node.look(spec.handle).state is Observed.PENDING
    (gate / "go-in").touch()
    eventually(lambda: node.look(spec.handle).phase is Phase.EXECUTING)
    assert node.look(spec.handle).state is Observed.RUNNING
    (node.folder(spec.handle).rundir / "go-run").touch()
    eventually(lambda: node.look(spec.handle).phase is Phase.UPLOADING)
    assert node.look(spec.handle).state is Observed.RUNNING
    (gate / "go-out").touch()
    assert node.wait(spec.handle).cause is None


def test_the_environment_of_a_job(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the service")
    handle = node.submit("env >env.txt; ulimit -c >core.txt; pwd >pwd.txt; ls -ld ~", cores=3)
    node.wait(handle)
    found = dict(line.split("=", 1) for line in node.get(handle, "env.txt").splitlines())
    threads = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    assert {found[f"{name}_NUM_THREADS"] for name in threads} == {"3"}
    assert found["VECLIB_MAXIMUM_THREADS"] == "3"
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert found["HOME"] == str(node.folder(handle).home)
    assert node.get(handle, "core.txt") == "0\n"
    assert node.get(handle, "pwd.txt").strip() == str(node.folder(handle).rundir)
    assert node.get(handle, "joblog.txt").startswith("drwx------")


def test_bash_runs_what_only_bash_can(node: LocalNode) -> None:
    handle = node.submit('words=(one two); echo "${words[1]}"')
    assert node.wait(handle).exit_code == 0
    assert node.get(handle, "joblog.txt") == "two\n"


def test_missing_input(node: LocalNode) -> None:
    seen = node.wait(node.submit(None))
    assert (seen.cause, seen.reason) == (Cause.INPUT_MISSING, "Input files missing")
    assert seen.exit_code is None and seen.started_at is None


def test_an_upload_that_fails_is_no_success_and_keeps_the_results(node: LocalNode) -> None:
    spec = node.spec("echo precious >result")
    node.put(spec, ".stage-out", 'finish 13 "S3 is full"')
    node.connector.submit(spec)
    seen = node.wait(spec.handle)
    assert (seen.cause, seen.exit_code, seen.reason) == (Cause.STORAGE, 0, "S3 is full")
    forget(node, spec.handle)
    assert node.look(spec.handle).state is Observed.GONE
    (kept,) = (node.data_dir / "attempts.kept").iterdir()
    assert (kept / "rundir" / "result").read_text() == "precious\n"
    (finding,) = [f for f in node.connector.check().findings if f.what == "results kept"]
    assert "1 attempts" in finding.detail


def test_cancel_brings_partial_results_home(node: LocalNode) -> None:
    handle = node.submit("echo partial >part.txt; exec sleep 600")
    node.wait(handle, Observed.RUNNING)
    eventually((node.folder(handle).rundir / "part.txt").exists)
    node.connector.cancel(handle)
    node.connector.cancel(handle)
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code, seen.reason) == (Cause.CANCELED, 143, "canceled")
    assert node.get(handle, "part.txt") == "partial\n"


def test_a_stubborn_job_is_killed(node: LocalNode) -> None:
    node = LocalNode(node.home, kill_timeout_s=0.2)
    script = "trap '' TERM; echo ready >ready; while true; do sleep 1; done"
    handle = node.submit(script)
    eventually((node.folder(handle).rundir / "ready").exists)
    node.connector.cancel(handle)
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code) == (Cause.CANCELED, 137)


def test_cancel_during_stage_in(node: LocalNode) -> None:
    spec = node.spec("echo never >ran")
    node.put(spec, ".stage-in", "sleep 600")
    node.connector.submit(spec)
    node.step(spec.handle, Mark.STAGE_IN)
    node.connector.cancel(spec.handle)
    seen = node.wait(spec.handle)
    assert (seen.cause, seen.started_at, seen.exit_code) == (Cause.CANCELED, None, None)
    assert not (node.bucket(spec) / "ran").exists()


def test_cancel_while_uploading_changes_nothing(node: LocalNode) -> None:
    spec = node.spec("echo done >result")
    node.put(spec, ".stage-out", 'while [ ! -e "$bucket/go" ]; do sleep 0.02; done')
    node.connector.submit(spec)
    node.step(spec.handle, Mark.STAGE_OUT)
    node.connector.cancel(spec.handle)
    node.put(spec, "go", "")
    assert node.wait(spec.handle).cause is None
    assert node.get(spec, "result") == "done\n"


def test_the_outer_net_of_the_time_limit(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = node.spec("echo partial >part.txt; sleep 600", time_limit_s=0)
    node = LocalNode(node.home, margin_s=3)  # in which staging, too, is to be done
    node._specs[spec.handle] = spec
    node.connector.submit(spec)
    seen = node.wait(spec.handle)
    assert (seen.cause, seen.reason) == (Cause.TIMEOUT, "time limit reached")
    assert node.get(spec, "part.txt") == "partial\n"


def test_what_a_job_leaves_behind_is_killed(node: LocalNode) -> None:
    handle = node.submit(
        "sleep 600 & echo $! >pids\n"
        "(setsid sh -c 'sleep 600 & echo $! >>pids; echo $$ >>pids; wait' &)\n"
        f"setsid {sys.executable} -P {half_ended.__file__} >half &\n"
        "while [ $(wc -l <pids) -lt 3 ]; do sleep 0.02; done\n"
        "until grep -q ') Z ' /proc/$(cat half)/stat; do sleep 0.02; done"
    )
    assert node.wait(handle).exit_code == 0
    pids = [int(line) for name in ("pids", "half") for line in node.get(handle, name).split()]
    assert len(pids) == 4
    assert not any(alive(pid) for pid in pids)


def test_the_run_directory_goes_once_the_results_are_safe(node: LocalNode) -> None:
    handle = node.submit("echo x >x; mkdir -p a/b; chmod 0 a")
    node.wait(handle)
    eventually(lambda: not node.folder(handle).rundir.exists())
    assert node.folder(handle).steps.exists()


def test_forget(node: LocalNode) -> None:
    handle = node.submit("true")
    node.wait(handle)
    forget(node, handle)
    assert node.look(handle).state is Observed.GONE
    assert not node.folder(handle).path.exists()
    assert list((node.data_dir / "attempts.trash").iterdir()) == []
    node.connector.forget(handle)


def test_a_running_attempt_is_never_forgotten(node: LocalNode) -> None:
    handle = node.submit("sleep 600")
    node.wait(handle, Observed.RUNNING)
    node.connector.forget(handle)
    assert node.look(handle).state is Observed.RUNNING


def test_forget_follows_no_link(node: LocalNode, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("stays")
    spec = node.spec(f"ln -s {outside} link; ln -s {outside}/file file")
    node.put(spec, ".stage-out", 'finish 10 "superseded"')  # the run directory stays
    node.connector.submit(spec)
    node.wait(spec.handle)
    assert (node.folder(spec.handle).rundir / "link").is_symlink()
    forget(node, spec.handle)
    assert (outside / "file").read_text() == "stays"


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".", "UPPER", "x" * 200])
def test_a_strange_id_is_nothing_of_ours(node: LocalNode, name: str) -> None:
    handle = Handle(name)
    assert node.look(handle).state is Observed.GONE
    node.connector.cancel(handle)
    node.connector.forget(handle)
    with pytest.raises(JobRejected):
        node.connector.submit(node.spec("true", handle=handle))


def test_room_is_what_live_attempts_leave(node: LocalNode) -> None:
    handle = node.submit("sleep 600", cores=3, memory_mb=1000)
    room = node.connector.room("", "")
    assert (room.slots, *free(room)) == (1, 1, 7000)
    assert largest(room) == (4, 8000)
    node.connector.cancel(handle)
    node.wait(handle)
    assert free(node.connector.room("", ""))[0] == 4


@pytest.mark.parametrize("size", [{"cores": 5}, {"memory_mb": 8001}])
def test_what_never_fits_is_rejected(node: LocalNode, size: dict[str, int]) -> None:
    with pytest.raises(JobRejected, match="4 cores, 8000 MiB"):
        node.submit("true", **size)


def test_a_bucket_id_is_in_no_command_line_and_no_readable_file(node: LocalNode) -> None:
    spec = node.spec("sleep 600")
    wait = 'while [ ! -e "$bucket/go" ]; do sleep 0.02; done'
    node.put(spec, ".stage-in", 'touch "$BRIDGE_STATE/here"\n' + wait)
    node.connector.submit(spec)
    eventually((node.folder(spec.handle).state / "here").exists)
    assert str(spec.bucket_id) not in command_lines()
    node.put(spec, "go", "")
    node.wait(spec.handle, Observed.RUNNING)
    assert not any(str(bucket) in command_lines() for bucket in bucket_ids(node))
    job = node.step(spec.handle, Mark.MAIN).pid
    assert str(spec.bucket_id) not in Path(f"/proc/{job}/environ").read_text(errors="replace")
    for path in (node.data_dir / "attempts", node.folder(spec.handle).path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_disk_that_fails_is_no_verdict(node: LocalNode, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = node.submit("sleep 600")
    node.wait(handle, Observed.RUNNING)

    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr("bridge.connectors.local.steps.read", fail)
        with pytest.raises(ConnectorUnavailable, match="Input/output error"):
            node.connector.poll([handle])
    assert node.look(handle).state is Observed.RUNNING


def test_a_missing_stage_program_is_a_fault_of_ours(node: LocalNode) -> None:
    node = LocalNode(node.home, stage=node.home / "missing")
    seen = node.wait(node.submit("true"))
    assert seen.cause is Cause.INTERNAL
    assert seen.reason is not None and "missing" in seen.reason
    (stage,) = [f for f in node.connector.check().findings if f.what == "stage program"]
    assert not stage.ok


def test_check_names_what_is_wrong_with_the_keys(node: LocalNode) -> None:
    keys = node.node_home / "etc" / "s3.conf"

    def finding() -> tuple[bool, str]:
        (found,) = [f for f in node.connector.check().findings if f.what == "S3 keys"]
        return found.ok, found.detail

    assert finding() == (False, f"{keys}: No such file or directory")
    keys.parent.mkdir(parents=True)
    keys.write_text("S3_SERVER=http://127.0.0.1:1\n")
    keys.chmod(0o644)
    assert finding() == (False, f"{keys} can be read by others")
    keys.chmod(0o600)
    assert finding() == (True, str(keys))


def test_told_to_end_the_supervisor_brings_home_what_there_is(node: LocalNode) -> None:
    handle = node.submit("echo partial >part.txt; exec sleep 600")
    eventually((node.folder(handle).rundir / "part.txt").exists)
    supervisor = node.step(handle, Mark.SUPERVISED).pid
    assert supervisor is not None
    os.kill(supervisor, signal.SIGTERM)
    seen = node.wait(handle)
    assert (seen.cause, seen.reason) == (Cause.NODE_LOST, "the machine was shut down")
    assert node.get(handle, "part.txt") == "partial\n"


def test_a_broken_spec_ends_the_attempt(node: LocalNode) -> None:
    spec = node.spec("true")
    home = node.folder(spec.handle)
    home.path.mkdir(parents=True)
    home.spec.write_text(json.dumps({"native_id": "x"}))
    assert node.wait(spec.handle).cause is Cause.INTERNAL


def forget(node: LocalNode, handle: Handle) -> None:
    """Forget, once the supervisor has cleaned up."""

    def gone() -> bool:
        try:
            node.connector.forget(handle)
        except ConnectorUnavailable:
            return False
        return True

    eventually(gone)
