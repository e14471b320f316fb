"""PostgreSQL: a pool, one transaction for each write, deadlines on everything."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, exc

from bridge import turns
from bridge.db.faults import can_retry, unsure
from bridge.db.statements import run
from bridge.errors import ConfigError

T = TypeVar("T")

CONNECTIONS: Final = 16
POOL_TIMEOUT_S: Final = 30.0
STATEMENT_TIMEOUT_MS: Final = 30_000
# How long others wait for what a transaction locks whose process is paused. Reads, upgrades
# and backups lock nothing that anybody waits for so soon, and may take longer.
WRITING_IDLE_TIMEOUT_MS: Final = 5_000
CONNECT_TIMEOUT_S: Final = 5
TRIES: Final = 5  # of a transaction that is undone because of another one


class Postgresql:
    """Reads see one moment; writes are tried again after a deadlock.

    Each call waits for the server, so it gives its turn to compute away.
    """

    def __init__(self, url: URL) -> None:
        """Raises ConfigError when the driver is not installed."""
        self.migrating: Final = _engine(url)
        self._reading = self.migrating.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._looking_up = self.migrating.execution_options(isolation_level="AUTOCOMMIT")

    @turns.given()
    def read(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn`` in a transaction that only reads."""
        with self._reading.connect() as conn:
            return fn(conn)

    @turns.given()
    def look_up(self, fn: Callable[[Connection], T]) -> T:
        """Run ``fn``, a single statement, without a transaction."""
        with self._looking_up.connect() as conn:
            return fn(conn)

    @turns.given()
    def write(self, fn: Callable[[Connection], T], lasting: bool = True) -> T:
        """Run ``fn`` in a transaction, several times if need be."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._transact(fn, lasting)
            except exc.DBAPIError as error:
                if tries == TRIES or not can_retry(error):
                    raise
            # Chance keeps two that met from meeting again.
            time.sleep(random.uniform(0, 0.02) * 2**tries)  # noqa: S311 - no secret

    def close(self) -> None:
        """Close every connection."""
        self.migrating.dispose()

    def _transact(self, fn: Callable[[Connection], T], lasting: bool) -> T:
        with self.migrating.connect() as conn:
            # Said, because what the driver runs by itself begins nothing here.
            transaction = conn.begin()
            run(conn, f"SET LOCAL idle_in_transaction_session_timeout = {WRITING_IDLE_TIMEOUT_MS}")
            if not lasting:
                run(conn, "SET LOCAL synchronous_commit = off")
            result = fn(conn)
            try:
                transaction.commit()
            except exc.DBAPIError as error:
                if error.connection_invalidated:
                    raise unsure(error) from None
                raise
            return result


def _engine(url: URL) -> Engine:
    try:
        return create_engine(
            url,
            hide_parameters=True,
            connect_args=_settings(url),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
        )
    except ImportError:
        raise ConfigError(
            "The PostgreSQL driver is not installed.", "Install nomad-bridge[postgres]."
        ) from None


def _settings(url: URL) -> dict[str, object]:
    """How to connect, beside what the URL says. Its deadlines and options count, but not
    another name, by which our processes know each other, nor encoding: in this one every
    text can be sent.
    """
    options = (
        f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
        f"-c idle_in_transaction_session_timeout={2 * STATEMENT_TIMEOUT_MS}",
        *url.normalized_query.get("options", ()),  # of one that is set twice the last counts
    )
    deadlines = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
    }
    return {name: limit for name, limit in deadlines.items() if name not in url.query} | {
        "application_name": "nomad-bridge",
        "client_encoding": "utf8",
        "options": " ".join(options),
    }
