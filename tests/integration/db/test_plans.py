"""How statements are carried out: by an index, however many rows there are.

PostgreSQL reads small tables whole, whatever the index; so it is told not to.
What then still is a scan or a sort has no index that fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text

from bridge.db import attempts, jobs, queue
from bridge.db.engine import Connection
from bridge.db.jobs import JobFilter
from bridge.models.job import JobState
from tests.integration.db.conftest import NOW, Lab, new_job, waiting

Statement = Callable[[Connection, Lab], Any]


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
    "find": (find(), "ix_jobs_state"),
    "find state": (find(state=JobState.RUNNING), "ix_jobs_state"),
    "find user": (find(user="ada"), "ix_jobs_user"),
    "find user state": (find(user="ada", state=JobState.FAILED), "ix_jobs_user"),
    "find set": (find(set="s"), "ix_jobs_set"),
    "get_many": (lambda conn, lab: jobs.get_many(conn, [uuid4()]), "jobs"),
    "move": (
        lambda conn, lab: jobs.move(conn, uuid4(), frm={JobState.RECEIVED}, to=JobState.SUBMITTED),
        "jobs",
    ),
    "live": (
        lambda conn, lab: attempts.live(conn, "local", now=NOW, after=None, limit=10),
        "ix_attempts_live",
    ),
    "to_forget": (
        lambda conn, lab: attempts.to_forget(conn, "local", before=NOW, limit=10),
        "ix_attempts_to_forget",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_uses_its_index(full: Lab, case: str) -> None:
    statement, index = CASES[case]
    steps = plan(full, statement)
    assert index in steps, steps
    # The few groups may be read whole, and the rows of one page sorted.
    for line in steps.splitlines():
        assert not line.startswith(("SCAN jobs", "SCAN attempts")), steps
        assert "Seq Scan on jobs" not in line, steps
        assert "Seq Scan on attempts" not in line, steps
