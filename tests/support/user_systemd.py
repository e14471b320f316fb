"""A systemd of an account's own, on a machine where none needs to run.

It lives in a mount namespace with an empty /run, so that nothing else here sees it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.support.machine import Machine
from tests.support.poll import eventually

_SYSTEMD = Path("/lib/systemd/systemd")
_CGROUPS = Path("/sys/fs/cgroup")
_LINGER = Path("/var/lib/systemd/linger")

# In the new namespace, as root: the places of its own, then systemd as the account.
_START = """
set -eu
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chown "$ACCOUNT" "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
for group in $GROUPS; do
    echo "$$" >"$group/cgroup.procs"
done
mount -t tmpfs tmpfs {linger}
touch {linger}/"$ACCOUNT"
exec setpriv --reuid "$ACCOUNT" --regid "$ACCOUNT" --clear-groups \
    {systemd} --user --log-target=console --unit=default.target
"""


def missing() -> str | None:
    """What is not here that it needs, or None."""
    if not _SYSTEMD.exists():
        return f"there is no {_SYSTEMD}"
    if not _LINGER.is_dir():
        return f"there is no {_LINGER}"
    lacking = [name for name in ("nsenter", "setpriv", "systemctl", "unshare") if not _has(name)]
    return f"not on the PATH: {', '.join(lacking)}" if lacking else None


def _has(name: str) -> bool:
    return shutil.which(name) is not None


@contextlib.contextmanager
def user_systemd(machine: Machine, log: Path) -> Iterator[None]:
    """All that ``machine`` runs meanwhile runs beside a systemd of its account's own."""
    runtime = f"/run/user/{pwd.getpwnam(machine.user).pw_uid}"
    with _cgroups(machine.user) as groups, open(log, "ab") as output:
        running = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _START.format(systemd=_SYSTEMD, linger=_LINGER)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(machine.home),
                "ACCOUNT": machine.user,
                "XDG_RUNTIME_DIR": runtime,
                "GROUPS": " ".join(str(group) for group in groups),
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        machine.enter = ("nsenter", "--mount", f"--target={running.pid}")
        machine.extra = {"XDG_RUNTIME_DIR": runtime}
        try:
            eventually(lambda: _is_up(machine, running, log), timeout=120, every=0.1)
            yield
        finally:
            machine.power_cut()
            machine.enter, machine.extra = (), {}
            running.wait(timeout=20)


def _is_up(machine: Machine, running: subprocess.Popen[bytes], log: Path) -> bool:
    assert running.poll() is None, log.read_text(errors="replace")
    asked = machine.run("systemctl", "--user", "is-system-running")
    return asked.stdout.strip() in ("running", "degraded")


@contextlib.contextmanager
def _cgroups(user: str) -> Iterator[list[Path]]:
    """Groups that the account may divide, in every hierarchy systemd could use."""
    tops = [top for top in (_CGROUPS / "systemd", _CGROUPS / "unified", _CGROUPS) if _is_top(top)]
    made = [top / user for top in tops]
    for group in made:
        group.mkdir()
        shutil.chown(group, user, user)
        for file in ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks"):
            if (group / file).exists():
                shutil.chown(group / file, user, user)
    try:
        yield made
    finally:
        for group in made:
            _remove(group)


def _is_top(folder: Path) -> bool:
    return (folder / "cgroup.procs").exists()


def _remove(group: Path) -> None:
    for below in sorted(group.glob("**/"), reverse=True):
        eventually(partial(_try_rmdir, below), timeout=10, every=0.1)


def _try_rmdir(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError:
            return False
    return True
