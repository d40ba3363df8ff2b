"""The audit: rows that are only added"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ON_SQLITE = """
CREATE TRIGGER audit_entry_append_only BEFORE UPDATE ON audit_entry BEGIN
  SELECT RAISE(ABORT, 'audit_entry is append only');
END
"""
_ON_POSTGRESQL = """
CREATE FUNCTION audit_entry_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'audit_entry is append only';
END $$;
CREATE TRIGGER audit_entry_append_only BEFORE UPDATE ON audit_entry
  FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_append_only()
"""
"""A later migration that makes the table anew on SQLite (`batch_alter_table`) has to make the trigger anew as well."""


def upgrade() -> None:
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.String(length=26), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("caller_id", sa.String(length=26), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=True),
        sa.Column("target", sa.String(length=100), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("command_id", sa.String(length=26), nullable=True),
    )
    op.create_index("ix_audit_entry_site", "audit_entry", ["site_id", "id"])
    op.create_index("ix_audit_entry_actor", "audit_entry", ["actor", "id"])
    rare = sa.text("action <> 'set_config'")
    op.create_index("ix_audit_entry_action", "audit_entry", ["action", "id"], sqlite_where=rare, postgresql_where=rare)
    op.execute(_ON_SQLITE if op.get_bind().dialect.name == "sqlite" else _ON_POSTGRESQL)
