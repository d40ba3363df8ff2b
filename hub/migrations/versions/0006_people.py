"""People with their roles and logins; tokens that expire"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("id", sa.String(length=26), primary_key=True),
        sa.Column("login", sa.String(length=64), nullable=False, unique=True),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "person_role",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("person_id", sa.String(length=26), sa.ForeignKey("person.id", ondelete="CASCADE"), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("site_id", sa.String(length=63), sa.ForeignKey("site.id", ondelete="CASCADE"), nullable=True),
    )
    op.create_index("ix_person_role_person_id", "person_role", ["person_id"])
    op.create_index("ix_person_role_site_id", "person_role", ["site_id"])
    op.create_table(
        "login",
        sa.Column("id", sa.String(length=26), primary_key=True),
        sa.Column("person_id", sa.String(length=26), sa.ForeignKey("person.id", ondelete="CASCADE"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
    )
    op.create_index("ix_login_person_id", "login", ["person_id"])
    op.create_index("ix_login_expires_at", "login", ["expires_at"])
    with op.batch_alter_table("token") as token:
        token.add_column(sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        token.add_column(sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
