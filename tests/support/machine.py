"""A machine that becomes a node: a fresh account of this one, and what a node downloads.

The account is all that tells it from this machine: its processes and files are its own,
and it may do no more than any user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bridge.models import pin as pins
from bridge.resources import path
from tests.support.poll import eventually

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "other")
_TUN = Path("/dev/net/tun")
# Where Debian's packages have what docker.com packs into two archives.
_DOCKER = (
    "containerd",
    "containerd-shim-runc-v2",
    "docker",
    "docker-init",
    "docker-proxy",
    "dockerd",
    "runc",
)
_ROOTLESS = ("rootlesskit", "rootlesskit-docker-proxy")
ROOTLESS_SCRIPT = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
# What must be here.
PROGRAMS = (*_DOCKER, *_ROOTLESS, "busybox", "curl", "newuidmap", "openssl", "slirp4netns")
FILES = (ROOTLESS_SCRIPT, _TUN)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """Start with ``machine()``. ``folder`` is where its node will be."""

    def __init__(self, user: str, folder: Path) -> None:
        self.user = user
        self.folder = folder
        self.home = Path(pwd.getpwnam(user).pw_dir)
        # How commands come to where it is (a namespace), and what they find there.
        self.enter: tuple[str, ...] = ()
        self.extra: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> Path:
        """What run.sh has printed."""
        return self.home / "run.log"

    @property
    def scripts(self) -> Path:
        """The unpacked bundle."""
        return self.home / "nomadrun"

    def give(self, source: Path, name: str | None = None) -> Path:
        """A copy of a file, the account's own and readable by nobody else."""
        copy = self.home / (name or source.name)
        copy.touch(mode=0o600)
        copy.write_bytes(source.read_bytes())
        shutil.chown(copy, self.user, self.user)
        return copy

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command as this account, in its home, and wait for its end."""
        return subprocess.run(
            [*self.enter, *self._as_account(), *command],
            env=self._environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def get_started(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run get-started.sh for this machine's folder."""
        script = str(self.scripts / "get-started.sh")
        return self.run("sh", script, "--dir", str(self.folder), *options)

    def run_sh(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run run.sh with an option of the owner's."""
        return self.run("sh", str(self.scripts / "run.sh"), *options)

    def join(self) -> subprocess.Popen[bytes]:
        """Start run.sh as in a terminal that stays open; its output is in ``log``."""
        return self.start("sh", str(self.scripts / "run.sh"))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command as this account; its output goes to ``log``."""
        with open(self.log, "ab") as log:
            started = subprocess.Popen(
                [*self.enter, *self._as_account(), *command],
                env=self._environment(),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(started)
        return started

    def says(self, words: str, timeout: float = 180) -> None:
        """Wait until run.sh prints this."""
        eventually(lambda: words in self.output(), timeout=timeout, every=0.1)

    def output(self) -> str:
        """What run.sh has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def processes(self) -> list[int]:
        """The account's processes that live: some init programs reap late, or never."""
        uid = pwd.getpwnam(self.user).pw_uid
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                if folder.stat().st_uid == uid and state != "Z":
                    found.append(int(folder.name))
        return found

    def power_cut(self) -> None:
        """End all processes of the account at once: none is to see another one's end."""
        for _ in range(50):
            left = self.processes()
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            self._reap()
            if not left:
                return
        raise AssertionError(f"still there: {self.processes()}")

    def _as_account(self) -> tuple[str, ...]:
        return ("setpriv", "--reuid", self.user, "--regid", self.user, "--clear-groups")

    def _reap(self) -> None:
        for one in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(timeout=0.2)

    def _environment(self) -> dict[str, str]:
        # AWS_CA_BUNDLE alone stops Nomad, if the scripts let it through.
        return {
            "PATH": _PATH,
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "AWS_CA_BUNDLE": "/no/such/file",
            "CURL_CA_BUNDLE": "/no/such/file",
            "DOCKER_HOST": "unix:///no/such/socket",
        } | self.extra


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """A new account until the end; then its processes, files and itself are gone.

    The device of containers' networks stays as get-started.sh --root-steps leaves it: somebody
    else may have a machine at the same time.
    """
    user = f"nb-{uuid.uuid4().hex[:8]}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", user], check=True)
    # Short: unix sockets are made deep below it.
    folder = Path(tempfile.mkdtemp(prefix="nb-"))
    shutil.chown(folder, user, user)
    made = Machine(user, folder)
    try:
        _TUN.chmod(0o666)
        yield made
    finally:
        made.power_cut()
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["userdel", "--remove", user], check=False, capture_output=True)


def assemble_downloads(folder: Path, rclone: str) -> None:
    """Fill a folder with what the pins name, packed as its makers do (but not compressed,
    for the sake of time), from this machine.
    """
    wanted = {
        pin.name: pin
        for pin in pins.parse(path("node-setup/pins").read_text())
        if pin.architecture == ARCHITECTURE
    }
    _zip(folder / wanted["nomad"].file_name, "nomad", _program("nomad"))
    rclone_folder = wanted["rclone"].file_name.removesuffix(".zip")
    _zip(folder / wanted["rclone"].file_name, f"{rclone_folder}/rclone", Path(rclone))
    _tgz(folder / wanted["docker"].file_name, "docker", [_program(name) for name in _DOCKER])
    _tgz(
        folder / wanted["docker-rootless-extras"].file_name,
        "docker-rootless-extras",
        [*(_program(name) for name in _ROOTLESS), ROOTLESS_SCRIPT],
    )
    shutil.copyfile(_program("busybox"), folder / wanted["busybox"].file_name)
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)


def _program(name: str) -> Path:
    found = shutil.which(name, path=_PATH) or shutil.which(name)
    assert found, name
    return Path(found).resolve()


def _zip(archive: Path, name: str, program: Path) -> None:
    with zipfile.ZipFile(archive, "w") as packed:
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o755 << 16
        packed.writestr(info, program.read_bytes())


def _tgz(archive: Path, folder: str, programs: Sequence[Path]) -> None:
    with tarfile.open(archive, "w:gz", compresslevel=0) as packed:
        for program in programs:
            # What Debian links elsewhere, docker.com calls by its own name.
            name = {"tini-static": "docker-init"}.get(program.name, program.name)
            packed.add(program, f"{folder}/{name}")


def pinned(folder: Path) -> str:
    """The list of pins for what is in a folder of downloads."""
    text = path("node-setup/pins").read_text()
    found = {
        pin: hashlib.sha256((folder / pin.file_name).read_bytes()).hexdigest()
        for pin in pins.parse(text)
        if pin.architecture == ARCHITECTURE
    }
    return pins.filled(text, found)
