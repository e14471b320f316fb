"""A Docker engine of the tests' own, which they may kill. Needs root.

It shares nothing with the machine's engine: other folders, another socket, its own
containerd, no network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bridge import process
from tests.support.docker import docker
from tests.support.needs import IMAGE
from tests.support.poll import eventually


class PrivateDocker:
    """Start with ``engine()``. ``host`` is its DOCKER_HOST."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.host = f"unix://{home}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it (again). Returns when it answers; what its last life left running has
        been ended by then.
        """
        home = self._home
        command = ["dockerd", "--host", self.host, "--data-root", f"{home}/data"]
        command += ["--exec-root", f"{home}/exec", "--pidfile", f"{home}/pid"]
        command += ["--bridge", "none", "--iptables=false", "--ip-forward=false"]
        # A dead one's is taken for a running one's when somebody else has its number.
        for stale in (self._home / "pid", self._containerd):
            stale.unlink(missing_ok=True)
        with open(self._home / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--log-level", "warn"],
                env=process.clean_environment({"HOME": str(self._home)}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, timeout=60, every=0.1)

    def kill(self) -> None:
        """End it at once. Its containers go on until it starts again."""
        if self._process is not None:
            containerd = int(self._containerd.read_text())
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None
            # The kernel ends it with its parent, a moment later.
            eventually(lambda: process.start_time(containerd) is None, timeout=30)

    def ask(self, *arguments: str) -> str:
        """What its command line prints."""
        done = process.run(["docker", *arguments], timeout=60, env=self._environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def load(self, image: str) -> None:
        """Give it an image of the machine's engine."""
        archive = self._home / "image.tar"
        docker("save", "-o", str(archive), image)
        self.ask("load", "--input", str(archive))
        archive.unlink()

    def stop(self) -> None:
        """End containers and engine."""
        if self._process is None:
            self.start()
        for container in self.ask("ps", "--all", "--quiet").split():
            self.ask("rm", "--force", container)
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def _containerd(self) -> Path:
        return self._home / "exec" / "containerd" / "containerd.pid"

    @property
    def _environment(self) -> dict[str, str]:
        return process.clean_environment({"DOCKER_HOST": self.host})

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log()
        command = ["docker", "version", "--format", "{{.Server.Version}}"]
        return process.run(command, timeout=30, env=self._environment).returncode == 0

    def _log(self) -> str:
        return (self._home / "log").read_text(errors="replace")


@contextlib.contextmanager
def engine() -> Iterator[PrivateDocker]:
    """Run an engine that holds the image busybox:1, until the end."""
    # A socket's path may have 107 characters.
    home = Path(tempfile.mkdtemp(prefix="nb-docker-"))
    made = PrivateDocker(home)
    try:
        made.start()
        made.load(IMAGE)
        yield made
    finally:
        made.stop()
        _end_shims(home)
        _unmount(home)
        shutil.rmtree(home, ignore_errors=True)


def _end_shims(home: Path) -> None:
    """Of containers that a killed engine had not written down yet."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                words = Path("/proc", entry, "cmdline").read_text(errors="replace").split("\0")
                if f"{home}/exec/containerd/containerd.sock" in words:
                    os.kill(int(entry), signal.SIGKILL)


def _unmount(home: Path) -> None:
    """What a killed engine has left mounted."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((one for one in points if one.startswith(f"{home}{os.sep}")), reverse=True):
        subprocess.run(["umount", point], check=False, timeout=20)
