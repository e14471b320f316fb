"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("group_id", sa.LargeBinary(16)),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_group", "audit", ["group_id", "id"])

    op.create_table(
        "groups",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("token", sa.String(58), nullable=False),
        sa.Column("compute_hash", sa.LargeBinary(32)),
        sa.Column("generation", sa.String(64)),
        sa.Column("connector", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(128), nullable=False),
        sa.Column("node_pool", sa.String(128), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_groups_name")),
        sa.UniqueConstraint("token", name=op.f("uq_groups_token")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("epoch_started_at", sa.Double(), nullable=False),
        sa.Column("swept_at", sa.Double()),
        sa.CheckConstraint("id = 1", name=op.f("ck_instance_only")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("group_id", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.Column("last_used_at", sa.Double()),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_users_group_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("group_id", "name", name=op.f("uq_users_group_id_name")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_users_secret_hash")),
    )
    op.create_table(
        "jobs",
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
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16)),
        sa.Column("reason", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("cause", sa.String(16)),
        sa.Column("node", sa.String(255)),
        sa.Column("cancel_requested_at", sa.Double()),
        sa.Column("prune_requested_at", sa.Double()),
        sa.Column("pruned_at", sa.Double()),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name=op.f("fk_jobs_group_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_jobs_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("group_id", "bucket_id", name=op.f("uq_jobs_group_id_bucket_id")),
    )
    op.create_index(
        "ix_jobs_set",
        "jobs",
        ["group_id", "set_name", "state", "id"],
        sqlite_where=sa.text("set_name IS NOT NULL"),
        postgresql_where=sa.text("set_name IS NOT NULL"),
    )
    op.create_index("ix_jobs_state", "jobs", ["group_id", "state", "id"])
    op.create_index("ix_jobs_user", "jobs", ["group_id", "user_id", "state", "id"])
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["group_id", sa.text("priority DESC"), "id"],
        sqlite_where=sa.text("state = 'received' AND hold = 0"),
        postgresql_where=sa.text("state = 'received' AND NOT hold"),
    )

    op.create_table(
        "attempts",
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
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempts_job_id_number")),
        sa.UniqueConstraint("native_id", name=op.f("uq_attempts_native_id")),
    )
    op.create_index(
        "ix_attempts_live",
        "attempts",
        ["connector", "id"],
        sqlite_where=sa.text("state != 'ended'"),
        postgresql_where=sa.text("state != 'ended'"),
    )
    op.create_index(
        "ix_attempts_to_forget",
        "attempts",
        ["connector", "ended_at"],
        sqlite_where=sa.text("state = 'ended' AND forgotten_at IS NULL"),
        postgresql_where=sa.text("state = 'ended' AND forgotten_at IS NULL"),
    )
