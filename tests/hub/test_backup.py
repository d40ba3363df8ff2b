"""A backup is one moment of the database, whoever writes meanwhile; a restored database goes on safely from there."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import Session, SQLModel, select

from hub import settlement
from hub.audit import By
from hub.backup import BackupError, Resumed, back_up, restore, resume
from hub.command_states import CommandState
from hub.database import Database
from hub.feeders import take_state
from hub.models import Command, Feeder, Site
from hub.protocol.messages import Outcome
from hub.settlement import take_outcome, take_reply
from hub.stops import latch_of
from hub.stories import stories
from hub.tables import DatabaseError
from tests.hub.conftest import CONFIG, FEEDER, NOW, SITE, after, config_order, order, placed, reply, state

pytestmark = pytest.mark.both_databases

S = CommandState
LATER = after(3600)
NEW_CONFIG = CONFIG | {"meal_g": 300.0}
BY = By("cli:anna")


def nothing(_done: int, _total: int) -> None:
    """Nobody looks at the progress."""


@pytest.fixture
def hub(database_url: str) -> Iterator[Database]:
    """The database of a hub that is not there at the moment."""
    with contextlib.closing(Database(database_url)) as database:
        yield database


def rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    def work(session: Session) -> dict[str, list[tuple[Any, ...]]]:
        connection = session.connection()
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in SQLModel.metadata.sorted_tables
        }

    with contextlib.closing(Database(url)) as database:
        return database.read_now(work)


# --- what a restored database becomes ------------------------------------------------------------------------------


def test_what_was_on_its_way_is_unknown_and_its_report_settles_it(session: Session) -> None:
    dose, change = placed(session, order("feed", args={"grams": 5})), placed(session, config_order())
    take_reply(session, SITE, reply(dose.id, "received"), NOW)
    assert resume(session, LATER) == Resumed(expired=0, unknown=2, stopped=0)
    assert session.get_one(Feeder, (SITE, FEEDER), populate_existing=True).in_flight_command_id is None
    for command in (dose, change):
        step = stories(session, [command.id])[command.id][-1]
        assert (step.state, step.cause, step.at) == ("unknown", "restored from a backup", LATER)
    ids, _ = settlement.lease_questions(session, SITE, LATER, at_once=False)
    assert set(ids) == {dose.id, change.id}
    ran = Outcome.model_validate({"id": dose.id, "status": "applied", "dispensed_g": 4.9})
    assert take_outcome(session, SITE, "journal-1", ran, LATER).moved
    not_seen = Outcome.model_validate({"id": change.id, "status": "not_seen"})
    assert take_outcome(session, SITE, "journal-1", not_seen, LATER).moved
    assert session.get_one(Feeder, (SITE, FEEDER), populate_existing=True).pending_command_id is None


def test_what_waited_is_ended_and_not_wanted_any_more(session: Session) -> None:
    take_state(session, SITE, FEEDER, state(), NOW)
    change = placed(session, config_order(args=NEW_CONFIG, queue_for_s=86_400), to=None)
    assert resume(session, LATER).expired == 1
    ended = session.get_one(Command, change.id, populate_existing=True)
    assert (ended.state, ended.settled_at) == (S.EXPIRED, LATER)
    feeder = session.get_one(Feeder, (SITE, FEEDER), populate_existing=True)
    assert (feeder.pending_command_id, feeder.desired_config) == (None, CONFIG)


def test_what_had_ended_stays_as_it_was(session: Session) -> None:
    done = placed(session, order("pause"))
    take_reply(session, SITE, reply(done.id, "applied"), NOW)
    before = session.get_one(Command, done.id, populate_existing=True).model_dump()
    assert resume(session, LATER) == Resumed(0, 0, 0)
    assert session.get_one(Command, done.id, populate_existing=True).model_dump() == before


@pytest.mark.parametrize("given_out_since", [0, 1, 1000])
def test_no_config_version_falls_behind_the_farms_though_nothing_has_been_reported_yet(
    session: Session, given_out_since: int
) -> None:
    version = placed(session, config_order()).args["config_version"]
    resume(session, LATER)
    assert placed(session, config_order(), at=LATER).args["config_version"] > version + given_out_since


def test_versions_go_on_rising_when_an_old_backup_is_restored_twice(session: Session) -> None:
    resume(session, LATER)
    last = max(placed(session, config_order(), at=LATER).args["config_version"] for _ in range(50))
    session.rollback()
    resume(session, after(7200))
    assert placed(session, config_order(), at=after(7200)).args["config_version"] > last


def test_a_latch_stays_by_a_stop_of_its_own_that_is_newer_than_all_that_a_desktop_has_heard(session: Session) -> None:
    stop = placed(session, order("stop_all", None))
    take_reply(session, SITE, reply(stop.id, "applied", feeders={FEEDER: {"confirmed": True}}), NOW)
    session.flush()
    epoch = session.get_one(Site, SITE).stop_epoch
    assert resume(session, LATER).stopped == 1
    site = session.get_one(Site, SITE, populate_existing=True)
    told = session.get_one(Command, site.stop_command_id, populate_existing=True)
    assert told.id != stop.id
    assert site.stopped_at == LATER
    assert told.stop_epoch == site.stop_epoch > epoch + 1000
    assert [step.state for step in stories(session, [told.id])[told.id]] == ["pending", "sent", "unknown"]
    assert session.get_one(Command, stop.id, populate_existing=True).state == S.APPLIED


def test_a_restored_latch_is_not_confirmed_until_the_farm_has_answered_the_new_stop(session: Session) -> None:
    stop = placed(session, order("stop_all", None))
    session.flush()
    resume(session, LATER)
    for journal_says in ("applied", "failed"):  # of the stop that it heard before it was released
        take_outcome(session, SITE, "journal-1", Outcome.model_validate({"id": stop.id, "status": journal_says}), LATER)
    site = session.get_one(Site, SITE, populate_existing=True)
    latch = latch_of(session, site)
    assert latch is not None
    assert [feeder.confirmed for _, feeder in latch.feeders] == [False, False]
    ids, again = settlement.lease_questions(session, SITE, LATER, at_once=False)
    assert (ids, again and again.id) == ([], site.stop_command_id)


def test_a_release_that_was_on_its_way_does_not_open_the_restored_latch(session: Session) -> None:
    placed(session, order("stop_all", None))
    release = placed(session, order("release", None))
    session.flush()
    resume(session, LATER)
    assert take_reply(session, SITE, reply(release.id, "applied"), LATER).moved
    assert session.get_one(Site, SITE, populate_existing=True).stopped_at == LATER


# --- files -------------------------------------------------------------------------------------------------------


def test_a_backup_restores_what_was_there_and_what_came_since_is_aside(
    hub: Database, database_url: str, tmp_path: Path
) -> None:
    kept = hub.write_now(lambda session: placed(session, order("pause")).id)
    at_backup = rows(database_url)
    back_up(database_url, tmp_path / "backup", nothing, overwrite=False)
    since = hub.write_now(lambda session: placed(session, order("resume")).id)
    hub.close()
    restored = restore(database_url, tmp_path / "backup", LATER, nothing, BY)
    assert restored.resumed == Resumed(0, 1, 0)
    now = rows(database_url)
    assert {row[0] for row in now["command"]} == {kept}
    assert len(now["audit_entry"]) == len(at_backup["audit_entry"]) + 1  # that it was restored, and by whom
    changed = {"audit_entry", "command", "command_step", "feeder", "site"}
    assert {name: now[name] for name in now if name not in changed} == {
        name: at_backup[name] for name in at_backup if name not in changed
    }
    assert restored.aside is not None
    if hub.is_sqlite:
        assert since in {row[0] for row in rows(f"sqlite:///{restored.aside}")["command"]}
        assert not list(tmp_path.glob("*.draft*"))
        assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    else:
        ids = text(f"SELECT id FROM {restored.aside.removeprefix('schema ')}.command")
        with contextlib.closing(Database(database_url)) as database:
            assert since in database.read_now(lambda session: session.connection().execute(ids).scalars().all())


def test_a_restored_database_can_be_backed_up_and_restored_again(database_url: str, tmp_path: Path) -> None:
    for turn in range(3):
        back_up(database_url, tmp_path / f"backup{turn}", nothing, overwrite=False)
        restore(database_url, tmp_path / f"backup{turn}", after(3600 + turn), nothing, BY)
    assert {row[0] for row in rows(database_url)["site"]} == {SITE, "pond8"}


async def test_a_backup_while_rows_are_written_is_one_moment(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    placed_ids: list[str] = []
    ended = asyncio.Event()

    async def write_on() -> None:
        while not ended.is_set():
            command = await database.write(lambda session: placed(session, order("pause")))
            placed_ids.append(command.id)

    writers = [asyncio.create_task(write_on()) for _ in range(4)]
    await asyncio.sleep(0.1)
    at_least, file = len(placed_ids), tmp_path / "backup"
    await asyncio.to_thread(lambda: back_up(database_url, file, nothing, overwrite=False))
    at_most = len(placed_ids) + len(writers)
    ended.set()
    await asyncio.gather(*writers)
    await database.__aexit__(None, None, None)
    await asyncio.to_thread(restore, database_url, file, LATER, nothing, BY)
    now = rows(database_url)
    assert at_least <= len(now["command"]) <= at_most
    assert len(now["command_step"]) == 3 * len(now["command"])  # pending, sent, and unknown since
    assert {row[0] for row in now["command"]} <= set(placed_ids)


def test_a_file_that_is_there_is_not_overwritten_unless_that_is_asked_for(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("mine")
    with pytest.raises(BackupError, match="--force"):
        back_up(database_url, tmp_path / "backup", nothing, overwrite=False)
    assert (tmp_path / "backup").read_text() == "mine"
    back_up(database_url, tmp_path / "backup", nothing, overwrite=True)
    restore(database_url, tmp_path / "backup", LATER, nothing, BY)


def test_a_file_that_is_no_backup_changes_nothing(database_url: str, tmp_path: Path) -> None:
    before = rows(database_url)
    (tmp_path / "text").write_text("these are no tables")
    with pytest.raises(BackupError, match="no backup of a"):
        restore(database_url, tmp_path / "text", LATER, nothing, BY)
    assert rows(database_url) == before


def test_a_damaged_backup_changes_nothing(database_url: str, tmp_path: Path) -> None:
    before, file = rows(database_url), tmp_path / "backup"
    back_up(database_url, file, nothing, overwrite=False)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BackupError):
        restore(database_url, file, LATER, nothing, BY)
    assert rows(database_url) == before


def test_a_backup_of_a_newer_hub_is_refused_and_changes_nothing(
    hub: Database, database_url: str, tmp_path: Path
) -> None:
    back_up(database_url, tmp_path / "good", nothing, overwrite=False)
    newer = "UPDATE alembic_version SET version_num = '9999'"
    if hub.is_sqlite:
        file = tmp_path / "good"
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as backup:
            backup.execute(newer)
    else:
        hub.write_now(lambda session: session.connection().execute(text(newer)) and None)
        with pytest.raises(DatabaseError, match="newer"):
            back_up(database_url, tmp_path / "newer", nothing, overwrite=False)
        return
    before = rows(database_url)
    with pytest.raises(DatabaseError, match="newer"):
        restore(database_url, file, LATER, nothing, BY)
    assert rows(database_url) == before


def test_a_restore_that_was_interrupted_keeps_hubs_from_starting_and_can_be_done_again(
    hub: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(database_url, tmp_path / "backup", nothing, overwrite=False)
    hub.close()

    def is_killed(*_: object) -> Resumed:
        raise KeyboardInterrupt

    monkeypatch.setattr("hub.backup.resume", is_killed)
    with pytest.raises(KeyboardInterrupt):
        restore(database_url, tmp_path / "backup", LATER, nothing, BY)
    monkeypatch.undo()
    with contextlib.closing(Database(database_url)) as database:
        if database.is_sqlite:
            database.migrate()  # it is as it was
        else:
            with pytest.raises(DatabaseError, match="half restored"):
                database.migrate()
    assert restore(database_url, tmp_path / "backup", after(3601), nothing, BY).aside is not None
    assert len(rows(database_url)["feeder"]) == 4


def test_an_empty_database_is_not_backed_up_and_may_be_restored_into(
    hub: Database, database_url: str, empty_url: str, tmp_path: Path
) -> None:
    with pytest.raises(BackupError):
        back_up(empty_url, tmp_path / "nothing", nothing, overwrite=False)
    back_up(database_url, tmp_path / "backup", nothing, overwrite=False)
    assert restore(empty_url, tmp_path / "backup", LATER, nothing, BY).aside is None
    assert rows(empty_url)["token"] == rows(database_url)["token"]
    assert len(rows(empty_url)["feeder"]) == 4


def test_while_another_hub_is_connected_postgresql_is_not_restored(
    hub: Database, database_url: str, tmp_path: Path
) -> None:
    back_up(database_url, tmp_path / "backup", nothing, overwrite=False)
    hub.read_now(lambda session: session.get(Site, SITE))  # its connection stays open
    if hub.is_sqlite:
        return  # the lock of the data directory keeps it out there
    with pytest.raises(BackupError, match="connected"):
        restore(database_url, tmp_path / "backup", LATER, nothing, BY)
