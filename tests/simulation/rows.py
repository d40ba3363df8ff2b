"""The database: the hub's real tables and rules on SQLite in memory, which outlives every simulated hub process.

A transaction runs in one piece, so what a killed process had not committed never was. Triggers write every move of a
command into a log of the simulation's own, in the order in which they were committed.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from hub.database import Database
from hub.sites import add_site
from hub.tasks import GoingOn

_LOG = """
CREATE TABLE sim_log (n INTEGER PRIMARY KEY, what TEXT, id TEXT, name TEXT, was TEXT, is_now TEXT, stopped INTEGER);
CREATE TRIGGER sim_placed AFTER INSERT ON command BEGIN
  INSERT INTO sim_log (what, id, name, is_now, stopped) SELECT 'placed', new.id, new.name, new.state,
    (SELECT stopped_at IS NOT NULL FROM site WHERE id = new.site_id);
END;
CREATE TRIGGER sim_moved AFTER UPDATE OF state ON command WHEN old.state <> new.state BEGIN
  INSERT INTO sim_log (what, id, name, was, is_now, stopped) SELECT 'moved', new.id, new.name, old.state, new.state,
    (SELECT stopped_at IS NOT NULL FROM site WHERE id = new.site_id);
END;
"""


_ADDED_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Tables:
    """One engine for all worlds (its statements are compiled once); each world begins with the same empty farm."""

    def __init__(self, site: str, feeders: list[str], time_zone: str) -> None:
        self._database = Database("sqlite://")
        self._database.migrate()
        self._database.write_now(lambda session: add_site(session, site, feeders, time_zone, _ADDED_AT))
        with self._database._write_engine.connect() as connection:
            raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        self.raw = raw
        """The one connection, for looking on without the hub's rules."""
        raw.executescript(_LOG)
        self._new_farm = sqlite3.connect(":memory:")
        raw.backup(self._new_farm)
        self.away = False
        self.committed: Callable[[], object] = lambda: None
        event.listen(self._database._write_engine, "begin", self._on_begin, insert=True)
        event.listen(self._database._write_engine, "commit", self._on_commit)

    def begin_anew(self) -> sqlite3.Connection:
        self.away = False
        self.committed = lambda: None
        self._new_farm.backup(self.raw)
        return self.raw

    def opened(self) -> "Opened":
        return Opened(self._database)

    def _on_begin(self, _connection: Connection) -> None:
        if self.away:
            raise OperationalError("simulated", {}, sqlite3.OperationalError("the database is away"))

    def _on_commit(self, _connection: Connection) -> None:
        self.committed()


class Opened(Database):
    """The tables as one hub process has opened them: the engine is the world's, what waits to be written its own.

    The executors are never used, the loop does their work.
    """

    def __init__(self, tables: Database) -> None:
        vars(self).update(vars(tables))
        self._read_engine = self._write_engine  # another one would have another memory
        self._pending, self._blocked = [], []
        self._arrived = asyncio.Event()
        self._writing = GoingOn(self._write_batches, "database-write")
        self._task = None
        self._is_open = False

    def migrate(self) -> None:
        """They are of the newest version already."""

    def close(self) -> None:
        """They stay open for the next process."""
