"""The database: many writes in one transaction, each failing alone; a second process beside; migrations."""

import asyncio
import sqlite3
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command as alembic_command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import IntegrityError, StatementError
from sqlmodel import Session, SQLModel, select

from hub.database import Database
from hub.errors import NotFound
from hub.models import Command, Feeder, Presence, Site
from hub.sites import delete_site, get_site
from hub.tables import DatabaseError, alembic_config
from hub.tasks import TaskDied
from tests.hub.conftest import NOW, SITE, order, placed

OTHER_WRITER = """
import sqlite3, sys, time
path, count = sys.argv[1], int(sys.argv[2])
database = sqlite3.connect(path, timeout=30, isolation_level=None)
print("ready", flush=True)
sys.stdin.readline()
for n in range(count):
    database.execute("BEGIN IMMEDIATE")
    (epoch,) = database.execute("SELECT stop_epoch FROM site WHERE id = 'pond7'").fetchone()
    database.execute("UPDATE site SET stop_epoch = ? WHERE id = 'pond7'", (epoch + 1,))
    database.execute("COMMIT")
"""

MOMENT = "'2026-01-01 00:00:00'"
ROWS_OF_THE_FIRST_VERSION = [
    f"INSERT INTO site VALUES ('pond7', 'Pond 7', 'UTC', 'hash', {MOMENT}, 0, NULL, NULL)",
    *(
        "INSERT INTO feeder (site_id, id, created_at, last_version, desired_config, desired_version, "
        f"pending_command_id, local_rev) VALUES ('pond7', '{feeder}', {MOMENT}, 1, '{{\"meal_g\": 250}}', 1, "
        f"'{command}', 0)"
        for feeder, command in (("f1", "C1"), ("f2", "C2"))
    ),
    *(
        "INSERT INTO command (id, site_id, feeder_id, name, args, state, actor, hub_id, stop_epoch, created_at, "
        f"expires_at, deadline_at, report_count) VALUES ('{command}', 'pond7', '{feeder}', 'set_config', '{{}}', "
        f"'{state}', 'anna', 'h1', 0, {MOMENT}, {MOMENT}, {MOMENT}, 0)"
        for feeder, command, state in (("f1", "C1", "sent"), ("f2", "C2", "unknown"))
    ),
    f"INSERT INTO feeder_event VALUES ('pond7', 'E1', 'f1', 1, 'meal', {MOMENT}, 1, 1, NULL, NULL, {MOMENT})",
]


def count_one(session: Session) -> int:
    """Read, then write what depends on it: a lost update would show."""
    site = session.get_one(Site, SITE, with_for_update=True)
    site.stop_epoch += 1
    session.add(site)
    return site.stop_epoch


async def epoch(database: Database) -> int:
    return await database.read(lambda session: get_site(session, SITE).stop_epoch)


# --- writing -----------------------------------------------------------------------------------------------------


async def test_many_writes_at_once_are_all_there_with_their_results_in_order(database: Database) -> None:
    results = await asyncio.gather(*(database.write(count_one) for _ in range(1000)))
    assert results == list(range(1, 1001))
    assert await epoch(database) == 1000


