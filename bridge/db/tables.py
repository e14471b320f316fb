"""The tables. Migrations make them (``migrations/``); a test compares the two.

Ids are 16 bytes in time order, times Unix seconds, words plain strings (never
native enums: those cannot grow in one migration on both databases).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
    text,
)
from sqlalchemy.schema import SchemaItem

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _id(name: str, *args: object, **kwargs: object) -> Column[bytes]:
    return Column(name, LargeBinary(16), *args, **kwargs)  # type: ignore[arg-type]


# One row: who this bridge is. ``name`` is part of every native id.
instance: Final = Table(
    "instance",
    metadata,
    Column(
        "id", Integer, CheckConstraint("id = 1", name="only"), primary_key=True, autoincrement=False
    ),
    Column("name", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("epoch_started_at", Double, nullable=False),
    Column("swept_at", Double),  # first full sweep of this epoch
)

groups: Final = Table(
    "groups",
    metadata,
    _id("id", primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("token", String(58), nullable=False, unique=True),
    Column("compute_hash", LargeBinary(32)),
    Column("generation", String(64)),
    Column("previous_generation", String(64)),  # of nodes that still take jobs until then
    Column("previous_until", Double),
    Column("requires_limits", Boolean, nullable=False, server_default=false()),
    Column("live_at_most", Integer),  # of its jobs; see db/quotas.py
    Column("connector", String(64), nullable=False),
    Column("namespace", String(128), nullable=False),
    Column("node_pool", String(128), nullable=False),
    Column("created_at", Double, nullable=False),
)

users: Final = Table(
    "users",
    metadata,
    _id("id", primary_key=True),
    _id("group_id", ForeignKey("groups.id"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
    Column("live_at_most", Integer),
    UniqueConstraint("group_id", "name"),
)

jobs: Final = Table(
    "jobs",
    metadata,
    _id("id", primary_key=True),
    _id("group_id", ForeignKey("groups.id"), nullable=False),
    _id("user_id", ForeignKey("users.id"), nullable=False),
    _id("bucket_id", nullable=False),
    Column("image", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("set_name", String(255)),
    Column("cores", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("time_limit_s", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("hold", Boolean, nullable=False),
    Column("input_sha256", String(64)),
    Column("labels", Text),  # JSON object, NULL when empty
    Column("oom_retry_mb", Integer, nullable=False, server_default=text("0")),
    Column("state", String(16), nullable=False),
    Column("phase", String(16)),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False, server_default=text("0")),
    Column("not_before", Double),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("exit_code", Integer),
    Column("cause", String(16)),
    Column("node", String(255)),
    Column("cancel_requested_at", Double),
    Column("prune_requested_at", Double),
    Column("pruned_at", Double),
    Column("pinned_to", String(64)),  # the only node that may run it: the self-test of a node
    Column("attempts_before", Integer),  # attempts when somebody last had it tried again
    UniqueConstraint("group_id", "bucket_id"),
)
# Conditions of partial indexes. A query finds such an index only if it says the same
# with constants, not parameters: use these in queries too.
is_waiting: Final = and_(
    jobs.c.state == literal_column("'received'"), ~jobs.c.hold, jobs.c.pinned_to.is_(None)
)
is_under_way: Final = and_(
    jobs.c.state.in_([literal_column("'submitted'"), literal_column("'running'")]),
    jobs.c.pinned_to.is_(None),
)
is_selftest: Final = jobs.c.pinned_to.is_not(None)
in_a_set: Final = jobs.c.set_name.is_not(None)
# Lists, newest first within each state: of a group, of a user, of a set. A list of all
# states merges six of them; so no list reads more than it shows, however rare a state is.
# In a set many users may have jobs: with the user in the index, counting those of one
# reads no job.
Index("ix_jobs_state", jobs.c.group_id, jobs.c.state, jobs.c.id)
Index("ix_jobs_user", jobs.c.group_id, jobs.c.user_id, jobs.c.state, jobs.c.id)
Index(
    "ix_jobs_set",
    jobs.c.group_id,
    jobs.c.set_name,
    jobs.c.state,
    jobs.c.id,
    jobs.c.user_id,
    sqlite_where=in_a_set,
    postgresql_where=in_a_set,
)
# Who goes next: only what waits, in the order the queue reads it.
Index(
    "ix_jobs_waiting",
    jobs.c.group_id,
    jobs.c.priority.desc(),
    jobs.c.user_id,
    jobs.c.id,
    sqlite_where=is_waiting,
    postgresql_where=is_waiting,
)
# What members have under way, with all that is added up: few entries among many jobs.
Index(
    "ix_jobs_under_way",
    jobs.c.group_id,
    jobs.c.user_id,
    jobs.c.state,
    jobs.c.cores,
    jobs.c.started_at,
    sqlite_where=is_under_way,
    postgresql_where=is_under_way,
)
# Self-tests are few, and in nobody's list.
Index(
    "ix_jobs_selftests",
    jobs.c.group_id,
    jobs.c.state,
    jobs.c.id,
    sqlite_where=is_selftest,
    postgresql_where=is_selftest,
)

attempts: Final = Table(
    "attempts",
    metadata,
    _id("id", primary_key=True),
    _id("job_id", ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("connector", String(64), nullable=False),
    Column("native_id", String(128), nullable=False, unique=True),
    Column("namespace", String(128), nullable=False),
    Column("state", String(16), nullable=False),
    _id("claim_token"),
    Column("claim_expires_at", Double),
    Column("claimed_at", Double, nullable=False),
    Column("submitted_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("node", String(255)),
    Column("exit_code", Integer),
    Column("cause", String(16)),
    Column("reason", Text),
    Column("stop_cause", String(16)),
    Column("stop_requested_at", Double),
    Column("stop_sent_at", Double),
    Column("missing_since", Double),
    Column("unknown_since", Double),
    Column("forgotten_at", Double),
    Column("recorded_at", Double),  # when we stored that it ended; it may have ended long before
    Column("generations", String(130)),  # of nodes that may run it, by a space; NULL: any
    UniqueConstraint("job_id", "number"),
)
is_live: Final = attempts.c.state != literal_column("'ended'")
is_to_forget: Final = and_(
    attempts.c.state == literal_column("'ended'"), attempts.c.forgotten_at.is_(None)
)
Index(
    "ix_attempts_live",
    attempts.c.connector,
    attempts.c.id,
    sqlite_where=is_live,
    postgresql_where=is_live,
)
Index(
    "ix_attempts_to_forget",
    attempts.c.connector,
    attempts.c.recorded_at,
    sqlite_where=is_to_forget,
    postgresql_where=is_to_forget,
)

# Oldest end first, for the archive.
has_ended: Final = jobs.c.ended_at.is_not(None)
Index("ix_jobs_ended", jobs.c.ended_at, sqlite_where=has_ended, postgresql_where=has_ended)


def _archive_of(table: Table, *more: SchemaItem) -> Table:
    """Every column of ``table``, so that rows go there and back as they are."""
    columns = (
        Column(one.name, one.type, primary_key=one.primary_key, nullable=one.nullable)
        for one in table.columns
    )
    return Table(f"{table.name}_archive", metadata, *columns, *more)


# Jobs that ended long ago, with their attempts: found by id and by bucket, in no list.
jobs_archive: Final = _archive_of(jobs, UniqueConstraint("group_id", "bucket_id"))
attempts_archive: Final = _archive_of(attempts, UniqueConstraint("job_id", "number"))
# To give the data of a whole set up.
keeps_data_of_a_set: Final = and_(
    jobs_archive.c.set_name.is_not(None), jobs_archive.c.pruned_at.is_(None)
)
Index(
    "ix_jobs_archive_set",
    jobs_archive.c.group_id,
    jobs_archive.c.set_name,
    jobs_archive.c.id,
    sqlite_where=keeps_data_of_a_set,
    postgresql_where=keeps_data_of_a_set,
)

# Machines that groups let in. A name is enrolled once; enrolling again renews it.
nodes: Final = Table(
    "nodes",
    metadata,
    _id("id", primary_key=True),
    _id("group_id", ForeignKey("groups.id"), nullable=False),
    Column("name", String(63), nullable=False),
    Column("native_id", String(64)),  # the scheduler's, once it has registered
    Column("generation", String(64), nullable=False),
    Column("facts", Text, nullable=False),  # JSON, as the node told them
    Column("enrolled_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("failures", Integer, nullable=False, server_default=text("0")),  # in a row
    Column("last_failure", Text),
    Column("quarantined_at", Double),
    Column("quarantine_reason", Text),
    Column("drained_at", Double),
    Column("drained_by", String(64)),
    Column("barred", Text),  # why the bridge itself made it ineligible
    Column("selftest_at", Double),
    Column("selftest_ok", Boolean),
    Column("selftest_detail", Text),
    Column("removed_at", Double),
    UniqueConstraint("group_id", "name"),
)

# What each user used lately, for fair share: core-seconds as they counted at ``at``.
shares: Final = Table(
    "shares",
    metadata,
    _id("user_id", ForeignKey("users.id"), primary_key=True),
    Column("core_seconds", Double, nullable=False),
    Column("at", Double, nullable=False),
)

# What each user used in a month (UTC, YYYY-MM); stays when jobs go.
usage: Final = Table(
    "usage",
    metadata,
    _id("user_id", ForeignKey("users.id"), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("core_seconds", Double, nullable=False),
    Column("gpu_seconds", Double, nullable=False),
)

# Who may do what only one of several processes may; ``fence`` grows with each change of hands.
leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(128), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("told", Text),  # by the holder, to all processes
)

# Who did what. Never a secret, a bucket id or user data.
audit: Final = Table(
    "audit",
    metadata,
    _id("id", primary_key=True),
    Column("at", Double, nullable=False),
    _id("group_id"),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("detail", Text),
)
Index("ix_audit_group", audit.c.group_id, audit.c.id)
