"""What is old goes, and only that: nothing open, nothing current, and nobody has to wait for it."""

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, text
from sqlalchemy.event import listen
from sqlmodel import Session, SQLModel, col, select, update
from ulid import ULID

from hub.command_states import SETTLED, CommandState
from hub.database import Database
from hub.feeders import take_state
from hub.housekeeping import Housekeeping
from hub.models import (
    COMMAND,
    FEEDER_EVENT,
    PRESENCE,
    AuditEntry,
    Command,
    CommandStep,
    ConfigRevision,
    Feeder,
    FeederEvent,
    IdempotencyKey,
    Presence,
    Site,
)
from hub.orders import Key
from hub.retention import Kept, find_old, thin
from hub.sqlite import sqlite_url
from tests.hub.conftest import CONFIG, FEEDER, NOW, SITE, config_order, order, placed, state, until

pytestmark = pytest.mark.both_databases

S = CommandState
YEAR = timedelta(days=365)
LONG_AGO = NOW - 2 * YEAR
ALL_KINDS = Kept(YEAR, YEAR, YEAR, YEAR, YEAR, YEAR)


def command(session: Session, at: datetime, to: CommandState = S.APPLIED, **fields: Any) -> str:
    """A command of that time, and its step."""
    made = {"id": str(ULID.from_datetime(at)), "site_id": SITE, "feeder_id": FEEDER, "name": "pause", "args": {}}
    times = {"created_at": at, "expires_at": at, "deadline_at": at, "settled_at": at if to in SETTLED else None}
    made |= {"state": to, "actor": "anna", "hub_id": "h1", "stop_epoch": 0, "report_count": 0} | times | fields
    session.connection().execute(insert(COMMAND), made)
    session.add(CommandStep(command_id=str(made["id"]), state=to, at=at, cause="test"))
    session.flush()
    return str(made["id"])


def revision(session: Session, at: datetime, version: int, command_id: str | None = None) -> None:
    fields: dict[str, Any] = {"site_id": SITE, "feeder_id": FEEDER, "local_rev": 0, "origin": "hub", "config": CONFIG}
    session.add(ConfigRevision(version=version, at=at, command_id=command_id, **fields))
    session.flush()


def event(at: datetime, received_at: datetime | None = None, feeder: str = FEEDER) -> dict[str, Any]:
    kind = {"seq": 1, "kind": "meal", "dispensed_g": 250.0}
    ids = {"site_id": SITE, "feeder_id": feeder, "id": str(ULID.from_datetime(at))}
    return {**ids, "at": at, "received_at": received_at or at, **kind}


def thin_all(session: Session, kept: Kept = ALL_KINDS, at_most: int = 1000) -> int:
    return thin(session, find_old(session, NOW, kept, at_most))


def left(session: Session, table: type[SQLModel]) -> int:
    session.expire_all()
    return session.exec(select(func.count()).select_from(table)).one()


def test_what_is_old_goes_and_what_is_young_stays(session: Session) -> None:
    for at in (LONG_AGO, NOW - YEAR - timedelta(minutes=1), NOW - YEAR + timedelta(minutes=1), NOW):
        command(session, at)
        revision(session, at, 1)
        session.connection().execute(insert(FEEDER_EVENT), event(at))
        session.add(Presence(site_id=SITE, session="s", began_at=at, ended_at=at))
        session.add(AuditEntry(id=str(ULID.from_datetime(at)), at=at, actor="anna", action="x"))
        session.flush()
    assert thin_all(session) == 10
    for table in (AuditEntry, Command, CommandStep, ConfigRevision, FeederEvent, Presence):
        assert left(session, table) == 2, table
    assert thin_all(session) == 0


def test_what_is_kept_for_ever_stays(session: Session) -> None:
    command(session, LONG_AGO)
    revision(session, LONG_AGO, 1)
    session.connection().execute(insert(FEEDER_EVENT), event(LONG_AGO))
    assert thin_all(session, Kept()) == 0


def test_no_more_rows_go_in_a_step_than_it_may_take(session: Session) -> None:
    for hours in range(10):
        command(session, LONG_AGO + timedelta(hours=hours))
        session.connection().execute(insert(FEEDER_EVENT), event(LONG_AGO + timedelta(hours=hours)))
    assert [thin_all(session, at_most=7) for _ in range(4)] == [7, 7, 6, 0]


@pytest.mark.parametrize("open_state", [state for state in S if state not in SETTLED])
def test_a_command_that_is_open_stays_however_old_it_is(session: Session, open_state: CommandState) -> None:
    command(session, LONG_AGO, open_state)
    assert thin_all(session) == 0


def test_what_is_unresolved_stays_until_a_person_has_closed_it_a_year_ago(session: Session) -> None:
    this = command(session, LONG_AGO, S.UNRESOLVED)
    assert thin_all(session) == 0
    session.exec(update(Command).where(col(Command.id) == this).values(closed_at=NOW))
    assert thin_all(session) == 1


def test_an_old_command_that_ended_lately_stays(session: Session) -> None:
    command(session, LONG_AGO, settled_at=NOW - timedelta(days=1))
    assert thin_all(session) == 0


def test_the_stop_that_a_site_is_under_stays(session: Session) -> None:
    this = command(session, LONG_AGO, name="stop_all", feeder_id=None)
    session.get_one(Site, SITE).stop_command_id = this
    session.flush()
    assert thin_all(session) == 0
    session.get_one(Site, SITE).stop_command_id = None
    session.flush()
    assert thin_all(session) == 1