async def test_writes_that_come_at_once_share_transactions(database: Database) -> None:
    commits = 0

    def counted(connection: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(database._write_engine, "commit", counted)
    await asyncio.gather(*(database.write(count_one) for _ in range(200)))
    assert commits <= 3


@pytest.mark.both_databases
async def test_a_failing_write_fails_alone_and_the_others_stand(database: Database) -> None:
    def fails(session: Session) -> int:
        count_one(session)
        raise LookupError("mine")

    def breaks_the_tables(session: Session) -> None:
        count_one(session)
        session.add(Feeder(site_id="nowhere", id="f1", created_at=NOW))

    works = [count_one, fails, count_one, breaks_the_tables, count_one, fails, count_one]
    results = await asyncio.gather(*(database.write(work) for work in works), return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == [1, 2, 3, 4]
    assert [type(result) for result in results if not isinstance(result, int)] == [
        LookupError,
        IntegrityError,
        LookupError,
    ]
    assert await epoch(database) == 4


async def test_what_a_write_returns_can_be_read_after_its_transaction(database: Database) -> None:
    site = await database.write(lambda session: get_site(session, SITE))
    assert site.time_zone == "Asia/Jerusalem"


async def test_a_write_is_committed_before_its_caller_goes_on(database: Database, tmp_path: Path) -> None:
    await database.write(count_one)
    with sqlite3.connect(tmp_path / "hub.sqlite") as other:
        assert other.execute("SELECT stop_epoch FROM site WHERE id = 'pond7'").fetchone() == (1,)
    other.close()


async def test_a_caller_that_gave_up_leaves_the_row_and_the_other_callers_alone(database: Database) -> None:
    writes = [asyncio.create_task(database.write(count_one)) for _ in range(10)]
    await asyncio.sleep(0)
    for impatient in writes[::2]:
        impatient.cancel()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results[::2]] == [asyncio.CancelledError] * 5
    assert results[1::2] == [2, 4, 6, 8, 10]
    assert await epoch(database) == 10


async def test_what_was_handed_in_before_the_end_is_written(database_url: str) -> None:
    async with Database(database_url) as database:
        writes = [asyncio.create_task(database.write(count_one)) for _ in range(300)]
        await asyncio.sleep(0)
    assert await asyncio.gather(*writes) == list(range(1, 301))
    async with Database(database_url) as database:
        assert await epoch(database) == 300
    with pytest.raises(RuntimeError, match="closed"):
        await database.write(count_one)


async def test_a_second_process_that_writes_meanwhile_loses_nothing(database: Database, tmp_path: Path) -> None:
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER_WRITER, str(tmp_path / "hub.sqlite"), "300"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert await asyncio.wait_for(other.stdout.readline(), 20) == b"ready\n"
        other.stdin.write(b"go\n")
        other.stdin.close()
        ended = asyncio.create_task(other.wait())
        ours = 0
        while not ended.done():
            await asyncio.gather(*(database.write(count_one) for _ in range(5)))
            ours += 5
        assert ended.result() == 0
    finally:
        if other.returncode is None:
            other.kill()
            await other.wait()
    assert await epoch(database) == 300 + ours


async def test_when_the_writer_dies_nobody_waits_for_it_and_the_block_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise LookupError("by mistake")

    database = Database(database_url)
    writes: list[asyncio.Task[int]] = []

    async def block() -> None:
        async with database:
            monkeypatch.setattr(database, "_commit", mistaken)
            writes.extend(asyncio.create_task(database.write(count_one)) for _ in range(300))
            await asyncio.sleep(30)

    with pytest.raises(TaskDied, match="database-write died of LookupError"):
        await block()
    assert [type(error) for error in await asyncio.gather(*writes, return_exceptions=True)] == [RuntimeError] * 300
    with pytest.raises(RuntimeError, match="closed"):
        await database.write(count_one)


@pytest.mark.both_databases
async def test_two_hub_processes_on_one_database_lose_nothing(database_url: str) -> None:
    async with Database(database_url) as one, Database(database_url) as two:
        for _ in range(10):
            await asyncio.gather(*(database.write(count_one) for database in (one, two) for _ in range(10)))
        assert await epoch(one) == await epoch(two) == 200


# --- reading -----------------------------------------------------------------------------------------------------


async def test_readers_do_not_wait_for_a_writer(database: Database, tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "hub.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE site SET stop_epoch = 99")
    try:
        assert await asyncio.wait_for(epoch(database), 1) == 0
    finally:
        writer.execute("ROLLBACK")
        writer.close()


async def test_what_reading_raises_is_raised_to_its_caller(database: Database) -> None:
    def fails(session: Session) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.read(fails)


# --- the tables --------------------------------------------------------------------------------------------------


def differences_from_the_models(database: Database) -> list[object]:
    with database._write_engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert set(inspect(connection).get_table_names()) == {*SQLModel.metadata.tables, "alembic_version"}
        return list(compare_metadata(context, SQLModel.metadata))


@pytest.mark.both_databases
async def test_from_nothing_the_migrations_make_exactly_the_tables_of_the_models(empty_url: str) -> None:
    async with Database(empty_url) as database:
        assert differences_from_the_models(database) == []


@pytest.mark.both_databases
def test_a_database_of_the_first_version_is_brought_to_the_newest_with_its_rows(empty_url: str) -> None:
    database = Database(empty_url)
    with database._write_engine.begin() as connection:
        alembic_command.upgrade(alembic_config(connection), "0001")
        for statement in ROWS_OF_THE_FIRST_VERSION:
            connection.execute(text(statement))
    database.migrate()
    assert database.versions()[0] == database.versions()[1]
    assert differences_from_the_models(database) == []
    with Session(database._read_engine) as session:
        flying, over = session.exec(select(Feeder).order_by(Feeder.id))
        assert (flying.in_flight_command_id, over.in_flight_command_id) == ("C1", None)
        assert flying.desired_config == {"meal_g": 250}
        assert session.get_one(Site, SITE).sought == "pond7\npond 7"
        assert {command.id: command.closed_at for command in session.exec(select(Command))} == {"C1": None, "C2": None}
    database.close()


@pytest.mark.both_databases
async def test_indexes_are_partial_where_the_models_say_so(database: Database) -> None:
    catalogue = "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
    if not database.is_sqlite:
        catalogue = "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE schemaname = 'public'"

    def partial(session: Session) -> dict[str, str]:
        rows = session.connection().execute(text(catalogue))
        return {row.name: row.sql for row in rows if row.sql and "WHERE" in row.sql}

    assert set(await database.read(partial)) == {
        "ix_audit_entry_action",
        "ix_command_dose",
        "ix_command_open",
        "ix_command_unresolved",
        "ix_rollout_open",
        "uq_presence_open",
    }


async def test_a_database_of_the_newest_version_is_opened_with_its_rows(database_url: str) -> None:
    for expected in (1, 2, 3):
        async with Database(database_url) as database:
            assert await database.write(count_one) == expected


@pytest.mark.both_databases
async def test_a_database_of_a_newer_hub_is_refused_with_what_to_do_and_left_alone(database_url: str) -> None:
    newer = Database(database_url)
    newer.write_now(
        lambda session: session.connection().execute(text("UPDATE alembic_version SET version_num = '9999'"))
    )
    with pytest.raises(DatabaseError, match=r"9999.*newer"):
        await Database(database_url).__aenter__()
    select_version = text("SELECT version_num FROM alembic_version")
    assert newer.read_now(lambda session: session.connection().execute(select_version).scalar_one()) == "9999"
    newer.close()


async def test_a_database_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot be opened"):
        await Database(f"sqlite:///{tmp_path}/no/such/directory/hub.sqlite").__aenter__()


async def test_a_file_that_is_no_database_is_refused_clearly(tmp_path: Path) -> None:
    (tmp_path / "hub.sqlite").write_bytes(b"these are no tables at all " * 100)
    with pytest.raises(DatabaseError):
        await Database(f"sqlite:///{tmp_path / 'hub.sqlite'}").__aenter__()


@pytest.mark.both_databases
async def test_two_processes_may_start_on_an_empty_database_at_once(empty_url: str) -> None:
    databases = [Database(empty_url) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(database.migrate) for database in databases))
    for database in databases:
        database.close()


