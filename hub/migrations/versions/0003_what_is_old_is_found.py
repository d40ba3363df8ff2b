"""What is old is found without looking at every row"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_config_revision_at", "config_revision", ["at"])
    op.create_index("ix_presence_ended_at", "presence", ["ended_at"])
