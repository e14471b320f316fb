"""Retries by cause, fair share, usage.

Rewrites one index of ``jobs``: about two seconds at a million waiting jobs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    zero = sa.text("0")
    op.add_column(
        "jobs", sa.Column("oom_retry_mb", sa.Integer(), nullable=False, server_default=zero)
    )
    op.add_column("jobs", sa.Column("retries", sa.Integer(), nullable=False, server_default=zero))
    op.add_column("jobs", sa.Column("not_before", sa.Double()))
    op.drop_index("ix_jobs_waiting", "jobs")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["group_id", sa.text("priority DESC"), "user_id", "id"],
        sqlite_where=sa.text("state = 'received' AND hold = 0"),
        postgresql_where=sa.text("state = 'received' AND NOT hold"),
    )
    op.create_table(
        "shares",
        sa.Column("user_id", sa.LargeBinary(16), nullable=False),
        sa.Column("core_seconds", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_shares_user_id")),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_shares")),
    )
    op.create_table(
        "usage",
        sa.Column("user_id", sa.LargeBinary(16), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("core_seconds", sa.Double(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_usage_user_id")),
        sa.PrimaryKeyConstraint("user_id", "month", name=op.f("pk_usage")),
    )
