"""The file of steps: one owner, lines on disk, torn lines skipped."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bridge import process
from bridge.connectors.local import steps
from bridge.connectors.local.layout import AttemptDir, RunSpec
from bridge.connectors.local.steps import Fault, Mark, Step, StepLog, Stop


def test_only_the_first_supervisor_gets_an_attempt(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert StepLog.claim(path) is not None
    assert StepLog.claim(path) is None
    (line,) = steps.read(path)
    assert line.mark is Mark.SUPERVISED
    assert (line.pid, line.boot) == (os.getpid(), process.boot_id())
    assert process.is_alive(os.getpid(), line.start)
    assert [entry.name for entry in tmp_path.iterdir()] == ["steps.jsonl"]


def test_supervisors_that_race_leave_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    code = (
        "import sys; sys.path.append(sys.argv[1]);"
        "from pathlib import Path; from bridge.connectors.local.steps import StepLog;"
        "print(StepLog.claim(Path(sys.argv[2])) is not None)"
    )
    argv = [_python(), "-I", "-S", "-c", code, str(_root()), str(path)]
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda _: process.run(argv, timeout=30), range(6)))
    assert sorted(done.stdout.strip() for done in ended) == ["False"] * 5 + ["True"]
    assert len(steps.read(path)) == 1


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog.claim(path)
    assert log is not None
    log.write(Mark.MAIN_ENDED, code=0, stop=Stop.CANCEL, fault=Fault.ENGINE_LOST, sentence="é\n")
    line = steps.read(path)[1]
    assert (line.mark, line.code, line.oom) == (Mark.MAIN_ENDED, 0, False)
    assert (line.stop, line.fault, line.sentence) == (Stop.CANCEL, Fault.ENGINE_LOST, "é\n")


@pytest.mark.parametrize(
    "torn", ['{"mark": "main", "at"', "\0\0\0", "[]", '{"mark": "new"}', '{"mark": "main"}', "7"]
)
def test_a_torn_line_is_skipped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "steps.jsonl"
    good = json.dumps({"mark": "done", "at": 2.0})
    path.write_text(f"{torn}\n{good}\n{torn}")
    assert steps.read(path) == [Step(mark=Mark.DONE, at=2.0)]


def test_nobody_began(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        steps.read(tmp_path / "steps.jsonl")


def test_a_spec_is_private_and_read_as_written(tmp_path: Path) -> None:
    home = AttemptDir(tmp_path)
    spec = RunSpec(
        native_id="bridge-x-1", number=1, bucket_id="b", code_bucket="c", image="i:1",
        input_sha256="", cores=1, memory_mb=1, time_limit_s=1, runtime="process",
        stage="/stage", node_home="/node",
    )  # fmt: skip
    spec.write(home.spec)
    assert RunSpec.read(home.spec) == spec
    assert home.spec.stat().st_mode & 0o777 == 0o600


def test_a_sentence_counts_only_for_the_code_it_is_about(tmp_path: Path) -> None:
    home = AttemptDir(tmp_path)
    assert home.sentence("in", 13) == ""
    home.state.mkdir()
    (home.state / "in.result").write_text("13\nS3 is away\n")
    assert home.sentence("in", 13) == "S3 is away"
    assert home.sentence("in", 143) == ""
    (home.state / "in.result").write_text("13\n")
    assert home.sentence("in", 13) == ""


def test_the_supervisor_needs_the_standard_library_only() -> None:
    code = (
        "import sys; sys.path.append(sys.argv[1]);"
        "import bridge.connectors.local.supervisor;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}"
        " - set(sys.stdlib_module_names)))"
    )
    done = process.run([_python(), "-I", "-S", "-c", code, str(_root())], timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["__main__", "bridge"] or done.stdout.split() == ["bridge"]


def _python() -> str:
    import sys

    return sys.executable


def _root() -> Path:
    return Path(__file__).resolve().parents[4]
