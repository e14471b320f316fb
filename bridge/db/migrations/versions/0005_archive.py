"""The archive: jobs that ended long ago, out of the way of the others.

Adds one index to ``jobs``: about a second at a million ended jobs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_index(
        "ix_jobs_ended",
        "jobs",
        ["ended_at"],
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    _jobs()
    _attempts()


def _jobs() -> None:
    op.create_table(
        "jobs_archive",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("group_id", sa.LargeBinary(16), nullable=False),
        sa.Column("user_id", sa.LargeBinary(16), nullable=False),
        sa.Column("bucket_id", sa.LargeBinary(16), nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("set_name", sa.String(255)),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("time_limit_s", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("hold", sa.Boolean(), nullable=False),
        sa.Column("input_sha256", sa.String(64)),
        sa.Column("labels", sa.Text()),
        sa.Column("oom_retry_mb", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("cause", sa.String(16)),
        sa.Column("node", sa.String(255)),
        sa.Column("cancel_requested_at", sa.Double()),
        sa.Column("prune_requested_at", sa.Double()),
        sa.Column("pruned_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs_archive")),
        sa.UniqueConstraint(
            "group_id", "bucket_id", name=op.f("uq_jobs_archive_group_id_bucket_id")
        ),
    )


def _attempts() -> None:
    op.create_table(
        "attempts_archive",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("job_id", sa.LargeBinary(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("native_id", sa.String(128), nullable=False),
        sa.Column("namespace", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("claim_token", sa.LargeBinary(16)),
        sa.Column("claim_expires_at", sa.Double()),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("submitted_at", sa.Double()),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("node", sa.String(255)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("cause", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("stop_cause", sa.String(16)),
        sa.Column("stop_requested_at", sa.Double()),
        sa.Column("stop_sent_at", sa.Double()),
        sa.Column("missing_since", sa.Double()),
        sa.Column("unknown_since", sa.Double()),
        sa.Column("forgotten_at", sa.Double()),
        sa.Column("recorded_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts_archive")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempts_archive_job_id_number")),
    )
