"""Alembic's entry: runs the migrations on the connection that `Database.migrate` hands over."""

from typing import Literal

from alembic import context
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from hub.models import UtcDateTime


def render_item(kind: str, item: object, _context: object) -> str | Literal[False]:
    """A migration must mean the same when the models have moved on: plain SQLAlchemy types only."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return f"sa.String(length={item.length})"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
