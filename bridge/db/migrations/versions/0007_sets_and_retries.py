"""Sets of many users, sets in the archive, where a retry begins to count, bounds for quotas.

Rewrites one index of ``jobs`` and adds one to the archive: a second or two each at a
million jobs in sets.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for table in ("jobs", "jobs_archive"):
        op.add_column(table, sa.Column("attempts_before", sa.Integer()))
    for table in ("groups", "users"):
        op.add_column(table, sa.Column("live_at_most", sa.Integer()))
    op.drop_index("ix_jobs_set", "jobs")
    op.create_index(
        "ix_jobs_set",
        "jobs",
        ["group_id", "set_name", "state", "id", "user_id"],
        sqlite_where=sa.text("set_name IS NOT NULL"),
        postgresql_where=sa.text("set_name IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_archive_set",
        "jobs_archive",
        ["group_id", "set_name", "id"],
        sqlite_where=sa.text("set_name IS NOT NULL AND pruned_at IS NULL"),
        postgresql_where=sa.text("set_name IS NOT NULL AND pruned_at IS NULL"),
    )
