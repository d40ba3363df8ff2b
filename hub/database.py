"""The database: work on rows is a plain function of a session; here it is gathered, run and committed.

`write` gathers what arrives while the last transaction commits into the next one, so that many orders in flight cost
one commit. Work runs in threads of its own, on the ordinary synchronous drivers: one hop per transaction, none per row.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import sqlalchemy.exc
import structlog
from pydantic_core import from_json, to_json
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlmodel import Session

from hub import tables
from hub.errors import HubError, Unavailable
from hub.postgresql import postgresql_engine
from hub.sqlite import sqlite_engine
from hub.statements import run_on, run_on_driver
from hub.tables import DatabaseError
from hub.tasks import GoingOn

log = structlog.get_logger()
T = TypeVar("T")
Work = Callable[[Session], Any]

READ_WITHIN_S: Final = 10.0
_MAX_BATCH: Final = 256
_READ_THREADS: Final = 4
_GATHERING_STEP_S: Final = 0.001
_GATHERING_ENDS_AFTER_S: Final = 0.005
_PAUSE_BETWEEN_BATCHES_S: Final = 0.001
"""Back-to-back commits would starve a second writer, as the command line beside a running hub is."""
_WRITE_TRIES: Final = 3
_ONE_BY_ONE_FOR_S: Final = 5.0
_BLOCKED_FOR_S: Final = 6.0
"""Longer than PostgreSQL leaves a frozen transaction its locks."""
_TRIED_FOR_S: Final = 0.02
"""What is run one by one waits so long for a lock: many may wait for the same one, and others wait behind them."""
_BLOCKED_PAUSE_S: Final = 0.1
_CLOSED: Final = "the database is closed"
_DEADLOCK_DETECTED: Final = "40P01"
"""PostgreSQL ends one of two transactions that wait for each other's rows."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
"""PostgreSQL ends a statement that has waited for a lock for long enough."""


class DatabaseAway(Unavailable):
    """There is no database to work with now; nothing was stored. `orig`: why, for a log."""

    def __init__(self, orig: str) -> None:
        super().__init__("The database cannot be used now; nothing was sent. Try again soon.")
        self.orig = orig


class CommitUnknown(Unavailable):
    """The database failed in the middle of a commit. `orig`: why, for a log."""

    def __init__(self, orig: str) -> None:
        super().__init__(
            "The database failed while it stored this: it may be stored, or not. Nothing was sent. "
            "Look what has become of it before you try again."
        )
        self.orig = orig


AWAY: Final = (DatabaseAway, CommitUnknown, OperationalError, InterfaceError, InternalError)
"""What reading and writing raise where the database is unfit at the moment (out of reach, restarting, read-only after a
failover, full, locked) and what it was asked is not at fault: it may go well later."""


def why_away(error: BaseException) -> str:
    """The reason, for a log: without the statement and its values."""
    return str(getattr(error, "orig", error))


def _with_our_driver(url: str) -> URL:
    parsed = make_url(url)
    match parsed.get_backend_name():
        case "sqlite":
            return parsed.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise DatabaseError(f"database.url names {other}; Feeder Hub runs on sqlite:///… and postgresql://…")


def _to_json(value: object) -> str:
    """As the standard library's, at a fifth of its price."""
    return to_json(value).decode()


def _engine(url: URL, *, begin: str, patient: bool) -> Engine:
    json: dict[str, Any] = {"json_serializer": _to_json, "json_deserializer": from_json}
    if url.get_backend_name() == "sqlite":
        return sqlite_engine(url, begin=begin, **json)
    return postgresql_engine(url, patient=patient, pool_size=_READ_THREADS + 1, pool_pre_ping=True, **json)


@dataclass(slots=True)
class _Pending:
    work: Work
    done: asyncio.Future[Any]
    since_s: float

    def answer(self, outcome: Any) -> None:
        if self.done.done():  # the caller was cancelled; the row stands all the same
            return
        if isinstance(outcome, BaseException):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


