"""Connections to SQLite: one file, written ahead, synced at every commit."""

import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from hub.statements import run_on_driver

BUSY_TIMEOUT_S: Final = 5.0
_TRY_AGAIN_EVERY_S: Final = 0.02


def sqlite_url(data_dir: Path) -> str:
    """The address of the database that a hub keeps in its data directory."""
    return f"sqlite:///{data_dir / 'feeder-hub.sqlite'}"


def sqlite_engine(url: URL, *, begin: str, **options: Any) -> Engine:
    """begin: the statement by which its transactions begin."""
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
        _write_ahead(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # Deferred transactions that read first and write later lose updates silently.
        run_on_driver(connection, begin)

    return engine


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch the file to write-ahead logging. SQLite does not wait for another process that does the same just now."""
    gives_up_at_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
        except sqlite3.OperationalError:
            if time.monotonic() > gives_up_at_s:
                raise
            time.sleep(_TRY_AGAIN_EVERY_S)
        else:
            return
