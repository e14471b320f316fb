"""``nomad-bridge init``: a folder that `serve` comes up on with no further step."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bridge import process
from bridge.cli.host import loaded, wired
from bridge.cli.signals import uninterrupted
from bridge.errors import ConfigError, ProcessError

if TYPE_CHECKING:
    from bridge.app import Bridge
    from bridge.config import Config

_ENGINE_S: Final = 10.0
_CONFIG: Final = """\
# Made by `nomad-bridge init`. All settings: config.example.yaml, docs/configuration.md
data_dir: .
connectors: [local]
server:
  bind: {bind}
local:
  # docker: every job in a container. process: as plain programs, WITHOUT ANY ISOLATION.
  runtime: {runtime}
storage:
  embedded: true
  bind: {s3_bind}
"""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the operator asks for. Binds are HOST:PORT; ``runtime`` docker or process."""

    group: str
    admin: str
    user: str
    bind: str
    s3_bind: str
    runtime: str


def best_runtime() -> str:
    """``docker`` if an engine answers, else ``process``."""
    try:
        asked = process.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            timeout=_ENGINE_S,
            env=process.environment(),
        )
    except ProcessError:
        return "process"
    return "docker" if asked.returncode == 0 else "process"


def initialise(directory: Path, wanted: Wanted) -> None:
    """Make the folder with everything in it, or nothing at all.

    Raises ConfigError when the folder is in use already or a setting does not do.
    """
    if wanted.admin == wanted.user:
        raise ConfigError(
            f"admin and user are both {wanted.admin!r}",
            "Daily work is done as a regular user; give the two different names.",
        )
    directory = directory.absolute()
    try:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(
                f"{directory} is not empty", "Choose a new folder: init never overwrites."
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Next to it, so that it appears complete, by one rename.
        draft = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            _fill(draft, wanted)
            draft.rename(directory)
        except BaseException as error:
            shutil.rmtree(draft)
            if isinstance(error, ConfigError):
                # What is wrong is what was asked for; the draft is no more.
                text = error.message.replace(str(draft), str(directory))
                raise ConfigError(text, error.hint) from error
            raise
    except OSError as error:
        raise ConfigError(
            f"{error.filename or directory} cannot be made: {error.strerror}",
            "Choose a folder that you may write to.",
        ) from error


def _fill(draft: Path, wanted: Wanted) -> None:
    path = draft / "config.yaml"
    # JSON strings are YAML strings, whatever is in them.
    quoted = {key: json.dumps(value) for key, value in asdict(wanted).items()}
    path.write_text(_CONFIG.format(**quoted), "utf-8")
    config = loaded(path)
    with wired(config) as bridge:
        group, admin_secret = bridge.groups.add_group(
            wanted.group, wanted.admin, connector=config.connectors[0]
        )
        admin = bridge.access.by_secret(admin_secret)
        secret = bridge.groups.add_user(admin, wanted.user, admin=False)
        compute_secret = bridge.groups.rotate_compute_secret(admin)
        s3_server, access, key = _storage(bridge, config, group.code_bucket)
    url = config.server.public_url or f"http://{_reachable(config.server.bind)}"
    _write_secret(
        draft / "credentials.env",
        {
            "BRIDGE_URL": url,
            "BRIDGE_GROUP_TOKEN": group.token,
            "BRIDGE_API_SECRET": secret,
            "BRIDGE_ADMIN_SECRET": admin_secret,
            "BRIDGE_COMPUTE_SECRET": compute_secret,
            "BRIDGE_S3_SERVER": s3_server,
            "BRIDGE_S3_ACCESS": access,
            "BRIDGE_S3_SECRET": key,
            "LERULI_BASEURL": url,
            "LERULI_API_SECRET": secret,
            "LERULI_S3_SERVER": s3_server,
            "LERULI_S3_ACCESS": access,
            "LERULI_S3_SECRET": key,
        },
    )
    etc = draft / "node" / "etc"
    etc.mkdir(parents=True)
    _write_secret(etc / "s3.conf", {"S3_SERVER": s3_server, "S3_ACCESS": access, "S3_SECRET": key})


def _storage(bridge: Bridge, config: Config, code_bucket: str) -> tuple[str, str, str]:
    """Make the embedded store's keys and the code bucket; returns URL and keys."""
    from bridge.client.storage import Storage

    embedded = bridge.storage
    if embedded is None:
        # The environment may say so; the file that was just written does not.
        raise ConfigError("storage.embedded is off", "Unset NOMAD_BRIDGE_STORAGE_EMBEDDED.")
    # It would outlive us: interrupted in between, nobody would know of it.
    with uninterrupted():
        embedded.start()
        try:
            Storage(embedded.server, *embedded.keys).make_bucket(code_bucket)
        finally:
            embedded.stop()
    return (config.storage.server or embedded.server, *embedded.keys)


def _reachable(bind: str) -> str:
    """The address at which this machine reaches a service that listens on ``bind``."""
    for everywhere, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if bind.startswith(everywhere):
            return here + bind.removeprefix(everywhere)
    return bind


def _write_secret(path: Path, values: Mapping[str, str]) -> None:
    """Plain ``NAME=value`` lines in a file that only its owner reads."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
