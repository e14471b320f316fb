"""Bring a database's schema up to date: Alembic, called from the program."""

from __future__ import annotations

from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, text

from bridge.errors import ConfigError, Unavailable

# Any constant that nothing else in the same PostgreSQL database uses.
LOCK_KEY: Final = 7_064_110_325
LOCK_TIMEOUT_S: Final = 60
STATEMENT_TIMEOUT_S: Final = 3600
ENCODING: Final = "UTF8"


def config(conn: Connection | None = None) -> Config:
    """Alembic's configuration; the scripts are part of the package."""
    made = Config()
    made.set_main_option("script_location", "bridge.db:migrations")
    made.attributes["connection"] = conn
    return made


def revisions() -> list[str]:
    """Every version of the schema that this program knows, newest first."""
    scripts = ScriptDirectory.from_config(config())
    return [script.revision for script in scripts.walk_revisions()]


def refuse_encoding(conn: Connection) -> None:
    """Raises ConfigError for a PostgreSQL database that cannot store every text."""
    if conn.dialect.name != "postgresql":
        return
    encoding = conn.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != ENCODING:
        raise ConfigError(
            f"The PostgreSQL database has the encoding {encoding}, not {ENCODING}.",
            "Make another one: createdb --encoding=UTF8 --template=template0 NAME. What is"
            " stored goes there by `nomad-bridge db backup` and, with the new URL, `db restore`.",
        )


def upgrade(engine: Engine) -> None:
    """Run what is missing, in one transaction; other processes wait for it.

    Raises ConfigError when the schema is of a newer program, or as ``refuse_encoding``.
    """
    with engine.connect() as conn:
        refuse_encoding(conn)
        # Most often. Others write to SQLite meanwhile, and checking every reference takes long.
        if _is_newest(conn):
            return
        conn.rollback()
        _lock(conn)
        try:
            command.upgrade(config(conn), "head")
        except CommandError:
            raise ConfigError(
                "The database was made by a newer version of this program.",
                "Run that version, or restore a backup from before the upgrade.",
            ) from None
        if conn.dialect.name == "sqlite" and conn.execute(text("PRAGMA foreign_key_check")).first():
            raise Unavailable("The upgrade would break references between tables; nothing changed.")
        conn.commit()


def _is_newest(conn: Connection) -> bool:
    return MigrationContext.configure(conn).get_current_heads() == tuple(revisions()[:1])


def _lock(conn: Connection) -> None:
    if conn.dialect.name == "sqlite":
        # Rebuilding a table drops it; its references are checked at the end instead.
        _execute(
            conn,
            "PRAGMA foreign_keys = OFF",
            f"PRAGMA busy_timeout = {LOCK_TIMEOUT_S * 1000}",
            "BEGIN IMMEDIATE",
        )
    else:
        _execute(
            conn,
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'",
            f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
            f"SELECT pg_advisory_xact_lock({LOCK_KEY})",
        )


def _execute(conn: Connection, *statements: str) -> None:
    for statement in statements:
        conn.exec_driver_sql(statement)
