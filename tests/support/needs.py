"""What a test needs from the machine, and what happens when it is missing.

``@pytest.mark.needs("docker")`` or ``need("docker")`` skips a test with a reason
that names the missing thing. Where ``BRIDGE_TEST_REQUIRE`` names it too
(``docker,postgres``), the test fails instead: there it should have run.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge import process
from bridge.errors import ProcessError
from tests.support import leruli, machine, user_systemd

REASON = "needs "
IMAGE = "busybox:1"


def required() -> frozenset[str]:
    """What must be there on this machine."""
    names = os.environ.get("BRIDGE_TEST_REQUIRE", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def need(name: str) -> None:
    """Go on if ``name`` can be used here; else skip, or fail where it is required."""
    lacking = missing(name)
    if lacking is None:
        return
    reason = f"{REASON}{name}: {lacking}"
    if name in required():
        pytest.fail(f"{reason} (named in BRIDGE_TEST_REQUIRE)", pytrace=False)
    pytest.skip(reason)


def may_be_skipped(reason: str) -> bool:
    """Whether a skip is fine here: nothing is required, or just not this."""
    text = reason.removeprefix("Skipped: ")
    name = text.removeprefix(REASON).partition(":")[0]
    return not required() or (text.startswith(REASON) and name not in required())


@functools.cache
def missing(name: str) -> str | None:
    """What is missing for ``name``, or None."""
    return _CHECKS[name]()


def postgres_programs() -> Path | None:
    """The folder that holds initdb and postgres, the newest version first."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def _version(folder: Path) -> int:
    return int(folder.parent.name) if folder.parent.name.isdigit() else 0


def _postgres() -> str | None:
    if postgres_programs() is None:
        return "no PostgreSQL server programs (initdb, postgres) found"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL refuses root and there is no user postgres"
    return None


def _docker() -> str | None:
    try:
        answer = process.run(["docker", "image", "inspect", IMAGE], timeout=60, env=_docker_env())
    except ProcessError as error:
        return str(error)
    return None if answer.returncode == 0 else answer.stderr.strip()


def _docker_env() -> dict[str, str]:
    names = ("DOCKER_HOST", "XDG_RUNTIME_DIR")
    return process.clean_environment({n: os.environ[n] for n in names if n in os.environ})


def _program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"{name} is not on the PATH"


def _rootless() -> str | None:
    """What rootless Docker and a node's scripts are made of, as Debian brings it."""
    lacking = [name for name in machine.PROGRAMS if not shutil.which(name)]
    lacking += [str(file) for file in machine.FILES if not file.exists()]
    return f"not there: {', '.join(lacking)}" if lacking else None


_PROGRAMS = ("bats", "minio", "nginx", "nomad", "pg_dump", "shellcheck", "tmux", "wrk")
_CHECKS: dict[str, Callable[[], str | None]] = {
    "docker": _docker,
    "leruli": lambda: None if leruli.PROGRAM.exists() else "run `make test` once, online",
    "postgres": _postgres,
    "rootless-docker": _rootless,
    "systemd": user_systemd.missing,
    "root": lambda: None if os.geteuid() == 0 else "this is not root",
    "unprivileged": lambda: "root may do everything" if os.geteuid() == 0 else None,
} | {name: _program(name) for name in _PROGRAMS}