class Database:
    """`async with Database(url) as database`: the tables are there and at the newest version.

    patient: what it is asked may take as long as it takes; otherwise each wait for PostgreSQL has its limit.
    """

    def __init__(self, url: str, *, patient: bool = False) -> None:
        self.url = _with_our_driver(url)
        self._write_engine = _engine(self.url, begin="BEGIN IMMEDIATE", patient=patient)
        self._read_engine = self._write_engine
        if self.is_sqlite:
            self._read_engine = _engine(self.url, begin="BEGIN", patient=patient)
        self._writer = ThreadPoolExecutor(1, "database-write")
        self._readers = ThreadPoolExecutor(_READ_THREADS, "database-read")
        self._pending: list[_Pending] = []
        self._blocked: list[_Pending] = []
        self._try_blocked_at_s = 0.0
        self._arrived = asyncio.Event()
        self._writing = GoingOn(self._write_batches, "database-write")
        self._task: asyncio.Task[None] | None = None
        self._is_open = False

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.migrate)
        except BaseException:
            self.close()
            raise
        self._is_open = True
        self._task = await self._writing.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was handed in is still written; then the threads and connections end."""
        try:
            self._is_open = False
            self._arrived.set()
            assert self._task is not None
            await asyncio.wait({self._task})
            await self._writing.__aexit__(kind, error, trace)
        finally:
            self.close()

    def close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown(cancel_futures=True)
        self._write_engine.dispose()
        self._read_engine.dispose()

    # --- from the event loop ---------------------------------------------------------------------------------

    async def write(self, work: Callable[[Session], T]) -> T:
        """Run the work in a transaction, perhaps shared with other work, and return its result once committed.

        The work may be run again from the start (another work of the same transaction failed), so it touches
        nothing but the session. What it raises is raised here, and then none of it is stored. It raises a HubError
        (it refuses) only before it has written anything: the transaction goes on with the work of others.
        Raises also what is in AWAY.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._is_open:
            raise RuntimeError(_CLOSED)
        self._pending.append(_Pending(work, done, time.monotonic()))
        self._arrived.set()
        return await done

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run the work in a transaction of its own that only reads. Raises also what is in AWAY."""
        try:
            async with asyncio.timeout(READ_WITHIN_S):
                return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)
        except TimeoutError:
            raise DatabaseAway(f"it has not answered within {READ_WITHIN_S:g} s") from None

    async def _write_batches(self) -> None:
        loop = asyncio.get_running_loop()
        batch: list[_Pending] = []
        try:
            while self._pending or self._blocked or self._is_open:
                if self._blocked and time.monotonic() >= self._try_blocked_at_s:
                    await self._try_blocked()
                if not self._pending:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_BLOCKED_PAUSE_S if self._blocked else None):
                            await self._arrived.wait()
                    self._arrived.clear()
                    continue
                await self._gather(len(batch))
                batch, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
                works = [pending.work for pending in batch]
                lock_within_s = _TRIED_FOR_S if self._blocked else None
                try:
                    outcomes = await loop.run_in_executor(self._writer, self._commit, works, lock_within_s)
                except DatabaseAway as error:  # for those who came meanwhile too: they have waited long enough
                    batch, self._blocked, self._pending = batch + self._blocked + self._pending, [], []
                    outcomes = [error] * len(batch)
                for pending, outcome in zip(batch, outcomes, strict=True):
                    self._answer_or_set_aside(pending, outcome)
                await asyncio.sleep(_PAUSE_BETWEEN_BATCHES_S)
        finally:  # if it died, nobody waits for it
            self._is_open = False
            for pending in (*batch, *self._blocked, *self._pending):
                pending.answer(RuntimeError(_CLOSED))

    def _answer_or_set_aside(self, pending: _Pending, outcome: Any) -> None:
        """What waits for a lock is set aside: others do not wait for it."""
        if not _is_blocked(outcome):
            pending.answer(outcome)
        elif time.monotonic() - pending.since_s > _BLOCKED_FOR_S:
            pending.answer(DatabaseAway(why_away(outcome)))
        else:
            if not self._blocked:
                log.warning("work waits for rows that another process keeps locked", reason=why_away(outcome))
                self._try_blocked_at_s = time.monotonic() + _BLOCKED_PAUSE_S
            self._blocked.append(pending)

    async def _try_blocked(self) -> None:
        """What was set aside, in its order, up to the first that is still blocked: that is then the last."""
        for pending in self._blocked.copy():
            (outcome,) = await asyncio.get_running_loop().run_in_executor(
                self._writer, self._one_by_one, [pending.work]
            )
            self._blocked.remove(pending)
            self._answer_or_set_aside(pending, outcome)
            if pending in self._blocked:
                break
        self._try_blocked_at_s = time.monotonic() + _BLOCKED_PAUSE_S

    async def _gather(self, last_batch: int) -> None:
        """While it goes on coming, wait for as much work as the last transaction had: a transaction has its price.

        Work that comes alone does not wait.
        """
        ends_at_s, seen = time.monotonic() + _GATHERING_ENDS_AFTER_S, 0
        while seen < len(self._pending) < last_batch and time.monotonic() < ends_at_s:
            seen = len(self._pending)
            await asyncio.sleep(_GATHERING_STEP_S)

    # --- in a thread, or without an event loop -----------------------------------------------------------------

    def write_now(self, work: Callable[[Session], T]) -> T:
        """Run the work in a transaction of its own, in this thread."""
        return self._transact(lambda session: _run(session, work))

    def read_now(self, work: Callable[[Session], T]) -> T:
        """Run reading work in this thread."""
        with self._read_engine.connect() as connection:
            connection.begin()
            with _session(connection) as session:
                return work(session)

    def _commit(self, works: list[Work], lock_within_s: float | None = None) -> list[Any]:
        """All in one transaction. One that refuses (HubError) has written nothing and costs the others nothing.

        Raises DatabaseAway.
        """
        try:
            return self._transact(lambda session: [_outcome(session, work) for work in works], lock_within_s)
        except DatabaseAway:
            raise
        except CommitUnknown as error:  # none is run again: it may be stored
            return [error] * len(works)
        except Exception as error:  # noqa: BLE001 - told apart just below, one by one
            log.info("works of one transaction are run one by one", works=len(works), reason=repr(error))
            return self._one_by_one(works)

    def _one_by_one(self, works: list[Work]) -> list[Any]:
        ends_at_s = time.monotonic() + _ONE_BY_ONE_FOR_S
        outcomes: list[Any] = []
        for work in works:
            try:
                if time.monotonic() > ends_at_s:
                    raise DatabaseAway("it is too slow")
                outcomes.append(self._transact(partial(_run, work=work), _TRIED_FOR_S))
            except Exception as error:  # noqa: BLE001 - handed to the one who asked for this work
                outcomes.append(error)
        return outcomes

    def _transact(self, run: Callable[[Session], T], lock_within_s: float | None = None) -> T:
        """Run it in a transaction; from the start again, where another process was in the way.

        lock_within_s: how long PostgreSQL lets it wait for a lock; None: as long as anybody.
        Raises what it raises, and DatabaseAway, CommitUnknown.
        """
        for remaining in range(_WRITE_TRIES - 1, -1, -1):
            has_begun = has_run = False
            try:
                with self._write_engine.begin() as connection:
                    has_begun = True
                    if lock_within_s is not None and not self.is_sqlite:
                        run_on_driver(connection, f"SET LOCAL lock_timeout = {round(lock_within_s * 1000)}")
                    with _session(connection) as session:
                        result = run(session)
                    has_run = True
            except DBAPIError as error:
                if has_run:
                    raise CommitUnknown(why_away(error)) from error
                if remaining and _is_busy(error):
                    continue
                if not has_begun or error.connection_invalidated:
                    raise DatabaseAway(why_away(error)) from error
                raise
            else:
                return result
        raise AssertionError("unreachable")

    # --- the tables themselves -----------------------------------------------------------------------------------

    def migrate(self) -> None:
        """Bring the tables to the newest version, or raise DatabaseError and change nothing."""
        with self._opened() as connection:
            if not self.is_sqlite:  # several processes may start at once on an empty database
                connection.execute(text("SELECT pg_advisory_xact_lock(7204521)"))
            tables.upgrade(connection)

    def is_there(self) -> bool:
        """False for an SQLite file that nobody has made yet; to open it would make it."""
        return not self.is_sqlite or Path(self.url.database or "").exists()

    def versions(self) -> tuple[str | None, str | None]:
        """The version of the tables (None: there are none yet) and the newest one. Raises DatabaseError."""
        with self._opened() as connection:
            return tables.version_in(connection), tables.newest_version()

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """May take as long as it takes."""
        engine = self._write_engine if self.is_sqlite else _engine(self.url, begin="", patient=True)
        try:
            with engine.begin() as connection:
                yield connection
        except sqlalchemy.exc.DatabaseError as error:
            raise DatabaseError(f"the database {self.url.render_as_string()} cannot be opened: {error.orig}") from error
        finally:
            if engine is not self._write_engine:
                engine.dispose()


def _session(connection: Connection) -> Session:
    """A session for the works of one transaction that was begun."""
    session = Session(connection, expire_on_commit=False, join_transaction_mode="rollback_only")
    run_on(session, connection)
    return session


def _outcome(session: Session, work: Work) -> Any:
    """What the work returns, or its refusal."""
    try:
        return _run(session, work)
    except HubError as refusal:
        return refusal


def _run(session: Session, work: Callable[[Session], T]) -> T:
    """The session is as new for each work: none sees objects that another one has loaded, or added, before it."""
    try:
        result = work(session)
        session.flush()
        return result
    finally:
        if session.identity_map or session.new:  # most works use none of the session's objects
            session.expunge_all()


def _is_blocked(outcome: Any) -> bool:
    """Whether it has come to nothing because another process keeps a row locked that it needs."""
    return isinstance(outcome, DBAPIError) and getattr(outcome.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def _is_busy(error: DBAPIError) -> bool:
    """Another process was in the way, and nothing was stored: it may go better the next time."""
    return "database is locked" in str(error.orig) or getattr(error.orig, "sqlstate", None) == _DEADLOCK_DETECTED
