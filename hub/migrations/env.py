"""Alembic's entry: runs the migrations on the connection that `Database.migrate` hands over."""

from alembic import context
from sqlmodel import SQLModel

import hub.models  # noqa: F401 - its tables are the target

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
