"""The events of a feeder are found among all those of its site"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_feeder_event_feeder", "feeder_event", ["site_id", "feeder_id", "id"])
