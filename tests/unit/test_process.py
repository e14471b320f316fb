"""Programs: started by list, with a named environment, within a deadline."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bridge import process
from bridge.errors import ProcessError
from tests.support import half_ended
from tests.support.poll import eventually

ROOT = Path(__file__).resolve().parents[2]


def test_output_and_exit_code_come_back() -> None:
    done = process.run(["sh", "-c", "cat; echo oops >&2; exit 3"], timeout=10, input="in")
    assert done == (3, "in", "oops\n")


def test_output_that_is_no_text_is_still_shown() -> None:
    assert process.run(["printf", r"\377"], timeout=10).stdout == "\ufffd"


def test_arguments_never_meet_a_shell() -> None:
    assert process.run(["echo", "$HOME; ls"], timeout=10).stdout == "$HOME; ls\n"


def test_the_environment_is_clean_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/stray")
    monkeypatch.setenv("LANG", "C.UTF-8")
    names = {line.partition("=")[0] for line in process.run(["env"], timeout=10).stdout.split("\n")}
    assert "AWS_CA_BUNDLE" not in names
    assert {"PATH", "LANG"} <= names


def test_extra_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/a")
    assert process.clean_environment({"HOME": "/b", "X": "1"}).items() >= {
        ("HOME", "/b"),
        ("X", "1"),
    }


def test_a_program_over_its_time_is_killed_with_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(ProcessError, match=r"sh did not end within 3 s"):
        process.run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], timeout=3)
    assert time.monotonic() - started < 30
    grandchild = int(pid_file.read_text())
    eventually(lambda: process.start_time(grandchild) is None)


def test_a_child_that_left_the_session_does_not_hold_us_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "_KILL_GRACE_S", 1.0)
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 60' & sleep 60"
    with pytest.raises(ProcessError):
        process.run(["sh", "-c", script], timeout=3)
    os.kill(int(eventually(lambda: pid_file.exists() and pid_file.read_text())), signal.SIGKILL)


@pytest.mark.parametrize("name", ["no-such-program-here", "/no/such/program", "/etc/passwd"])
def test_what_cannot_be_started_is_named(name: str) -> None:
    with pytest.raises(ProcessError, match=name):
        process.run([name], timeout=10)


def test_a_missing_working_folder_is_named() -> None:
    with pytest.raises(ProcessError, match="/no/such/folder"):
        process.run(["true"], timeout=10, cwd=Path("/no/such/folder"))


def test_the_program_is_looked_up_on_the_path_it_gets(tmp_path: Path) -> None:
    program = tmp_path / "hello-program"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    env = process.clean_environment({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert process.run(["hello-program"], timeout=10, env=env).stdout == "hello\n"


def test_a_detached_program_has_its_own_session_and_writes_private_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read() == '')"
    process.spawn_detached([sys.executable, "-c", code], stdout=out)
    assert eventually(out.read_text) == "True True\n"
    assert out.stat().st_mode & 0o777 == 0o600


def test_output_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="out"):
        process.spawn_detached(["true"], stdout=tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


def test_a_descriptor_can_be_handed_down() -> None:
    ours, theirs = os.pipe()
    code = f"import os; os.write({theirs}, b'ready')"
    process.spawn_detached([sys.executable, "-c", code], pass_fds=[theirs])
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        assert pipe.read() == "ready"


def test_alive_means_the_same_process() -> None:
    pid = process.spawn_detached(["sleep", "60"])
    started = process.start_time(pid)
    assert process.is_alive(pid, started)
    assert not process.is_alive(pid, "1")
    assert not process.is_alive(pid, None)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not process.is_alive(pid, started))
    assert process.start_time(pid) is None


def test_a_process_lives_as_long_as_its_last_thread() -> None:
    pid = process.spawn_detached([sys.executable, "-P", half_ended.__file__])
    started = process.start_time(pid)
    eventually(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text())
    assert started is not None and process.is_alive(pid, started)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: process.start_time(pid) is None)


def test_a_name_with_brackets_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z 1 2"
    odd.symlink_to("/bin/sleep")
    pid = process.spawn_detached([odd, "60"])
    assert process.is_alive(pid, process.start_time(pid))
    os.kill(pid, signal.SIGKILL)


def test_the_start_id_of_the_machine_is_stable() -> None:
    assert process.boot_id() == process.boot_id() != ""


def test_programs_of_our_dependencies_are_found_without_an_activated_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert process.which(Path(sys.executable).name) is not None
    assert process.which("no-such-program-here") is None


def test_the_environment_is_a_copy() -> None:
    assert process.environment() == dict(os.environ)
    assert process.environment() is not os.environ


def test_an_exit_leaves_children_running_without_a_word() -> None:
    code = "from bridge import process; print(process.spawn_detached(['sleep', '60']))"
    done = process.run([sys.executable, "-W", "error", "-c", code], timeout=20, cwd=ROOT)
    assert done.stderr == ""
    pid = int(done.stdout)
    assert process.start_time(pid) is not None
    os.kill(pid, signal.SIGKILL)
