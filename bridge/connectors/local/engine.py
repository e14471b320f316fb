"""The Docker engine, asked through its command line.

Standard library only: the supervisor imports this and must start fast.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from bridge import process
from bridge.errors import ProcessError
from bridge.models.image import image_on_node

_TIMEOUT_S: Final = 60.0
_PROBE_TIMEOUT_S: Final = 10.0
# What the client says when it, rather than the engine, has failed.
_AWAY: Final = re.compile(
    r"cannot connect to the docker daemon|error during connect|is the docker daemon running"
    r"|docker daemon socket|connection refused|connection reset|\bEOF\b",
    re.IGNORECASE,
)

# Every reference the engine understands begins like this; nothing that does
# can be taken for an option.
_REFERENCE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]*")


class EngineAway(Exception):
    """The engine does not answer; nothing is known about what was asked."""


class EngineError(Exception):
    """The engine answered with an error."""


class EngineInfo(NamedTuple):
    """What the engine can do. Without a limit it runs containers unlimited."""

    version: str
    rootless: bool
    live_restore: bool
    cores: int
    limits_memory: bool
    limits_swap: bool
    limits_cores: bool
    limits_pids: bool


class ContainerState(NamedTuple):
    """What the engine says of one container."""

    running: bool
    started: bool
    exit_code: int
    oom_killed: bool
    error: str


class Engine:
    """One engine. Every call ends within a minute; raises EngineAway, EngineError."""

    def __init__(self, host: str = "") -> None:
        self._env = process.clean_environment({"DOCKER_HOST": host} if host else None)

    def command(self, *arguments: str) -> list[str]:
        """The argument list that asks this engine; to be run with ``environment``."""
        return ["docker", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of ``command``."""
        return self._env

    def call(self, *arguments: str, timeout: float = _TIMEOUT_S) -> str:
        """Ask the engine and return what it prints."""
        try:
            done = process.run(self.command(*arguments), timeout=timeout, env=self._env)
        except ProcessError as error:
            raise EngineAway(error.message) from error
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.strip() or f"docker {arguments[0]} ended with {done.returncode}"
        if _AWAY.search(said) or not self.answers():
            raise EngineAway(said)
        raise EngineError(said)

    def answers(self) -> bool:
        """Whether the engine can be asked now."""
        version = self.command("version", "--format", "{{.Server.Version}}")
        try:
            return process.run(version, timeout=_PROBE_TIMEOUT_S, env=self._env).returncode == 0
        except ProcessError:
            return False

    def info(self) -> EngineInfo:
        """What the engine can do."""
        said = self.call("info", "--format", "{{json .}}", timeout=_PROBE_TIMEOUT_S)
        found: dict[str, Any] = json.loads(said)
        if not found.get("ServerVersion"):
            # Some clients print their own half and end with 0.
            raise EngineAway("; ".join(found.get("ServerErrors") or ["no answer"]))
        return EngineInfo(
            version=found["ServerVersion"],
            rootless=any("rootless" in option for option in found.get("SecurityOptions") or ()),
            live_restore=bool(found.get("LiveRestoreEnabled")),
            cores=int(found.get("NCPU") or 1),
            limits_memory=bool(found.get("MemoryLimit")),
            limits_swap=bool(found.get("SwapLimit")),
            limits_cores=bool(found.get("CpuCfsQuota")),
            limits_pids=bool(found.get("PidsLimit")),
        )

    def state(self, container: str) -> ContainerState | None:
        """How a container is, or None when there is none of that name."""
        try:
            text = self.call("container", "inspect", "--format", "{{json .State}}", "--", container)
        except EngineError as error:
            if "no such container" in str(error).lower():
                return None
            raise
        found = json.loads(text)
        return ContainerState(
            running=found["Running"],
            started=found["Status"] != "created",
            exit_code=found["ExitCode"],
            oom_killed=found["OOMKilled"],
            error=found.get("Error") or "",
        )

    def remove(self, container: str) -> None:
        """Kill and remove a container; one that is not there is no error."""
        try:
            self.call("container", "rm", "--force", "--volumes", "--", container)
        except EngineError as error:
            said = str(error).lower()
            if "no such container" not in said and "already in progress" not in said:
                raise


def run_reference(image: str) -> str:
    """Under which name a job's image runs here.

    A reference with a registry host (a dot, a port or ``localhost`` before the
    first slash, as Docker itself reads it) stays; any other is one of the
    group's own images. Raises ValueError when it is no reference.
    """
    if not _REFERENCE.fullmatch(image):
        raise ValueError(f"{image!r} is no image reference: use lower case NAME:VERSION")
    return image_on_node(image)


def missing_limits(info: EngineInfo) -> Sequence[str]:
    """What the engine cannot limit on this machine, in words."""
    able = {
        "memory": info.limits_memory,
        "cores": info.limits_cores,
        "processes": info.limits_pids,
    }
    return [what for what, ok in able.items() if not ok]
