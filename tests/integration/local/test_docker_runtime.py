"""Jobs in containers, on a real engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.connectors.local.engine import Engine
from bridge.connectors.local.steps import Mark
from bridge.errors import ConnectorUnavailable, JobRejected
from bridge.models.attempt import Cause, Handle, Observed
from tests.support.docker import EngineDoor, docker, empty_image, own_image
from tests.support.local import LocalNode, alive
from tests.support.poll import eventually
from tests.support.room import largest

pytestmark = pytest.mark.needs("docker")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with own_image() as name:
        yield name


@pytest.fixture
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineDoor]:
    made = EngineDoor(tmp_path_factory.mktemp("door"))
    made.open()
    yield made
    made.close()


@pytest.fixture
def node(tmp_path: Path, door: EngineDoor) -> Iterator[LocalNode]:
    # It asks for the door so that it can clean up through it.
    made = LocalNode(tmp_path, runtime="docker", docker_host=os.environ.get("DOCKER_HOST", ""))
    yield made
    door.open()
    made.close()


def containers(handle: Handle) -> str:
    return docker("ps", "-aq", "--filter", f"name=^{handle.native_id}$")


def test_a_folder_goes_in_and_comes_back(node: LocalNode, image: str) -> None:
    handle = node.submit("cat data.txt; pwd; echo 42 >out.txt; echo no >&2; exit 3", image=image)
    node.put(handle, "data.txt", "input\n")
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code, seen.reason) == (Cause.EXIT, 3, "exit code 3")
    assert node.get(handle, "joblog.txt") == "input\n/rundir\n"
    assert node.get(handle, "joberr.txt") == "no\n"
    assert node.get(handle, "out.txt") == "42\n"
    assert containers(handle) == ""


def test_a_job_is_confined(node: LocalNode, image: str) -> None:
    handle = node.submit(
        "grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status >status\n"
        "ls /sys/class/net >net; env >env.txt; id -u >uid; ulimit -c >core\n"
        "touch /rundir/../escaped || true",
        image=image,
        cores=2,
    )
    rootless = Engine(node.connector.docker_host).info().rootless
    assert node.wait(handle).cause is None
    status = dict(line.split(":\t") for line in node.get(handle, "status").splitlines())
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert node.get(handle, "net").split() == ["lo"]
    assert int(node.get(handle, "uid")) == (0 if rootless else os.geteuid())
    assert node.get(handle, "core") == "0\n"
    found = node.get(handle, "env.txt").splitlines()
    assert {"HOME=/tmp", "OMP_NUM_THREADS=2", "OPENBLAS_NUM_THREADS=2"} <= set(found)
    assert not any("BRIDGE_BUCKET" in line for line in found)
    assert not (node.folder(handle).path / "escaped").exists()


def test_a_job_that_takes_too_much_memory(node: LocalNode, image: str) -> None:
    # The engine tells of it by an event, which is to come before the program's end.
    script = "echo before >part.txt; tail /dev/zero; code=$?; sleep 1; exit $code"
    handle = node.submit(script, image=image, memory_mb=32)
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code) == (Cause.OOM, 137)
    assert node.get(handle, "part.txt") == "before\n"


def test_cancel_reaches_the_program(node: LocalNode, image: str) -> None:
    node = LocalNode(node.home, **node.settings | {"kill_timeout_s": 30})
    handle = node.submit(
        "trap 'echo saved >saved; exit 9' TERM; echo x >ready\n"
        "while true; do sleep 600 & wait $!; done",
        image=image,
    )
    eventually((node.folder(handle).rundir / "ready").exists)
    node.connector.cancel(handle)
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code) == (Cause.CANCELED, 9)
    assert node.get(handle, "saved") == "saved\n"
    assert containers(handle) == ""


def test_a_stubborn_job_is_killed(node: LocalNode, image: str) -> None:
    node = LocalNode(node.home, **node.settings | {"kill_timeout_s": 0.3})
    script = "trap '' TERM; echo x >ready; while true; do sleep 1; done"
    handle = node.submit(script, image=image)
    eventually((node.folder(handle).rundir / "ready").exists)
    node.connector.cancel(handle)
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code) == (Cause.CANCELED, 137)
    assert node.get(handle, "ready") == "x\n"


def test_an_image_that_is_not_there(node: LocalNode) -> None:
    seen = node.wait(node.submit("true", image="test-missing:1"))
    assert (seen.cause, seen.reason) == (Cause.IMAGE_MISSING, "the image is not on this machine")
    assert seen.started_at is None


def test_an_image_without_a_shell(node: LocalNode) -> None:
    with empty_image() as image:
        seen = node.wait(node.submit("true", image=image))
        assert seen.cause is Cause.INPUT_INVALID
        assert seen.reason == "the image has no /bin/sh to start run.sh"


@pytest.mark.parametrize("image", ["--privileged", "UPPER:1", "a b:1"])
def test_what_is_no_image_is_rejected(node: LocalNode, image: str) -> None:
    with pytest.raises(JobRejected, match="no image reference"):
        node.submit("true", image=image)


def test_a_killed_supervisor_leaves_no_container(node: LocalNode, image: str) -> None:
    handle = node.submit("sleep 600", image=image)
    node.wait(handle, Observed.RUNNING)
    assert containers(handle)
    supervisor = node.step(handle, Mark.SUPERVISED).pid
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    assert node.wait(handle).cause is Cause.NODE_LOST
    assert containers(handle) == ""


def test_a_container_left_behind_goes_when_the_attempt_is_forgotten(
    node: LocalNode, image: str
) -> None:
    handle = node.submit("true", image=image)
    node.wait(handle)
    docker("create", "--name", handle.native_id, "busybox:1", "true")
    eventually(lambda: not node.folder(handle).rundir.exists())
    eventually(lambda: not alive(node.step(handle, Mark.SUPERVISED).pid or 0))
    node.connector.forget(handle)
    assert containers(handle) == ""
    assert node.look(handle).state is Observed.GONE


def test_nothing_is_handed_over_while_the_engine_is_away(node: LocalNode, door: EngineDoor) -> None:
    node = LocalNode(node.home, **node.settings | {"docker_host": door.host})
    door.close()
    spec = node.spec("true")
    with pytest.raises(ConnectorUnavailable, match="engine does not answer"):
        node.connector.submit(spec)
    with pytest.raises(ConnectorUnavailable):
        node.connector.room("", "")
    assert node.look(spec.handle).state is Observed.GONE
    assert [f.ok for f in node.connector.check().findings if f.what == "Docker engine"] == [False]
    door.open()
    assert largest(node.connector.room("", ""))[0] == 4
    assert [f.ok for f in node.connector.check().findings if f.what == "Docker engine"] == [True]


def test_an_engine_that_is_away_at_the_start_is_waited_for(
    node: LocalNode, door: EngineDoor, image: str
) -> None:
    node = LocalNode(node.home, **node.settings | {"docker_host": door.host})
    spec = node.spec("echo ran >>ran", image=image)
    node.put(spec, ".stage-in", 'while [ ! -e "$bucket/go" ]; do sleep 0.02; done')
    node.connector.submit(spec)
    node.step(spec.handle, Mark.STAGE_IN)
    door.close()
    node.put(spec, "go", "")
    node.step(spec.handle, Mark.STAGE_IN_ENDED)
    door.open()
    assert node.wait(spec.handle).cause is None
    assert node.get(spec, "ran") == "ran\n"


def test_an_engine_that_stays_away_ends_the_attempt(
    node: LocalNode, door: EngineDoor, image: str
) -> None:
    changed = {"docker_host": door.host, "engine_patience_s": 0.2}
    node = LocalNode(node.home, **node.settings | changed)
    spec = node.spec("true", image=image)
    node.put(spec, ".stage-in", 'while [ ! -e "$bucket/go" ]; do sleep 0.02; done')
    node.connector.submit(spec)
    node.step(spec.handle, Mark.STAGE_IN)
    door.close()
    node.put(spec, "go", "")
    seen = node.wait(spec.handle)
    assert seen.cause is Cause.INTERNAL
    assert seen.reason is not None
    assert seen.reason.startswith("the Docker engine does not answer")


def test_a_job_outlives_an_absence_of_the_engine(
    node: LocalNode, door: EngineDoor, image: str
) -> None:
    node = LocalNode(node.home, **node.settings | {"docker_host": door.host})
    handle = node.submit("while [ ! -e go ]; do sleep 0.02; done; exit 5", image=image)
    node.wait(handle, Observed.RUNNING)
    first = node.step(handle, Mark.MAIN).pid
    door.close()
    eventually(lambda: first not in _waiting(handle))
    door.open()
    # Only once the supervisor watches again is the end not part of the absence.
    eventually(lambda: _waiting(handle))
    (node.folder(handle).rundir / "go").touch()
    seen = node.wait(handle)
    assert (seen.cause, seen.exit_code) == (Cause.EXIT, 5)


def test_an_engine_restarted_under_the_job(node: LocalNode, door: EngineDoor, image: str) -> None:
    """Without live-restore the engine ends its containers; whatever their exit
    code then says, it is not the program's own.
    """
    node = LocalNode(node.home, **node.settings | {"docker_host": door.host})
    handle = node.submit("echo partial >part.txt; exec sleep 600", image=image)
    eventually((node.folder(handle).rundir / "part.txt").exists)
    node.wait(handle, Observed.RUNNING)
    first = node.step(handle, Mark.MAIN).pid
    door.close()
    # Who waited has seen the engine go before it sees the end.
    eventually(lambda: first not in _waiting(handle))
    docker("kill", handle.native_id)
    door.open()
    seen = node.wait(handle)
    assert seen.cause is Cause.NODE_LOST
    assert seen.reason == "the Docker engine was restarted under the job"
    assert node.get(handle, "part.txt") == "partial\n"
    assert containers(handle) == ""


def test_a_container_that_somebody_removed(node: LocalNode, image: str) -> None:
    handle = node.submit("echo partial >part.txt; exec sleep 600", image=image)
    eventually((node.folder(handle).rundir / "part.txt").exists)
    docker("rm", "-f", handle.native_id)
    seen = node.wait(handle)
    assert seen.cause in (Cause.NODE_LOST, Cause.EXIT)
    assert seen.cause is Cause.NODE_LOST or seen.exit_code == 137
    assert node.get(handle, "part.txt") == "partial\n"


def _waiting(handle: Handle) -> set[int]:
    """The pids that ``docker wait`` for the attempt."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"wait" in words and handle.native_id.encode() in words:
                found.add(int(entry))
    return found
