"""What survives a restart, on disk: the journal's batches, written to a SQLite file by a thread of their own.

Each batch is one transaction, synced before anybody is told; while one is being written the next is gathered. The
broker reads the file once, when it starts. A file that cannot be understood is put aside, and it begins anew.
"""

import asyncio
import logging
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from broker.journal import Batch, Journal, MessageRow, RetainedRow, StoredSession, WillRow
from hub.protocol.topics import Identity

_log = logging.getLogger(__name__)

GATHERING_S: Final = 0.002
"""Seconds from the first change of a batch until it is written."""
READER_HAS_S: Final = 0.06
"""Seconds for which a batch waits while all of it is messages for a reader in this process."""
RETRY_S: Final = 1.0
"""Seconds until a batch that could not be written is tried again."""
FORMAT: Final = 1
"""The file's `user_version`; a file of another one is put aside."""

_SCHEMA: Final = """
CREATE TABLE session (client_id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE subscription (client_id TEXT, filter TEXT, qos INTEGER NOT NULL CHECK (qos BETWEEN 0 AND 2),
    PRIMARY KEY (client_id, filter)) STRICT, WITHOUT ROWID;
CREATE TABLE message (number INTEGER PRIMARY KEY, client_id TEXT NOT NULL,
    packet_id INTEGER NOT NULL CHECK (packet_id BETWEEN 0 AND 65535), released INTEGER NOT NULL,
    topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL CHECK (qos BETWEEN 1 AND 2),
    retain INTEGER NOT NULL) STRICT;
CREATE TABLE received (client_id TEXT, packet_id INTEGER, PRIMARY KEY (client_id, packet_id)) STRICT, WITHOUT ROWID;
CREATE TABLE retained (topic TEXT PRIMARY KEY, payload BLOB NOT NULL, qos INTEGER NOT NULL CHECK (qos BETWEEN 0 AND 2),
    owner TEXT NOT NULL) STRICT;
CREATE TABLE will (client_id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, topic TEXT NOT NULL,
    payload BLOB NOT NULL, qos INTEGER NOT NULL CHECK (qos BETWEEN 0 AND 2), retain INTEGER NOT NULL) STRICT;
"""
_DAMAGED: Final = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG}
"""SQLite's codes that mean the file's content; others mean that it cannot be used now: locked, read-only, full."""


class StoreUnusable(OSError):
    """The broker's file cannot be opened or used, which is not its content's fault; says why."""


@dataclass(slots=True)
class State:
    """All that was kept: sessions and wills by client id, retained messages by topic.

    last_message: the highest number of a message.
    """

    sessions: dict[str, StoredSession] = field(default_factory=dict)
    retained: dict[str, RetainedRow] = field(default_factory=dict)
    wills: dict[str, WillRow] = field(default_factory=dict)
    last_message: int = 0


class Store:
    """What was kept, as `state`, and the `journal` of what changes from now on; made by `open_store`."""

    def __init__(self, file: "_File", state: State, thread: ThreadPoolExecutor, counters: Counter[str]) -> None:
        self.state = state
        self.journal = Journal(state.last_message, self._has_changed)
        self._file = file
        self._thread = thread
        self._counters = counters
        self._changed = asyncio.Event()
        self._closing = False

    def _has_changed(self) -> None:
        self._changed.set()

    async def flush(self) -> None:
        """Wait until all that changed so far is on disk."""
        wanted = self.journal.last_change
        while self.journal.committed < wanted:
            committed = asyncio.Event()
            self.journal.when_committed(committed.set)
            await committed.wait()

    async def write_batches(self) -> None:
        """Write what changes until `close`, and then what is left."""
        while not self._closing or self._changed.is_set():
            await self._changed.wait()
            await self._gather()
            self._changed.clear()
            if not await self._write(self.journal.take()):
                return  # or a later batch would be there without this one
            self.journal.commit()

    async def _gather(self) -> None:
        """What a reader in this process is done with, in its own database, before it is written need not be written."""
        done_by_s = time.monotonic() + READER_HAS_S
        while not self._closing:
            await asyncio.sleep(GATHERING_S)
            if not self.journal.may_come_to_nothing or time.monotonic() >= done_by_s:
                return

    def close(self) -> None:
        self._closing = True
        self._changed.set()

    async def _write(self, batch: Batch) -> bool:
        """Write it, however often it takes: nobody is told that it is kept before it is. False at a lost end."""
        while batch:
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._file.write, batch)
            except (sqlite3.Error, ValueError) as error:
                self._counters["store_faults"] += 1
                _log.error("the broker cannot keep its messages in %s: %s", self._file.path, error)
                if self._closing:
                    return False
                await asyncio.sleep(RETRY_S)
            else:
                self._counters["store_batches"] += 1
                break
        return True


