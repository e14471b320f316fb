"""When the end of an attempt was stored: only long after that may its scheduler forget it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("recorded_at", sa.Double()))
    op.execute("UPDATE attempts SET recorded_at = ended_at WHERE state = 'ended'")
    op.drop_index("ix_attempts_to_forget", "attempts")
    op.create_index(
        "ix_attempts_to_forget",
        "attempts",
        ["connector", "recorded_at"],
        sqlite_where=sa.text("state = 'ended' AND forgotten_at IS NULL"),
        postgresql_where=sa.text("state = 'ended' AND forgotten_at IS NULL"),
    )