@pytest.mark.parametrize("column", ["pending_command_id", "in_flight_command_id"])
def test_what_a_feeder_waits_for_stays(session: Session, column: str) -> None:
    setattr(session.get_one(Feeder, (SITE, FEEDER)), column, command(session, LONG_AGO))
    session.flush()
    assert thin_all(session) == 0


def test_the_revisions_that_a_feeder_has_and_is_to_have_stay(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(config_version=2), NOW)
    session.get_one(Feeder, (SITE, FEEDER)).desired_version = 3
    for version in (1, 2, 3):
        revision(session, LONG_AGO, version)
    assert thin_all(session) == 1
    assert sorted(session.exec(select(ConfigRevision.version))) == [2, 3]


def test_a_revision_stays_while_its_change_is_open_and_a_change_as_long_as_its_revision(session: Session) -> None:
    session.flush()
    waiting, done = command(session, LONG_AGO, S.UNKNOWN), command(session, LONG_AGO)
    revision(session, LONG_AGO, 1, waiting)
    revision(session, LONG_AGO, 2, done)
    assert thin_all(session, Kept(commands=YEAR)) == 0
    assert thin_all(session, Kept(commands=YEAR, revisions=YEAR)) == 1
    assert thin_all(session, Kept(commands=YEAR)) == 1
    assert session.exec(select(ConfigRevision.command_id)).all() == [waiting]


def test_an_event_of_a_farm_whose_clock_is_years_behind_stays(session: Session) -> None:
    session.connection().execute(insert(FEEDER_EVENT), event(LONG_AGO, received_at=NOW))
    assert thin_all(session) == 0


def test_who_is_there_since_long_stays(session: Session) -> None:
    session.connection().execute(insert(PRESENCE), {"site_id": SITE, "session": "s", "began_at": LONG_AGO})
    assert thin_all(session) == 0


@pytest.mark.parametrize("open_state", [state for state in S if state not in SETTLED])
def test_the_key_of_an_open_command_stays_however_old_it_is(session: Session, open_state: CommandState) -> None:
    this = command(session, LONG_AGO, open_state)
    session.add(IdempotencyKey(owner="a", key="k", fingerprint="f", command_id=this, created_at=LONG_AGO))
    session.flush()
    assert thin_all(session) == 0


def test_a_key_goes_before_its_command(session: Session) -> None:
    this = command(session, NOW - timedelta(hours=25))
    session.add(IdempotencyKey(owner="a", key="k", fingerprint="f", command_id=this, created_at=NOW))
    session.flush()
    assert thin_all(session, Kept(idempotency_keys=timedelta(hours=26))) == 0
    assert thin_all(session, Kept(idempotency_keys=timedelta(hours=24))) == 1
    assert left(session, Command) == 1


def test_with_a_command_goes_what_belongs_to_it(session: Session) -> None:
    this = command(session, LONG_AGO)
    session.add(IdempotencyKey(owner="a", key="k", fingerprint="f", command_id=this, created_at=NOW))
    session.flush()
    assert thin_all(session, Kept(commands=YEAR)) == 1
    assert left(session, IdempotencyKey) == left(session, CommandStep) == 0


def test_a_change_that_was_ordered_and_settled_is_kept_with_its_revision(session: Session) -> None:
    placed(session, config_order(), at=LONG_AGO)
    placed(session, order("feed", args={"grams": 5}, key=Key("a", "k", "f")), at=LONG_AGO)
    assert thin_all(session) == 0


async def test_old_rows_go_by_themselves_and_a_write_hardly_waits_for_them(database: Database) -> None:
    count = 100_000 if database.is_sqlite else 20_000
    rows = [event(LONG_AGO + timedelta(seconds=n), feeder=f"f{1 + n % 2}") for n in range(count)]
    await database.write(lambda session: session.connection().execute(insert(FEEDER_EVENT), rows) and None)
    if not database.is_sqlite:
        await database.write(lambda session: session.connection().execute(text("ANALYZE")) and None)
    took_s = []

    async with Housekeeping(database, Kept(events=YEAR)):
        ends_at_s = time.monotonic() + 1.5
        while time.monotonic() < ends_at_s:
            began_s = time.monotonic()
            await database.write(lambda session: session.get_one(Site, SITE))
            took_s.append(time.monotonic() - began_s)
            await asyncio.sleep(0.002)
    gone = count - await database.read(lambda session: left(session, FeederEvent))
    took_s.sort()
    print(
        f"{gone} rows went; a write took {took_s[len(took_s) // 2] * 1000:.1f} ms, at most {took_s[-1] * 1000:.1f} ms"
    )
    assert gone > 400
    assert took_s[len(took_s) * 95 // 100] < 0.1


def test_no_rows_but_the_feeders_are_read_from_end_to_end_to_find_what_is_old(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    database.migrate()
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        plans.extend(row[-1] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    def work(session: Session) -> None:
        listen(session.connection(), "before_cursor_execute", explain)
        find_old(session, NOW, ALL_KINDS, 200)

    database.read_now(work)
    database.close()
    assert len(plans) >= 5
    assert [plan.split()[1] for plan in plans if plan.startswith("SCAN")] == ["feeder"]


async def test_it_looks_again_after_a_while(database: Database) -> None:
    async with Housekeeping(database, ALL_KINDS, look_every_s=0.05):
        await asyncio.sleep(0.1)
        await database.write(lambda session: command(session, LONG_AGO) and None)

        async def is_gone() -> bool:
            return await database.read(lambda session: left(session, Command)) == 0

        await until(is_gone)
