"""A database that is away, frozen or unfit: what its callers are told, and that nobody waits for it without an end."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text, update
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, select
from ulid import ULID

import hub.database
import hub.postgresql
from hub.accounts import add_token
from hub.database import AWAY, CommitUnknown, Database, DatabaseAway
from hub.errors import NotFound
from hub.feeders import list_feeders
from hub.history import History
from hub.ingest import store_event
from hub.models import FEEDER, Site, Token
from hub.protocol.messages import Event
from hub.quiet_log import QuietLines
from hub.rights import Role
from hub.sites import delete_site, get_site
from hub.stream import LiveStream
from tests.chaos.line import Line, Way
from tests.hub.conftest import NOW, SITE, PostgresDatabases

on_postgresql = pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)


def make_token(session: Session) -> str:
    return add_token(session, Role.VIEWER, None, "anna", NOW)


async def tokens(database: Database) -> int:
    return await database.read(lambda session: len(session.exec(select(Token)).all()))


def look(session: Session) -> str:
    return get_site(session, SITE).id


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.postgresql, "ANSWER_WITHIN_S", 0.5)
    monkeypatch.setattr(hub.postgresql, "_PEER", {"connect_timeout": 2})  # libpq's least


# --- while it commits ---------------------------------------------------------------------------------------------


@pytest.mark.both_databases
async def test_what_may_be_stored_is_not_stored_again_and_its_callers_are_told_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect: Any = database._write_engine.dialect
    commit, lost = dialect.do_commit, iter([True])

    def commit_and_lose_the_connection(connection: Any) -> None:
        commit(connection)
        if next(lost, False):
            raise OperationalError("COMMIT", {}, dialect.loaded_dbapi.OperationalError("connection lost"))

    monkeypatch.setattr(dialect, "do_commit", commit_and_lose_the_connection)
    outcomes = await asyncio.gather(*(database.write(make_token) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [CommitUnknown] * 3
    assert "may be stored, or not" in str(outcomes[0])
    assert await tokens(database) == 3
    await database.write(make_token)
    assert await tokens(database) == 4


# --- out of reach ---------------------------------------------------------------------------------------------------


async def test_where_there_is_no_database_those_who_came_meanwhile_are_told_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_connection: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(hub.database, "_MAX_BATCH", 2)
    monkeypatch.setattr(database._write_engine.dialect, "do_ping", away, raising=False)
    monkeypatch.setattr(database._write_engine.pool, "connect", lambda: away(None))
    outcomes = await asyncio.gather(*(database.write(make_token) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseAway] * 5


async def test_a_database_that_another_process_keeps_for_itself_is_away(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database._write_engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50").close()
    other = sqlite3.connect(tmp_path / "hub.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(DatabaseAway):
            await database.write(make_token)
    finally:
        other.execute("ROLLBACK")
        other.close()
    await database.write(make_token)


@on_postgresql
@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("ways", [(Way.UP,), (Way.DOWN,)])
async def test_a_database_that_is_frozen_is_away_in_bounded_time_and_comes_back(
    postgres: PostgresDatabases, database_url: str, ways: tuple[Way, ...]
) -> None:
    async with Line(lambda: postgres.server.port) as line:
        url = make_url(database_url).set(port=line.port).render_as_string(hide_password=False)
        async with Database(url) as database:
            assert await database.read(look) == SITE
            line.swallow(*ways)
            began_s = time.monotonic()
            both = (database.read(look), database.write(make_token), database.write(make_token))
            outcomes = await asyncio.gather(*both, return_exceptions=True)
            assert all(isinstance(outcome, AWAY) for outcome in outcomes), outcomes
            assert time.monotonic() - began_s < 6
            line.heal()
            assert await database.read(look) == SITE
            await database.write(make_token)


@on_postgresql
@pytest.mark.usefixtures("_impatient")
async def test_a_hub_can_stop_while_its_database_is_frozen(postgres: PostgresDatabases, database_url: str) -> None:
    async with Line(lambda: postgres.server.port) as line:
        url = make_url(database_url).set(port=line.port).render_as_string(hide_password=False)
        async with Database(url) as database:
            await database.read(look)
            line.swallow(*Way)
            calls = [asyncio.create_task(call(work)) for call, work in ((database.read, look), (database.write, look))]
            await asyncio.sleep(0)
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 6
        await asyncio.gather(*calls, return_exceptions=True)
        line.heal()


async def test_a_read_that_is_not_answered_ends_whatever_its_thread_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.database, "READ_WITHIN_S", 0.05)
    may_end = threading.Event()
    try:
        with pytest.raises(DatabaseAway):
            await database.read(lambda _session: may_end.wait(10))
    finally:
        may_end.set()


# --- PostgreSQL's own limits -------------------------------------------------------------------------------------


@on_postgresql
async def test_a_statement_and_a_wait_for_a_lock_have_their_limits_and_a_migration_has_none(database_url: str) -> None:
    async with Database(database_url) as database:
        limits = text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
        assert await database.read(lambda session: tuple(session.connection().execute(limits).one())) == (
            "15s",
            "500ms",
        )
        with database._opened() as connection:
            assert tuple(connection.execute(limits).one()) == ("0", "0")


@on_postgresql
async def test_a_slow_work_costs_the_others_of_its_transaction_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.postgresql, "STATEMENT_WITHIN_S", 1)

    def slow(session: Session) -> None:
        session.connection().execute(text("SELECT pg_sleep(30)"))

    async with Database(database_url) as database:
        works = (make_token, slow, make_token)
        outcomes = await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [str, OperationalError, str]
        assert await tokens(database) == 2


# --- another hub that is frozen in the middle of a transaction ------------------------------------------------------


def lock_site(site: str) -> Callable[[Session], str]:
    return lambda session: session.get_one(Site, site, with_for_update=True).id


@asynccontextmanager
async def frozen_hub(database_url: str, site: str) -> AsyncIterator[asyncio.Future[str]]:
    """It has locked the site's row and stands still until the end of the block; yields how its own work ends then."""
    locked, thaw = threading.Event(), threading.Event()

    def lock_and_freeze(session: Session) -> str:
        lock_site(site)(session)
        locked.set()
        thaw.wait(30)
        return make_token(session)

    async with Database(database_url) as other:
        told = asyncio.ensure_future(other.write(lock_and_freeze))
        assert await asyncio.to_thread(locked.wait, 5)
        try:
            yield told
        finally:
            thaw.set()
            await asyncio.wait({told})
        await other.write(make_token)


