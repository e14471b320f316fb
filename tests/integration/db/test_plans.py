"""How statements are carried out: by an index, however many rows there are.

PostgreSQL reads small tables whole, whatever the index; so it is told not to.
What then still is a scan or a sort has no index that fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from bridge.db import attempts, claims, jobs, queue, selftests, sets, statements, unconfigured
from bridge.db.engine import Connection
from bridge.db.jobs import JobFilter
from bridge.db.sets import JobSet
from bridge.models.job import JobState
from tests.integration.db.conftest import NOW, Lab, new_job, waiting

Statement = Callable[[Connection, Lab], Any]


@dataclass
class Noting:
    """A cursor of the driver that notes what it is asked."""

    cursor: Any
    asked: list[tuple[str, Any]]

    def execute(self, sql: str, parameters: Any) -> None:
        self.asked.append((sql, parameters))
        self.cursor.execute(sql, parameters)

    def executemany(self, sql: str, rows: Sequence[Any]) -> None:
        self.asked.extend((sql, row) for row in rows[:1])
        self.cursor.executemany(sql, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)


@contextmanager
def noting(
    cursor_of: Any, asked: list[tuple[str, Any]], conn: Connection, sql: str
) -> Iterator[Noting]:
    with cursor_of(conn, sql) as cursor:
        yield Noting(cursor, asked)


def plan(lab: Lab, statement: Statement) -> str:
    """The plans of all statements, one line for each step."""

    def run(conn: Connection) -> str:
        if conn.dialect.name == "postgresql":
            for setting in ("enable_seqscan", "enable_sort", "enable_bitmapscan"):
                conn.execute(text(f"SET LOCAL {setting} = off"))
        asked: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
            asked.append((sql, parameters))

        event.listen(conn, "before_cursor_execute", note)
        with patch.object(statements, "_cursor", partial(noting, statements._cursor, asked)):
            statement(conn, lab)
        event.remove(conn, "before_cursor_execute", note)
        word = "EXPLAIN QUERY PLAN" if conn.dialect.name == "sqlite" else "EXPLAIN"
        return "\n".join(
            str(row[-1])
            for sql, parameters in asked
            for row in conn.exec_driver_sql(f"{word} {sql}", parameters)
        )

    return lab.db.write(run)


@pytest.fixture
def full(lab: Lab) -> Lab:
    lab.insert(*(new_job(set="s" if n % 2 else None) for n in range(200)))
    if lab.db.dialect == "postgresql":
        lab.db.write(lambda conn: conn.execute(text("ANALYZE")))
    return lab


def find(**wanted: Any) -> Statement:
    return lambda conn, lab: jobs.find(conn, JobFilter(group_id=lab.group.id, **wanted), 10)


CASES: dict[str, tuple[Statement, str]] = {
    "waiting": (lambda conn, lab: waiting(conn, lab.group.id), "ix_jobs_waiting"),
    "groups_waiting": (lambda conn, lab: queue.groups_waiting(conn), "ix_jobs_waiting"),
    "under_way": (
        lambda conn, lab: queue.under_way(conn, lab.group.id, NOW, 60.0),
        "ix_jobs_under_way",
    ),
    "pending": (lambda conn, lab: queue.pending(conn, "local"), "ix_jobs_state"),
    "take": (lambda conn, lab: jobs.take(conn, [uuid4()]), "jobs"),
    "take waiting": (
        lambda conn, lab: jobs.take(conn, [one.id for one in waiting(conn, lab.group.id)]),
        "jobs",
    ),
    "any_expired": (
        lambda conn, lab: claims.any_expired(conn, "local", NOW),
        "ix_attempts_live",
    ),
    "waiting selftests": (lambda conn, lab: selftests.waiting(conn), "ix_jobs_selftests"),
    "find": (find(), "ix_jobs_state"),
    "find state": (find(state=JobState.RUNNING), "ix_jobs_state"),
    "find user": (find(user="ada"), "ix_jobs_user"),
    "find user state": (find(user="ada", state=JobState.FAILED), "ix_jobs_user"),
    "find set": (find(set="s"), "ix_jobs_set"),
    "sets": (lambda conn, lab: sets.summaries(conn, lab.group.id, limit=10), "ix_jobs_set"),
    "sets of a user": (
        lambda conn, lab: sets.summaries(conn, lab.group.id, lab.ada.id, limit=10),
        "ix_jobs_set",
    ),
    "one set": (lambda conn, lab: sets.summaries(conn, lab.group.id, name="s"), "ix_jobs_set"),
    "failed_by_user": (
        lambda conn, lab: sets.failed_by_user(conn, JobSet(lab.group.id, "s")),
        "ix_jobs_set",
    ),
    "hold a set": (
        lambda conn, lab: sets.set_hold(
            conn, JobSet(lab.group.id, "few", lab.ada.id), hold=True, after=sets.BEGIN, limit=10
        ),
        "ix_jobs_set",
    ),
    "get_many": (lambda conn, lab: jobs.get_many(conn, [uuid4()]), "jobs"),
    "move": (
        lambda conn, lab: jobs.move(conn, uuid4(), frm={JobState.RECEIVED}, to=JobState.SUBMITTED),
        "jobs",
    ),
    "live": (
        lambda conn, lab: attempts.live(conn, "local", now=NOW, after=None, limit=10),
        "ix_attempts_live",
    ),
    "unconfigured": (
        lambda conn, lab: unconfigured.connectors(conn, []),
        "ix_attempts_live",
    ),
    "unconfigured ended ones": (
        lambda conn, lab: unconfigured.connectors(conn, []),
        "ix_attempts_to_forget",
    ),
    "to_forget": (
        lambda conn, lab: attempts.to_forget(conn, "local", before=NOW, limit=10),
        "ix_attempts_to_forget",
    ),
    "namespaces": (lambda conn, lab: attempts.namespaces(conn, "local"), "ix_attempts_live"),
    "namespaces to forget": (
        lambda conn, lab: attempts.namespaces(conn, "local"),
        "ix_attempts_to_forget",
    ),
    "ended selftests": (lambda conn, lab: selftests.ended(conn, NOW, 10), "ix_jobs_selftests"),
}
# The index finds a set by its name.
BY_NAME = re.compile(
    r"ix_jobs_set \(group_id=\? AND set_name=\?|Index Cond: .*group_id = .*\bset_name\b\S* = "
)


@pytest.mark.parametrize("case", CASES)
def test_uses_its_index(full: Lab, case: str) -> None:
    statement, index = CASES[case]
    steps = plan(full, statement)
    assert index in steps, steps
    # The few groups may be read whole, and the rows of one page sorted.
    for line in steps.splitlines():
        whole = line.removesuffix(" USING INDEX ix_jobs_selftests")  # which is always small
        assert whole != line or not line.startswith(("SCAN jobs", "SCAN attempts")), steps
        assert "Seq Scan on jobs" not in line, steps
        assert "Seq Scan on attempts" not in line, steps


@pytest.mark.parametrize("case", ["one set", "failed_by_user"])
def test_reads_only_the_set_it_is_about(full: Lab, case: str) -> None:
    steps = plan(full, CASES[case][0])
    assert BY_NAME.search(steps), steps


# PostgreSQL may read so few jobs at once.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("case", ["sets", "sets of a user"])
def test_a_page_reads_only_the_sets_it_shows(full: Lab, case: str) -> None:
    steps = plan(full, CASES[case][0])
    assert BY_NAME.search(steps), steps
