"""What the leader meets at schedulers is told by every process: a word beside the lease.

At once, however many jobs there are.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("leases", sa.Column("told", sa.Text()))
