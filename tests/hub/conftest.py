"""Real parts for the hub's tests: SQLite files, one embedded server, the live stream. Only the link is played.

What is marked `both_databases` runs on PostgreSQL as well: one server for all, a database of its own for each test.
"""

import asyncio
import contextlib
import itertools
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
import pytest_asyncio
import redis
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.engine import make_url
from sqlmodel import Session

import hub.safety
from hub.commands import Commands
from hub.conversation import Conversation
from hub.database import Database
from hub.ingest import Ingest
from hub.liveness import AliveSession, LivenessKeys
from hub.models import Command, Site
from hub.orders import ConfigOrder, Desk, Order, place
from hub.protocol import messages
from hub.protocol.link import Message, NotConnected
from hub.protocol.messages import Heartbeat, Reply, State
from hub.protocol.times import utc_now
from hub.protocol.topics import Topics
from hub.quiet_log import QuietLines
from hub.rejects import Rejects
from hub.rounds import Rounds
from hub.sites import add_site
from hub.sqlite import sqlite_url
from hub.store import Store
from hub.stream import Entry, LiveStream
from hub.tasks import Tasks
from hub.valkey import embedded_valkey
from tests.end_to_end.postgres import Postgres, postgres_server

SITE, FEEDER = "pond7", "f1"
TOPICS = Topics()
DESK = Desk("h1", TOPICS, timeout_s=10)
TO = AliveSession("session-1", "journal-1", 1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG: dict[str, Any] = {
    "enabled": True,
    "meal_g": 250.0,
    "interval_s": 3600,
    "window": {"start": "06:00", "end": "19:30"},
    "daily_limit_g": 4000.0,
    "feed_rate_g_per_s": 12.5,
    "silo_low_g": 5000.0,
}


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def heartbeat(session: str = "session-1", seq: int = 1, **fields: Any) -> Heartbeat:
    said = {"online": True, "session": session, "seq": seq, "sent_at": utc_now(), "interval_s": 20, "agent": "test"}
    return Heartbeat.model_validate({"journal_id": "journal-1"} | said | fields)


def state(seq: int = 1, **fields: Any) -> State:
    reported = {"config": CONFIG, "config_version": 1, "local_rev": 0, "condition": "running", "control": "remote"}
    return State.model_validate({"seq": seq, "journal_id": "journal-1", "at": NOW} | reported | fields)


def reply(command_id: str, status: str, **fields: Any) -> Reply:
    return Reply.model_validate({"id": command_id, "status": status} | fields)


# --- the database ------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_databases") and "dialect" in metafunc.fixturenames:
        metafunc.parametrize("dialect", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def dialect(request: pytest.FixtureRequest) -> str:
    """SQLite, and for what is marked `both_databases` also PostgreSQL."""
    return str(getattr(request, "param", "sqlite"))


def _fill(url: str) -> None:
    """The newest tables and two sites, whose stop epochs begin at 0: small numbers are read more easily."""
    database = Database(url)
    database.migrate()

    def add_sites(session: Session) -> None:
        for site in (SITE, "pond8"):
            add_site(session, site, ["f1", "f2"], "Asia/Jerusalem", NOW)
        session.flush()
        session.execute(update(Site).values(stop_epoch=0))

    database.write_now(add_sites)
    database.close()


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two sites, made once and copied for each test."""
    path = tmp_path_factory.mktemp("template") / "hub.sqlite"
    _fill(f"sqlite:///{path}")
    return path


@dataclass(frozen=True)
class PostgresDatabases:
    """A server whose database `template` is what `_template` is for SQLite."""

    server: Postgres

    def url(self, database: str) -> str:
        return make_url(self.server.url).set(database=database).render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        """Outside of any transaction, as CREATE DATABASE wants it."""
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def copy(self, name: str, template: str) -> str:
        """A new database like one that nobody is connected to; its URL."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)


@pytest.fixture(scope="session")
def postgres(
    needs_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresDatabases]:
    """One server for all tests."""
    needs_program("postgres")
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        databases = PostgresDatabases(server)
        # Nothing has to survive a power cut, and nobody works beside the tests.
        for setting in ("synchronous_commit", "full_page_writes", "autovacuum"):
            databases.execute(f"ALTER SYSTEM SET {setting} = off")
        databases.execute("SELECT pg_reload_conf()")
        databases.execute("CREATE DATABASE template")
        _fill(databases.url("template"))
        yield databases


@pytest.fixture
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if dialect == "sqlite":
        yield sqlite_url(tmp_path)
        return
    with _postgres_database(request.getfixturevalue("postgres"), "template0") as url:
        yield url


@pytest.fixture
def database_url(dialect: str, _template: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the newest version with the sites pond7 and pond8, f1 and f2 each."""
    if dialect == "sqlite":
        shutil.copy(_template, tmp_path / "hub.sqlite")
        yield f"sqlite:///{tmp_path / 'hub.sqlite'}"
        return
    with _postgres_database(request.getfixturevalue("postgres"), "template") as url:
        yield url


_NUMBERS = itertools.count(1)


@contextlib.contextmanager
def _postgres_database(databases: PostgresDatabases, template: str) -> Iterator[str]:
    name = f"test{next(_NUMBERS)}"
    yield databases.copy(name, template)
    databases.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url) as database:
        yield database


@pytest.fixture(scope="session")
def _in_memory() -> Iterator[Database]:
    database = Database("sqlite://")
    yield database
    database.close()


@pytest.fixture(scope="session")
def _in_postgres(postgres: PostgresDatabases) -> Iterator[Database]:
    database = Database(postgres.copy("rules", "template"))
    yield database
    database.close()


@pytest.fixture
def session(dialect: str, _template: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """One transaction upon the same tables, in memory or taken back, for the rules that need no event loop."""
    if dialect == "postgresql":
        engine = request.getfixturevalue("_in_postgres")._write_engine
        with (
            engine.connect() as connection,
            Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session,
        ):
            transaction = connection.begin()
            yield session
            session.close()
            transaction.rollback()
        return
    in_memory = request.getfixturevalue("_in_memory")
    with Session(in_memory._write_engine, expire_on_commit=False) as session:
        into = session.connection().connection.driver_connection
        assert isinstance(into, sqlite3.Connection)
        session.rollback()
        with contextlib.closing(sqlite3.connect(_template)) as template:
            template.backup(into)
        yield session


@pytest.fixture(autouse=True)
def _doses_need_no_pause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where a test is about that: `pytest.mark.dose_pause`."""
    if request.node.get_closest_marker("dose_pause") is None:
        monkeypatch.setattr(hub.safety, "_PAUSE_S", 0.0)


def order(name: str, feeder: str | None = FEEDER, site: str = SITE, **fields: Any) -> Order:
    return Order(site, feeder, name, fields.pop("actor", "anna"), **fields)


def config_order(site: str = SITE, feeder: str = FEEDER, **fields: Any) -> ConfigOrder:
    """A change of the config: `args` is the whole of it if nothing else is given."""
    args = fields.pop("args", CONFIG)
    return ConfigOrder(site, feeder, "set_config", fields.pop("actor", "anna"), args=args, **fields)


def placed(session: Session, ordered: Order, at: datetime = NOW, to: AliveSession | None = TO) -> Command:
    return place(session, ordered, to, DESK, at).command


# --- Redis -------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _valkey(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with embedded_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def redis_url(_valkey: str) -> str:
    """The address of an empty server."""
    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    return _valkey


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with Store(redis_url) as store:
        yield store


@pytest.fixture
async def other_store(redis_url: str) -> AsyncIterator[Store]:
    """The store of a second hub process."""
    async with Store(redis_url) as store:
        yield store


@pytest.fixture
async def no_store(tmp_path: Path) -> AsyncIterator[Store]:
    """A Redis that is away."""
    async with Store(f"unix://{tmp_path / 'nobody.sock'}") as store:
        yield store


TTL_S = 30.0
SHORT_TTL_S = 0.3
"""For tests that wait for its end; the others must not depend on how busy the machine is."""


@pytest.fixture
async def keys(store: Store) -> LivenessKeys:
    """Liveness in an epoch that has begun: nobody is alive, and that is known."""
    keys = LivenessKeys(store, TTL_S)
    await keys.begin_epoch(recovering=False)
    await until(lambda: is_settled(keys))
    return keys


async def is_settled(keys: LivenessKeys) -> bool:
    return (await keys.read(["nobody"]))[0].alive is False


@pytest.fixture
async def stream(store: Store) -> AsyncIterator[LiveStream]:
    async with LiveStream(store, keep_events=10_000) as stream:
        yield stream


async def until(true: Callable[[], Awaitable[Any]], within_s: float = 5.0) -> Any:
    """Wait for it to be true, and return it."""
    async with asyncio.timeout(within_s):
        while not (found := await true()):
            await asyncio.sleep(0.005)
        return found


# --- the link ----------------------------------------------------------------------------------------------------


@dataclass
class PlayedLink:
    """A link without a broker: keeps what was published, hands messages in, and is away on demand."""

    connected: bool = True
    published: list[tuple[str, messages.Command]] = field(default_factory=list)
    acknowledged: list[bytes] = field(default_factory=list)
    receive: Callable[[Message], None] | None = None
    on_publish: Callable[[messages.Command], None] | None = None

    def publish(self, topic: str, payload: bytes) -> None:
        if not self.connected:
            raise NotConnected
        command = messages.Command.model_validate_json(payload)
        self.published.append((topic, command))
        if self.on_publish is not None:
            self.on_publish(command)

    def hand(self, topic: str, said: BaseModel | bytes, *, retained: bool = False, age_s: float = 0) -> Message:
        """A message arrives, `age_s` ago."""
        payload = said if isinstance(said, bytes) else messages.encode(said)
        message = Message(topic, payload, retained, time.monotonic() - age_s, lambda: self.acknowledged.append(payload))
        assert self.receive is not None
        self.receive(message)
        return message

    async def take(self, topic: str, said: BaseModel | bytes, **how: Any) -> None:
        """A message arrives and is acknowledged."""
        before = len(self.acknowledged)
        self.hand(topic, said, **how)
        await until(lambda: self._more_than(before))

    async def _more_than(self, before: int) -> bool:
        return len(self.acknowledged) > before

    def said(self, name: str | None = None) -> list[messages.Command]:
        """What was published, by name."""
        return [command for _, command in self.published if name in (None, command.name)]

    async def told(self, name: str, count: int = 1) -> messages.Command:
        """The newest command of that name, when so many were published."""

        async def enough() -> bool:
            return len(self.said(name)) >= count

        await until(enough)
        return self.said(name)[-1]


# --- a whole hub process -----------------------------------------------------------------------------------------


@dataclass
class Process:
    """The hub's parts as one process has them, upon a link that is played."""

    database: Database
    store: Store
    liveness: LivenessKeys
    stream: LiveStream
    rejects: Rejects
    link: PlayedLink
    commands: Commands
    conversation: Conversation
    ingest: Ingest

    def rounds(self) -> Rounds:
        return Rounds(self.database, self.liveness, self.stream, self.commands, self.conversation, self.rejects.lines)

    async def beat(self, session: str = "session-1", seq: int = 1, site: str = SITE, **fields: Any) -> None:
        """The desktop's heartbeat, taken in."""
        await self.link.take(TOPICS.heartbeat(site), heartbeat(session, seq, **fields))

    async def answer(self, command_id: str, status: str, site: str = SITE, **fields: Any) -> None:
        """The desktop's reply, taken in."""
        await self.link.take(TOPICS.replies(site, "h1"), reply(command_id, status, **fields))

    async def get(self, command_id: str) -> Command:
        return await self.commands.get(command_id)


StartProcess = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start_process(database_url: str, redis_url: str) -> AsyncIterator[StartProcess]:
    """Start hub processes on the same database and Redis; liveness is known."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(hub_id: str = "h1", timeout_s: float = 10, store_url: str = redis_url) -> Process:
            database = await stack.enter_async_context(Database(database_url))
            store = await stack.enter_async_context(Store(store_url))
            stream = await stack.enter_async_context(LiveStream(store, keep_events=10_000))
            tasks = await stack.enter_async_context(Tasks())
            lines = await stack.enter_async_context(QuietLines())
            liveness, rejects = LivenessKeys(store, TTL_S), Rejects(store, lines)
            await liveness.begin_epoch(recovering=False)
            desk, link = Desk(hub_id, TOPICS, timeout_s), PlayedLink()
            commands = Commands(database, liveness, stream, rejects, desk, link)
            conversation = Conversation(database, commands, desk, link, tasks)
            ingest = Ingest(database, liveness, stream, commands, conversation, rejects, TOPICS, tasks)
            link.receive = ingest.receive
            return Process(database, store, liveness, stream, rejects, link, commands, conversation, ingest)

        yield start


@pytest.fixture
async def process(start_process: StartProcess) -> Process:
    return await start_process()


class Overheard:
    """What the live stream tells, from now on."""

    def __init__(self, stream: LiveStream) -> None:
        self.entries: list[Entry] = []
        self._stream = stream

    async def __aenter__(self) -> Self:
        self._listening = asyncio.Event()
        self._task = asyncio.create_task(self._follow())
        await until(self._is_listening)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _follow(self) -> None:
        async for entry in self._stream.follow():
            if entry.kind == "listening":
                self._listening.set()
            else:
                self.entries.append(entry)

    async def _is_listening(self) -> bool:
        self._stream.publish("listening", "", {})
        await asyncio.sleep(0.005)
        return self._listening.is_set()

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [entry.data for entry in self.entries if entry.kind == kind]

    async def hear(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """What was told of that kind, once it is so many."""

        async def enough() -> bool:
            return len(self.told(kind)) >= count

        await until(enough)
        return self.told(kind)

    async def settled(self) -> None:
        """Everything published until now has been heard."""
        self._listening.clear()
        await until(self._is_listening)
