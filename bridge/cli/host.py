"""The service's own configuration and database, for commands on its host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.process import environment

if TYPE_CHECKING:
    from bridge.app import Bridge
    from bridge.config import Config
    from bridge.core.groups import Groups
    from bridge.models.identity import Group


def loaded(path: Path, **flags: object) -> Config:
    """A configuration: the file, over that the environment, over that the flags.

    Flags are named ``section__key``. Raises ConfigError.
    """
    from bridge import config

    given = {name.replace("__", "."): value for name, value in flags.items()}
    return config.load(path, environment(), given)


@contextmanager
def wired(config: Config) -> Iterator[Bridge]:
    """Everything of the service, nothing of it running. Raises ConfigError, Unavailable."""
    from bridge import app

    bridge = app.build(config)
    try:
        yield bridge
    finally:
        bridge.close()


@contextmanager
def opened(path: Path) -> Iterator[Groups]:
    """The groups in the database of a configuration. Raises ConfigError, Unavailable."""
    with wired(loaded(path)) as bridge:
        yield bridge.groups


def known_groups(config: Config) -> list[Group]:
    """The groups in the database, without asking any scheduler. Raises Unavailable."""
    from bridge import app
    from bridge.core.groups import Groups

    db = app.open_database(config)
    try:
        return Groups(db).list_groups()
    finally:
        db.close()