@pytest.mark.parametrize("url", ["mysql://h/db", "oracle://h/db"])
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(DatabaseError, match="sqlite"):
        Database(url)


@pytest.mark.both_databases
def test_foreign_keys_are_kept(session: Session) -> None:
    session.add(Feeder(site_id="nowhere", id="f1", created_at=NOW))
    with pytest.raises(IntegrityError):
        session.flush()


@pytest.mark.both_databases
def test_with_its_site_everything_of_the_site_goes_but_the_audit(session: Session) -> None:
    placed(session, order("pause"))
    session.flush()
    delete_site(session, SITE)
    session.flush()
    left = [
        table.name
        for table in SQLModel.metadata.sorted_tables
        for column in ("site_id",)
        if column in table.columns
        and session.connection().execute(select(table).where(table.c[column] == SITE)).first() is not None
    ]
    assert left == ["audit_entry"]


def test_sqlite_is_set_up_to_lose_nothing(database_url: str) -> None:
    database = Database(database_url)
    for engine in (database._write_engine, database._read_engine):
        with engine.connect() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}
    database.close()


@pytest.mark.both_databases
def test_times_keep_utc(session: Session) -> None:
    elsewhere = datetime(2026, 3, 1, 14, 0, 0, 123_000, timezone(timedelta(hours=2)))
    session.add(Presence(site_id=SITE, session="s1", began_at=elsewhere))
    session.flush()
    session.expire_all()
    span = session.exec(select(Presence)).one()
    assert span.began_at == elsewhere
    assert span.began_at.tzinfo is UTC
    assert span.began_at.hour == 12
    assert span.began_at.microsecond == 123_000


@pytest.mark.both_databases
def test_times_compare_across_zones_in_the_database(session: Session) -> None:
    session.add(Presence(site_id=SITE, session="s1", began_at=NOW))
    session.flush()
    same = NOW.astimezone(timezone(timedelta(hours=-9)))
    assert session.exec(select(Presence).where(Presence.began_at >= same)).first() is not None
    assert session.exec(select(Presence).where(Presence.began_at > same)).first() is None


@pytest.mark.both_databases
def test_a_time_without_a_zone_is_refused(session: Session) -> None:
    session.add(Presence(site_id=SITE, session="s1", began_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - what is refused
    with pytest.raises(StatementError, match="time zone"):
        session.flush()


def test_a_site_that_was_never_stopped_has_no_time_of_its_stop(session: Session) -> None:
    assert session.get_one(Site, SITE).stopped_at is None


@pytest.mark.both_databases
async def test_one_refusal_costs_the_other_works_of_its_transaction_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: list[object] = []
    monkeypatch.setattr(database, "_one_by_one", alone.append)

    def refuse(session: Session) -> None:
        raise NotFound("no such thing")

    outcomes = await asyncio.gather(
        *(database.write(refuse if n == 3 else count_one) for n in range(8)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(NotFound) == 1
    assert alone == []