@on_postgresql
async def test_a_hub_that_is_frozen_in_a_transaction_holds_up_only_its_rows_and_these_for_a_bounded_time(
    database: Database, database_url: str
) -> None:
    async with frozen_hub(database_url, SITE) as its_own:
        began_s = time.monotonic()
        blocked = [asyncio.ensure_future(database.write(lock_site(SITE))) for _ in range(20)]
        elsewhere = await asyncio.gather(*(database.write(lock_site("pond8")) for _ in range(20)))
        assert elsewhere == ["pond8"] * 20
        assert time.monotonic() - began_s < 2.5
        again_s = time.monotonic()
        await database.write(lock_site("pond8"))
        assert time.monotonic() - again_s < 0.5
        assert await asyncio.gather(*blocked) == [SITE] * 20
        assert time.monotonic() - began_s < 6
    assert isinstance(its_own.exception(), DatabaseAway)


@on_postgresql
async def test_who_waits_too_long_for_a_lock_is_told_that_the_database_cannot_be_used_now(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.database, "_BLOCKED_FOR_S", 0.3)
    async with Database(database_url) as database, frozen_hub(database_url, SITE):
        with pytest.raises(DatabaseAway):
            await database.write(lock_site(SITE))
        await database.write(lock_site("pond8"))


# --- times --------------------------------------------------------------------------------------------------------


@on_postgresql
@pytest.mark.parametrize("patient", [False, True])
async def test_times_are_read_whatever_zone_the_server_is_in(
    postgres: PostgresDatabases, database_url: str, patient: bool
) -> None:
    postgres.execute(f"ALTER DATABASE {make_url(database_url).database} SET timezone = 'Asia/Tokyo'")
    last = datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)
    async with Database(database_url, patient=patient) as database:
        await database.write(
            lambda session: session.connection().execute(update(FEEDER).values(state_at=last)) and None
        )
        feeders = await database.read(lambda session: list_feeders(session, SITE, None, 10))
        assert [feeder.state_at for feeder in feeders] == [last, last]


# --- a site that goes -----------------------------------------------------------------------------------------------


@on_postgresql
async def test_what_a_site_says_while_another_hub_deletes_it_is_of_no_site(
    database: Database, database_url: str, stream: LiveStream
) -> None:
    deleted, go_on = threading.Event(), threading.Event()

    def delete(session: Session) -> None:
        delete_site(session, SITE)
        session.flush()
        deleted.set()
        go_on.wait(10)

    said = {"id": str(ULID()), "seq": 1, "kind": "meal", "at": NOW}
    history = History(database, stream, QuietLines())
    async with Database(database_url) as other:
        deleting = asyncio.ensure_future(other.write(delete))
        assert await asyncio.to_thread(deleted.wait, 5)
        works = [
            asyncio.ensure_future(
                database.write(lambda session: store_event(session, SITE, "f1", Event.model_validate(said), NOW))
            ),
            asyncio.ensure_future(history.begin(SITE, "session-1")),
        ]
        await asyncio.wait(works, timeout=0.3)
        go_on.set()
        await deleting
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [NotFound, NotFound]
