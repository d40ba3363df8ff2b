"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "site",
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("mqtt_password_hash", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stop_epoch", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_command_id", sa.String(length=26), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "feeder",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_version", sa.BigInteger(), nullable=False),
        sa.Column("desired_config", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("desired_version", sa.BigInteger(), nullable=True),
        sa.Column("pending_command_id", sa.String(length=26), nullable=True),
        sa.Column("reported_config", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reported_version", sa.BigInteger(), nullable=True),
        sa.Column("local_rev", sa.BigInteger(), nullable=False),
        sa.Column("state_journal_id", sa.String(length=64), nullable=True),
        sa.Column("state_seq", sa.BigInteger(), nullable=True),
        sa.Column("condition", sa.String(length=16), nullable=True),
        sa.Column("control", sa.String(length=16), nullable=True),
        sa.Column("silo_g", sa.Float(), nullable=True),
        sa.Column("next_meal_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("site_id", "id"),
    )
    op.create_table(
        "monitor",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=True),
        sa.Column("mqtt_password_hash", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "presence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_by", sa.String(length=16), nullable=True),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("presence", schema=None) as batch_op:
        batch_op.create_index("ix_presence_site", ["site_id", "id"], unique=False)
        batch_op.create_index(
            "uq_presence_open",
            ["site_id"],
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        )

    op.create_table(
        "token",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "command",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("feeder_id", sa.String(length=63), nullable=True),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("args", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.String(length=1000), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("hub_id", sa.String(length=63), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=True),
        sa.Column("journal_id", sa.String(length=64), nullable=True),
        sa.Column("stop_epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_report_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("report_count", sa.Integer(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id", "feeder_id"], ["feeder.site_id", "feeder.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("command", schema=None) as batch_op:
        batch_op.create_index(
            "ix_command_open",
            ["deadline_at"],
            unique=False,
            sqlite_where=sa.text("settled_at IS NULL"),
            postgresql_where=sa.text("settled_at IS NULL"),
        )
        batch_op.create_index("ix_command_site_id", ["site_id", "id"], unique=False)

    op.create_table(
        "feeder_event",
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("feeder_id", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("planned_g", sa.Float(), nullable=True),
        sa.Column("dispensed_g", sa.Float(), nullable=True),
        sa.Column("reason", sa.String(length=1000), nullable=True),
        sa.Column("command_id", sa.String(length=26), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["site_id", "feeder_id"], ["feeder.site_id", "feeder.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("site_id", "id"),
    )
    with op.batch_alter_table("feeder_event", schema=None) as batch_op:
        batch_op.create_index("ix_feeder_event_at", ["site_id", "feeder_id", "at"], unique=False)

    op.create_table(
        "command_step",
        sa.Column("command_id", sa.String(length=26), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cause", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["command_id"], ["command.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("command_id", "state"),
    )
    op.create_table(
        "config_revision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.String(length=63), nullable=False),
        sa.Column("feeder_id", sa.String(length=63), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("local_rev", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=8), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("config", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("command_id", sa.String(length=26), nullable=True),
        sa.ForeignKeyConstraint(["command_id"], ["command.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["site_id", "feeder_id"], ["feeder.site_id", "feeder.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("config_revision", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_config_revision_command_id"), ["command_id"], unique=False)
        batch_op.create_index("ix_config_revision_feeder", ["site_id", "feeder_id", "id"], unique=False)

    op.create_table(
        "idempotency_key",
        sa.Column("owner", sa.String(length=26), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("command_id", sa.String(length=26), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["command_id"], ["command.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner", "key"),
    )
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_key_command_id"), ["command_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_key_command_id"))

    op.drop_table("idempotency_key")
    with op.batch_alter_table("config_revision", schema=None) as batch_op:
        batch_op.drop_index("ix_config_revision_feeder")
        batch_op.drop_index(batch_op.f("ix_config_revision_command_id"))

    op.drop_table("config_revision")
    op.drop_table("command_step")
    with op.batch_alter_table("feeder_event", schema=None) as batch_op:
        batch_op.drop_index("ix_feeder_event_at")

    op.drop_table("feeder_event")
    with op.batch_alter_table("command", schema=None) as batch_op:
        batch_op.drop_index("ix_command_site_id")
        batch_op.drop_index(
            "ix_command_open",
            sqlite_where=sa.text("settled_at IS NULL"),
            postgresql_where=sa.text("settled_at IS NULL"),
        )

    op.drop_table("command")
    op.drop_table("token")
    with op.batch_alter_table("presence", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_presence_open", sqlite_where=sa.text("ended_at IS NULL"), postgresql_where=sa.text("ended_at IS NULL")
        )
        batch_op.drop_index("ix_presence_site")

    op.drop_table("presence")
    op.drop_table("monitor")
    op.drop_table("feeder")
    op.drop_table("site")
