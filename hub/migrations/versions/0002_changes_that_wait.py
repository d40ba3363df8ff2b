"""Changes that wait, what a person closes, and doses by feeder and time"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("feeder") as feeder:
        feeder.add_column(sa.Column("in_flight_command_id", sa.String(length=26), nullable=True))
    with op.batch_alter_table("command") as command:
        command.add_column(sa.Column("replaces_id", sa.String(length=26), nullable=True))
        command.add_column(sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True))
        command.add_column(sa.Column("closed_by", sa.String(length=100), nullable=True))
        command.add_column(sa.Column("remark", sa.String(length=1000), nullable=True))
    to_be_closed = sa.text("state = 'unresolved' AND closed_at IS NULL")
    op.create_index(
        "ix_command_unresolved", "command", ["site_id"], sqlite_where=to_be_closed, postgresql_where=to_be_closed
    )
    doses = sa.text("name = 'feed'")
    op.create_index(
        "ix_command_dose",
        "command",
        ["site_id", "feeder_id", "created_at"],
        sqlite_where=doses,
        postgresql_where=doses,
    )
    # What was on its way before changes waited for each other goes on as it was: alone.
    op.execute(
        "UPDATE feeder SET in_flight_command_id = pending_command_id WHERE pending_command_id IN "
        "(SELECT id FROM command WHERE state IN ('sent', 'received'))"
    )
