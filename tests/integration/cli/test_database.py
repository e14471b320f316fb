from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.app import open_database
from bridge.cli.host import loaded
from bridge.cli.main import cli
from bridge.db import instance


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text("data_dir: .\n")
    return file


def db(config: Path, verb: str, *arguments: object) -> Result:
    command = ["db", verb, "--config", str(config), *map(str, arguments)]
    return CliRunner().invoke(cli, command)


def test_upgrade_backup_and_restore(config: Path, tmp_path: Path) -> None:
    assert db(config, "upgrade").exit_code == 0
    database = open_database(loaded(config))
    name = database.write(instance.get_or_create).name
    file = tmp_path / "backup"
    assert db(config, "backup", file).exit_code == 0  # while it is in use
    refused = db(config, "restore", file)
    assert refused.exit_code != 0 and "in use" in refused.output
    database.close()

    done = db(config, "restore", file)
    assert done.exit_code == 0 and "epoch 2" in done.output
    database = open_database(loaded(config))
    after = database.write(instance.get_or_create)
    assert (after.name, after.epoch) == (name, 2)
    database.close()


def test_a_backup_is_never_overwritten(config: Path, tmp_path: Path) -> None:
    assert db(config, "upgrade").exit_code == 0
    file = tmp_path / "backup"
    assert db(config, "backup", file).exit_code == 0
    again = db(config, "backup", file)
    assert again.exit_code != 0 and "never overwritten" in again.output


def test_something_else_is_no_backup(config: Path, tmp_path: Path) -> None:
    assert db(config, "upgrade").exit_code == 0
    refused = db(config, "restore", config)
    assert refused.exit_code != 0 and "no backup" in refused.output