@asynccontextmanager
async def open_store(path: Path, counters: Counter[str]) -> AsyncIterator[Store]:
    """Open the file, or make it; at the end of the block all changes are on disk. Raises StoreUnusable.

    counters: `store_batches`, `store_faults`, `store_put_aside`.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "broker-store") as thread:
        file, state, damage = await loop.run_in_executor(thread, _File.opened, path)
        if damage is not None:
            counters["store_put_aside"] += 1
            _log.error("%s The broker begins without retained messages and stored sessions.", damage)
        store = Store(file, state, thread, counters)
        writing = asyncio.create_task(store.write_batches(), name="broker store")
        writing.add_done_callback(_tell_fault)
        try:
            yield store
        finally:
            store.close()
            await writing
            await loop.run_in_executor(thread, file.close)


def _tell_fault(writing: asyncio.Task[None]) -> None:
    if not writing.cancelled() and (fault := writing.exception()) is not None:
        _log.critical("the broker keeps nothing any more, and acknowledges nothing that it would", exc_info=fault)


class _File:
    """The SQLite file. Everything here waits for the disk, and runs in the store's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = sqlite3.connect(path, isolation_level=None, timeout=1.0)

    @classmethod
    def opened(cls, path: Path) -> tuple["_File", State, str | None]:
        """The file with what it holds; if what was there is damaged, a new one and a sentence on the old."""
        file = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = cls(path)
            try:
                return file, file.load(), None
            except ValueError as damage:
                file.close()
                aside = _put_aside(path)
                file = cls(path)
                said = f"The broker's file {path} is damaged ({damage}); it is put aside as {aside.name}."
                return file, file.load(), said
        except (sqlite3.Error, OSError) as error:
            if file is not None:
                file.close()
            if isinstance(error, StoreUnusable):
                raise
            raise StoreUnusable(f"the broker's file {path} cannot be used: {error}") from error

    def close(self) -> None:
        self._database.close()

    def load(self) -> State:
        """Read everything, or make the tables of a new file.

        Raises ValueError if it is damaged, StoreUnusable if it is not the broker's.
        """
        database = self._database
        try:
            for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                database.execute(f"PRAGMA {pragma}").close()
            [version] = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                if database.execute("SELECT * FROM sqlite_master").fetchone() is not None:
                    raise StoreUnusable(f"{self.path} is somebody else's database, not a broker's file")
                database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;")
            elif version != FORMAT:
                raise ValueError(f"its format is {version}, not {FORMAT}")
            [verdict] = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise ValueError(verdict)
            return _read(database)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is None or code & 0xFF in _DAMAGED:  # the rest of it is detail
                raise ValueError(str(error)) from error
            raise

    def write(self, batch: Batch) -> None:
        """The batch as one transaction. Raises sqlite3.Error, and then nothing of it is written."""
        with self._transaction() as database:
            whose = batch.sessions.items()
            _set(database, _SESSION, (((client_id,), row and (row.kind, row.name)) for client_id, row in whose))
            granted = ((key, None if qos is None else (qos,)) for key, qos in batch.subscriptions.items())
            _set(database, _SUBSCRIPTION, granted)
            _set(database, _MESSAGE, (((number,), row) for number, row in batch.messages.items()))
            _set(database, _RECEIVED, ((key, () if there else None) for key, there in batch.received.items()))
            _set(database, _RETAINED, (((topic,), row) for topic, row in batch.retained.items()))
            wills = batch.wills.items()
            _set(
                database,
                _WILL,
                (((key,), row and (row.identity.kind, row.identity.name, *row[1:])) for key, row in wills),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            if self._database.in_transaction:  # some faults end it themselves
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


_SESSION: Final = (
    "DELETE FROM session WHERE client_id = ?",
    "INSERT OR REPLACE INTO session (client_id, kind, name) VALUES (?, ?, ?)",
)
_SUBSCRIPTION: Final = (
    "DELETE FROM subscription WHERE client_id = ? AND filter = ?",
    "INSERT OR REPLACE INTO subscription (client_id, filter, qos) VALUES (?, ?, ?)",
)
_MESSAGE: Final = (
    "DELETE FROM message WHERE number = ?",
    "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # its columns are MessageRow's
)
_RECEIVED: Final = (
    "DELETE FROM received WHERE client_id = ? AND packet_id = ?",
    "INSERT OR REPLACE INTO received (client_id, packet_id) VALUES (?, ?)",
)
_RETAINED: Final = (
    "DELETE FROM retained WHERE topic = ?",
    "INSERT OR REPLACE INTO retained (topic, payload, qos, owner) VALUES (?, ?, ?, ?)",
)

_WILL: Final = (
    "DELETE FROM will WHERE client_id = ?",
    "INSERT OR REPLACE INTO will (client_id, kind, name, topic, payload, qos, retain) VALUES (?, ?, ?, ?, ?, ?, ?)",
)


def _set(
    database: sqlite3.Connection, statements: tuple[str, str], rows: Iterable[tuple[tuple[Any, ...], Any]]
) -> None:
    """Put rows (their key, and the other columns), and remove those that are None."""
    remove, put = statements
    gone, there = [], []
    for key, row in rows:
        if row is None:
            gone.append(key)
        else:
            there.append((*key, *row))
    if gone:
        database.executemany(remove, gone)
    if there:
        database.executemany(put, there)


def _read(database: sqlite3.Connection) -> State:
    subscriptions: dict[str, dict[str, int]] = defaultdict(dict)
    for client_id, topic_filter, qos in database.execute("SELECT client_id, filter, qos FROM subscription"):
        subscriptions[client_id][topic_filter] = qos
    messages: dict[str, list[tuple[int, MessageRow]]] = defaultdict(list)
    last_message = 0
    for last_message, *row in database.execute(
        "SELECT number, client_id, packet_id, released, topic, payload, qos, retain FROM message ORDER BY number"
    ):
        message = MessageRow(*row)
        messages[message.client_id].append((last_message, message._replace(retain=bool(message.retain))))
    received: dict[str, set[int]] = defaultdict(set)
    for client_id, packet_id in database.execute("SELECT client_id, packet_id FROM received"):
        received[client_id].add(packet_id)
    sessions = {
        client_id: StoredSession(
            Identity(cast("Any", kind), name), subscriptions[client_id], messages[client_id], received[client_id]
        )
        for client_id, kind, name in database.execute("SELECT client_id, kind, name FROM session")
    }
    retained = database.execute("SELECT topic, payload, qos, owner FROM retained")
    wills = {
        client_id: WillRow(Identity(cast("Any", kind), name), topic, payload, qos, bool(retain))
        for client_id, kind, name, topic, payload, qos, retain in database.execute(
            "SELECT client_id, kind, name, topic, payload, qos, retain FROM will"
        )
    }
    return State(sessions, {topic: RetainedRow(*row) for topic, *row in retained}, wills, last_message)


def _put_aside(path: Path) -> Path:
    """Rename the file and what SQLite keeps beside it."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside
