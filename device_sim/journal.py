"""What the desktop knows after a crash, in one SQLite file. What a method wrote is on disk when it returns.

A command is written down before anything acts on it (`begin`), and its outcome before it is answered
(`finish`). What happened at the feeders waits here as events until the hub has stored them. A simulated PLC
keeps its registers here too, as a real one keeps its own.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ulid import ULID

from device_sim.plc import Registers
from hub.protocol.messages import Command, Event, Outcome, encode

KEPT_COMMANDS: Final = 20_000
"""How many commands are remembered; older ones are `forgotten`, and never acted upon."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commands (
    id TEXT PRIMARY KEY, feeder TEXT, command BLOB, outcome BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS feeders (
    feeder TEXT PRIMARY KEY, registers BLOB NOT NULL, config_version INTEGER NOT NULL DEFAULT 0,
    state_seq INTEGER NOT NULL DEFAULT 0, event_seq INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    feeder TEXT, seq INTEGER, event BLOB NOT NULL, PRIMARY KEY (feeder, seq)
) WITHOUT ROWID;
"""


class JournalUnusable(Exception):
    """The journal cannot be opened: another process has it, or the file is no journal."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the journal. Without an outcome it runs, or was running when the desktop stopped."""

    feeder: str | None
    command: Command | None
    outcome: Outcome | None


class Journal:
    """One desktop's memory. Only one process can have it open."""

    def __init__(self, file: Path) -> None:
        """Open or make the journal. Raises JournalUnusable, OSError."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(file, isolation_level=None, timeout=0.5)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            self.journal_id = self._fact("journal_id") or str(ULID())
            self._set_fact("journal_id", self.journal_id)
            self._forget_old_commands()
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise JournalUnusable(f"the journal {file} cannot be used: {error}") from error

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is on disk at its end, or nothing of it."""
        if self._database.in_transaction:
            yield
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    # --- commands -------------------------------------------------------------------------------------------

    def find(self, command_id: str) -> Entry | None:
        """What is known of the command; None if it was never seen, or is forgotten."""
        row = self._database.execute(
            "SELECT feeder, command, outcome FROM commands WHERE id = ?", (command_id,)
        ).fetchone()
        return None if row is None else _entry(*row)

    def is_forgotten(self, command_id: str) -> bool:
        """Whether the command is so old that it may have been here and be forgotten."""
        return command_id <= (self._fact("forgotten_through") or "")

    def unfinished(self) -> list[tuple[str | None, Command]]:
        """(feeder or None for the site, command) of what was begun and has no outcome, oldest first."""
        rows = self._database.execute("SELECT feeder, command FROM commands WHERE outcome IS NULL ORDER BY id")
        return [(feeder, Command.model_validate_json(command)) for feeder, command in rows]

    def begin(self, command: Command, feeder: str | None) -> None:
        """Write the command and its stop epoch down, before anything acts on it; once is enough."""
        with self.together():
            self._database.execute(
                "INSERT OR IGNORE INTO commands VALUES (?, ?, ?, NULL)", (command.id, feeder, encode(command))
            )
            self.set_stop(command.stop_epoch, latched=self.latched)

    def finish(self, outcome: Outcome) -> None:
        """Write down what became of a command, begun or not. The first outcome stays."""
        self._database.execute(
            "INSERT INTO commands VALUES (?, NULL, NULL, ?) ON CONFLICT (id) "
            "DO UPDATE SET outcome = excluded.outcome WHERE outcome IS NULL",
            (outcome.id, encode(outcome)),
        )

    def _forget_old_commands(self) -> None:
        row = self._database.execute(
            "SELECT id FROM commands WHERE outcome IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?",
            (KEPT_COMMANDS,),
        ).fetchone()
        if row is not None:
            with self.together():
                self._database.execute("DELETE FROM commands WHERE id <= ? AND outcome IS NOT NULL", row)
                self._set_fact("forgotten_through", row[0])

    # --- the emergency stop ---------------------------------------------------------------------------------

    @property
    def stop_epoch(self) -> int:
        """The highest epoch that any command carried."""
        return int(self._fact("stop_epoch") or 0)

    @property
    def latched(self) -> bool:
        """Whether the site is stopped until a release."""
        return self._fact("latched") == "yes"

    def set_stop(self, epoch: int, *, latched: bool) -> None:
        with self.together():
            self._set_fact("stop_epoch", str(max(epoch, self.stop_epoch)))
            self._set_fact("latched", "yes" if latched else "no")

    # --- feeders --------------------------------------------------------------------------------------------

    def registers(self, feeder: str) -> Registers | None:
        """What the simulated PLC of the feeder kept; None if it was never saved."""
        row = self._database.execute("SELECT registers FROM feeders WHERE feeder = ?", (feeder,)).fetchone()
        return None if row is None else Registers.model_validate_json(row[0])

    def save_registers(self, feeder: str, registers: Registers) -> None:
        self._database.execute(
            "INSERT INTO feeders (feeder, registers) VALUES (?, ?) "
            "ON CONFLICT (feeder) DO UPDATE SET registers = excluded.registers",
            (feeder, encode(registers)),
        )

    def config_version(self, feeder: str) -> int:
        """The version of the last config that was applied."""
        (version,) = self._database.execute("SELECT config_version FROM feeders WHERE feeder = ?", (feeder,)).fetchone()
        return int(version)

    def set_config_version(self, feeder: str, version: int) -> None:
        self._database.execute("UPDATE feeders SET config_version = ? WHERE feeder = ?", (version, feeder))

    def next_state_seq(self, feeder: str) -> int:
        return self._next("state_seq", feeder)

    # --- events ---------------------------------------------------------------------------------------------

    def next_event_seq(self, feeder: str) -> int:
        return self._next("event_seq", feeder)

    def keep_event(self, feeder: str, event: Event) -> None:
        """Keep the event until `forget_events`."""
        self._database.execute("INSERT INTO events VALUES (?, ?, ?)", (feeder, event.seq, encode(event)))

    def events(self) -> list[tuple[str, bytes]]:
        """(feeder, event as it goes out) of all that are not acknowledged, oldest first per feeder."""
        return self._database.execute("SELECT feeder, event FROM events ORDER BY feeder, seq").fetchall()

    def forget_events(self, feeder: str, through: int) -> None:
        self._database.execute("DELETE FROM events WHERE feeder = ? AND seq <= ?", (feeder, through))

    # --- rows -----------------------------------------------------------------------------------------------

    def _next(self, column: str, feeder: str) -> int:
        # The column is one of two names written above, never input.
        (number,) = self._database.execute(
            f"UPDATE feeders SET {column} = {column} + 1 WHERE feeder = ? RETURNING {column}",  # noqa: S608 - our own names only
            (feeder,),
        ).fetchone()
        return int(number)

    def _fact(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _set_fact(self, name: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _entry(feeder: str | None, command: bytes | None, outcome: bytes | None) -> Entry:
    return Entry(
        feeder,
        None if command is None else Command.model_validate_json(command),
        None if outcome is None else Outcome.model_validate_json(outcome),
    )
