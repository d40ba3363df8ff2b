"""Tags of sites and feeders, MQTT secrets that overlap, claim codes"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("site") as site:
        site.add_column(sa.Column("sought", sa.String(length=600), nullable=False, server_default=""))
        site.add_column(sa.Column("old_mqtt_password_hash", sa.String(length=200), nullable=True))
        site.add_column(sa.Column("old_secret_ends_at", sa.DateTime(timezone=True), nullable=True))
    site_table = sa.table("site", sa.column("id"), sa.column("name"), sa.column("sought"))
    connection = op.get_bind()
    for row in connection.execute(sa.select(site_table.c.id, site_table.c.name)).all():
        sought = f"{row.id}\n{row.name}".casefold()
        connection.execute(site_table.update().where(site_table.c.id == row.id).values(sought=sought))
    op.create_table(
        "site_tag",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.String(length=50), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("site_id", "tag"),
    )
    op.create_index("ix_site_tag_tag", "site_tag", ["tag", "site_id"])
    op.create_table(
        "feeder_tag",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("feeder_id", sa.String(length=63), nullable=False),
        sa.Column("tag", sa.String(length=50), nullable=False),
        sa.ForeignKeyConstraint(["site_id", "feeder_id"], ["feeder.site_id", "feeder.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("site_id", "feeder_id", "tag"),
    )
    op.create_index("ix_feeder_tag_tag", "feeder_tag", ["tag", "site_id", "feeder_id"])
    op.create_table(
        "claim_code",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("overlap_s", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(length=100), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("site_id"),
        sa.UniqueConstraint("sha256"),
    )
