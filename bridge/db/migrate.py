"""Bring a database's schema up to date: Alembic, called from the program."""

from __future__ import annotations

from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, text

from bridge.errors import ConfigError, Unavailable

# Any constant that nothing else in the same PostgreSQL database uses.
LOCK_KEY: Final = 7_064_110_325
LOCK_TIMEOUT_S: Final = 60
STATEMENT_TIMEOUT_S: Final = 3600


def config(conn: Connection | None = None) -> Config:
    """Alembic's configuration; the scripts are part of the package."""
    made = Config()
    made.set_main_option("script_location", "bridge.db:migrations")
    made.attributes["connection"] = conn
    return made


def upgrade(engine: Engine) -> None:
    """Run what is missing, in one transaction; other processes wait for it.

    Raises ConfigError when the schema is of a newer program.
    """
    with engine.connect() as conn:
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


def _execute(conn: Connection, *statements: str) -> None:
    for statement in statements:
        conn.exec_driver_sql(statement)
