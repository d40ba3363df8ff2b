"""The version of the database's tables, and how they come to the newest one."""

from pathlib import Path

from alembic import command as alembic_command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from hub.errors import HubError


class DatabaseError(HubError):
    """The database cannot be opened or is of another version; says what to do."""


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest version as part of this transaction. Raises DatabaseError."""
    version_in(connection)
    alembic_command.upgrade(alembic_config(connection), "head")


def newest_version() -> str | None:
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def version_in(connection: Connection) -> str | None:
    """The version of the tables there; None: there are none yet. Raises DatabaseError if it is not known here."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None:
        check_version(current)
    return current


def check_version(version: str) -> None:
    """Raises DatabaseError if tables of this version cannot be brought to the newest one here."""
    script = ScriptDirectory.from_config(alembic_config())
    if version not in {revision.revision for revision in script.walk_revisions()}:
        raise DatabaseError(
            f"the database is of version {version}, which this Feeder Hub does not know: it was written by "
            "a newer one. Install that version again, or restore a backup."
        )


def alembic_config(connection: Connection | None = None) -> AlembicConfig:
    """What Alembic needs to know. connection: whose transaction it works in."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
