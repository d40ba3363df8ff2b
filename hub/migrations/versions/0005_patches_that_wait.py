"""The patch of a change that waits"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("command") as command:
        command.add_column(sa.Column("patch", sa.JSON(none_as_null=True), nullable=True))
