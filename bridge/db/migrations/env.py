"""Run by Alembic. The connection, its transaction and its lock are the caller's."""

from __future__ import annotations

from alembic import context

from bridge.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by making it anew
    transactional_ddl=True,
)
context.run_migrations()
