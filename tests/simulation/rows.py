"""The database: the hub's real tables and rules on SQLite in memory, which outlives every simulated hub process.

A transaction runs in one piece, so what a killed process had not committed never was. Triggers write every move of a
command into a log of the simulation's own, in the order in which they were committed.
"""

import sqlite3
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from hub.database import Database
from hub.sites import add_site

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


class Tables:
    """One engine for all worlds (its statements are compiled once); each world begins with an empty farm."""

    def __init__(self) -> None:
        self._database = Database("sqlite://")
        self._database.migrate()
        self._migrated = sqlite3.connect(":memory:")
        self.raw.backup(self._migrated)
        self.away = False
        self.committed: Callable[[], object] = lambda: None
        event.listen(self._database._write_engine, "begin", self._on_begin, insert=True)
        event.listen(self._database._write_engine, "commit", self._on_commit)

    @property
    def raw(self) -> sqlite3.Connection:
        """The one connection, for looking on without the hub's rules."""
        with self._database._write_engine.connect() as connection:
            raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        return raw

    def begin_anew(self, site: str, feeders: list[str], time_zone: str, now: datetime) -> sqlite3.Connection:
        self.away = False
        self.committed = lambda: None
        raw = self.raw
        self._migrated.backup(raw)
        self._database.write_now(lambda session: add_site(session, site, feeders, time_zone, now))
        raw.executescript(_LOG)
        return raw

    def opened(self) -> "Opened":
        return Opened(self._database)

    def close(self) -> None:
        self._migrated.close()
        self._database.close()

    def _on_begin(self, _connection: Connection) -> None:
        if self.away:
            raise OperationalError("simulated", {}, sqlite3.OperationalError("the database is away"))

    def _on_commit(self, _connection: Connection) -> None:
        self.committed()


class Opened(Database):
    """The tables as one hub process has opened them; the executors are never used, the loop does their work."""

    def __init__(self, tables: Database) -> None:
        super().__init__("sqlite://")
        for engine in (self._write_engine, self._read_engine):
            engine.dispose()
        self._write_engine = self._read_engine = tables._write_engine

    def migrate(self) -> None:
        """They are of the newest version already."""

    def close(self) -> None:
        """They stay open for the next process."""
