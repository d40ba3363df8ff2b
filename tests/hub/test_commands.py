"""Commands: the row first, then the publish, then the reply; and every way in which one of them does not come."""

import asyncio
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, select

import hub.memory
from hub.command_states import CommandState
from hub.commands import TARGET_REMEMBERED_S
from hub.errors import BrokerUnreachable, DesktopOffline, HubError, KeyReused, LivenessUnknown, NotFound, Stopped
from hub.liveness import EPOCH_KEY
from hub.models import Command, Site
from hub.orders import Key, Order
from hub.sites import add_site, delete_site
from hub.stories import list_commands, stories
from tests.hub.conftest import (
    CONFIG,
    FEEDER,
    NOW,
    SITE,
    TOPICS,
    Overheard,
    PlayedLink,
    Process,
    StartProcess,
    config_order,
    order,
    placed,
    until,
)

S = CommandState
DOSE = {"grams": 250.0}


@pytest.fixture
async def alive(process: Process) -> Process:
    """The site's desktop is alive, and what its session began with is over."""
    return await with_desktop(process)


async def with_desktop(process: Process) -> Process:
    await process.beat()
    await process.link.told("report")
    process.link.published.clear()
    return process


async def rows(process: Process) -> list[Command]:
    return list(await process.database.read(lambda session: session.exec(select(Command)).all()))


async def refused(process: Process, ordered: Order, error: type[HubError]) -> HubError:
    """It is refused, nothing was published, and no row was written."""
    before = [row.id for row in await rows(process)]
    with pytest.raises(error) as raised:
        await process.commands.send(ordered)
    assert process.link.published == []
    assert [row.id for row in await rows(process)] == before
    return raised.value


def sending(process: Process, ordered: Order, wait_s: float | None = None) -> "asyncio.Task[Command]":
    return asyncio.create_task(process.commands.send(ordered, wait_s))


# --- the way there and back --------------------------------------------------------------------------------------


async def test_a_change_is_published_and_answered_with_its_end(alive: Process) -> None:
    ordered = sending(alive, config_order())
    said = await alive.link.told("set_config")
    assert alive.link.published[-1][0] == TOPICS.commands(SITE, FEEDER)
    assert (said.session, said.journal_id, said.stop_epoch) == ("session-1", "journal-1", 0)
    await alive.answer(said.id, "received")
    await alive.answer(said.id, "applied", config=CONFIG, config_version=1, local_rev=0)
    command = await ordered
    assert (command.id, command.state) == (said.id, S.APPLIED)
    assert command.settled_at is not None
    steps = await alive.database.read(lambda session: stories(session, [said.id])[said.id])
    assert [step.state for step in steps] == ["pending", "sent", "received", "applied"]
    assert alive.commands._waiting == {}


async def test_a_command_for_the_whole_site_goes_to_the_sites_topic(alive: Process) -> None:
    ordered = sending(alive, order("ping", None))
    said = await alive.link.told("ping")
    assert alive.link.published[-1][0] == TOPICS.commands(SITE)
    await alive.answer(said.id, "applied")
    assert (await ordered).state == S.APPLIED


async def test_the_row_is_committed_before_the_publish(alive: Process, tmp_path: Path) -> None:
    stored: list[Any] = []

    def look(said: Any) -> None:
        other = sqlite3.connect(tmp_path / "hub.sqlite")
        stored.extend(other.execute("SELECT state FROM command WHERE id = ?", (said.id,)).fetchall())
        stored.extend(other.execute("SELECT count(*) FROM command_step WHERE command_id = ?", (said.id,)).fetchone())
        other.close()

    alive.link.on_publish = look
    await alive.commands.send(order("pause"), wait_s=0)
    assert stored == [("sent",), 2]


@pytest.mark.both_databases
async def test_many_changes_at_once_each_get_their_own_answer(alive: Process) -> None:
    ordered = [sending(alive, order("feed", args={"grams": float(n)})) for n in range(1, 51)]
    await alive.link.told("feed", 50)
    for said in reversed(alive.link.said("feed")):
        await alive.answer(said.id, "applied", dispensed_g=said.args["grams"])
    assert [(await one).result for one in ordered] == [{"dispensed_g": float(n)} for n in range(1, 51)]


@pytest.mark.parametrize("status", ["rejected", "failed"])
async def test_what_the_desktop_or_the_plc_refuses_is_told_with_its_code(alive: Process, status: str) -> None:
    ordered = sending(alive, order("feed", args=DOSE))
    await alive.answer((await alive.link.told("feed")).id, status, code="not_remote", detail="at the panel")
    command = await ordered
    assert (command.state, command.code, command.detail) == (status, "not_remote", "at the panel")


async def test_the_live_stream_tells_each_step_once(alive: Process) -> None:
    async with Overheard(alive.stream) as heard:
        ordered = sending(alive, order("pause"))
        said = await alive.link.told("pause")
        # Both in one turn, so that they are stored in one transaction.
        topic = TOPICS.replies(SITE, "h1")
        alive.link.hand(topic, b'{"id": "%s", "status": "received"}' % said.id.encode())
        await alive.link.take(topic, b'{"id": "%s", "status": "applied"}' % said.id.encode())
        await ordered
        await heard.hear("command", 3)
        await heard.settled()
        assert [told["state"] for told in heard.told("command")] == ["sent", "received", "applied"]


# --- not now -----------------------------------------------------------------------------------------------------


async def test_for_a_site_that_is_not_alive_nothing_is_sent_or_stored(process: Process) -> None:
    error = await refused(process, config_order(), DesktopOffline)
    assert isinstance(error, DesktopOffline)
    assert error.last_seen_at is None


async def test_after_the_desktop_has_gone_nothing_is_sent_or_stored(alive: Process) -> None:
    await alive.link.take(TOPICS.heartbeat(SITE), b'{"online": false, "session": "session-1"}')
    error = await refused(alive, config_order(), DesktopOffline)
    assert isinstance(error, DesktopOffline)
    assert error.last_seen_at is not None


async def test_while_liveness_is_unknown_nothing_is_sent_or_stored(alive: Process) -> None:
    await alive.store.redis.flushall()
    await refused(alive, config_order(), LivenessUnknown)
    assert await alive.store.redis.exists(EPOCH_KEY)


async def test_without_a_broker_nothing_is_sent_or_stored(alive: Process) -> None:
    alive.link.connected = False
    await refused(alive, config_order(), BrokerUnreachable)


async def test_a_site_that_was_not_there_is_there_as_soon_as_it_is_made(process: Process) -> None:
    await refused(process, config_order(site="pond9"), NotFound)
    await process.database.write(lambda session: add_site(session, "pond9", [FEEDER], "UTC", NOW))
    await refused(process, config_order(site="pond9"), DesktopOffline)


async def test_a_site_that_is_deleted_is_not_found_after_a_few_seconds(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refused(process, config_order(), DesktopOffline)
    await process.database.write(lambda session: delete_site(session, SITE))
    await refused(process, config_order(), DesktopOffline)
    later_s = time.monotonic() + TARGET_REMEMBERED_S
    monkeypatch.setattr(hub.memory, "time", SimpleNamespace(monotonic=lambda: later_s))
    await refused(process, config_order(), NotFound)


@pytest.mark.parametrize(("site", "feeder"), [("nowhere", FEEDER), (SITE, "f9")])
async def test_what_is_not_there_is_not_found_whether_alive_or_not(process: Process, site: str, feeder: str) -> None:
    await refused(process, order("pause", feeder, site), NotFound)
    await with_desktop(process)
    await refused(process, order("pause", feeder, site), NotFound)


async def test_a_refused_order_leaves_nobody_waiting(alive: Process) -> None:
    await alive.commands.send(order("stop_all", None), wait_s=0)
    alive.link.published.clear()
    await refused(alive, order("feed", args=DOSE), Stopped)
    assert alive.commands._waiting == {}


# --- no answer ---------------------------------------------------------------------------------------------------


async def test_without_a_final_reply_in_time_the_outcome_is_unknown_and_a_late_one_settles_it(
    start_process: StartProcess,
) -> None:
    process = await with_desktop(await start_process(timeout_s=0.15))
    command = await process.commands.send(order("pause"))
    assert (command.state, command.settled_at) == (S.UNKNOWN, None)
    await process.answer(command.id, "applied")
    assert (await process.get(command.id)).state == S.APPLIED


async def test_what_was_sent_is_not_denied_where_the_database_goes_away_before_its_end(
    start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = await with_desktop(await start_process(timeout_s=0.2))

    async def away(_work: Any) -> Any:
        raise OperationalError("UPDATE", {}, Exception("restarts"))

    hub.link.on_publish = lambda _said: monkeypatch.setattr(hub.database, "write", away)
    command = await hub.commands.send(config_order())
    assert command.state == S.SENT
    monkeypatch.undo()
    await hub.commands.mark_overdue()
    assert (await hub.get(command.id)).state == S.UNKNOWN


async def test_a_wait_that_ends_before_the_deadline_tells_how_far_it_is(alive: Process) -> None:
    assert (await alive.commands.send(order("pause"), wait_s=0)).state == S.SENT
    ordered = sending(alive, order("resume"), wait_s=0.3)
    await alive.answer((await alive.link.told("resume")).id, "running")
    assert (await ordered).state == S.RECEIVED
    assert alive.commands._waiting == {}


async def test_a_connection_lost_between_the_row_and_the_publish_leaves_it_to_the_deadline(
    start_process: StartProcess,
) -> None:
    process = await with_desktop(await start_process(timeout_s=0.15))

    def lose(_topic: str, _payload: bytes) -> None:
        process.link.connected = False
        PlayedLink.publish(process.link, _topic, _payload)

    process.link.publish = lose  # type: ignore[method-assign]  # the fault
    command = await process.commands.send(order("pause"))
    assert command.state == S.UNKNOWN
    assert process.link.published == []


async def test_a_caller_that_gives_up_changes_nothing_for_the_command(alive: Process) -> None:
    ordered = sending(alive, order("feed", args=DOSE))
    said = await alive.link.told("feed")
    ordered.cancel()
    await asyncio.wait([ordered])
    assert alive.commands._waiting == {}
    await alive.answer(said.id, "applied", dispensed_g=249.6)
    assert (await alive.get(said.id)).result == {"dispensed_g": 249.6}


async def test_a_reply_of_another_site_wakes_nobody(alive: Process) -> None:
    ordered = sending(alive, order("pause"))
    said = await alive.link.told("pause")
    await alive.answer(said.id, "failed", site="pond8")
    assert not ordered.done()
    assert (await alive.get(said.id)).state == S.SENT
    (rejected,) = await alive.rejects.last("pond8")
    assert rejected["reason"] == "unknown-command"
    await alive.answer(said.id, "applied")
    assert (await ordered).state == S.APPLIED


async def test_a_contradiction_is_kept_for_people_to_see(alive: Process) -> None:
    command = await alive.commands.send(order("feed", args=DOSE), wait_s=0)
    await alive.answer(command.id, "failed", dispensed_g=100.0)
    await alive.answer(command.id, "applied", dispensed_g=250.0)
    (rejected,) = await alive.rejects.last(SITE)
    assert rejected["reason"] == "contradiction"
    assert command.id in rejected["detail"]
    kept = {"dispensed_g": 250.0, "contradiction": "applied with 250.0 g came after failed with 100.0 g"}
    assert (await alive.get(command.id)).result == kept


# --- keys --------------------------------------------------------------------------------------------------------


async def test_the_same_order_twice_at_once_is_sent_once_and_both_learn_its_end(alive: Process) -> None:
    key = Key("someone", "k", "body")
    both = [sending(alive, order("feed", args=DOSE, key=key)) for _ in range(2)]
    said = await alive.link.told("feed")

    async def both_wait() -> bool:
        return len(alive.commands._waiting.get(said.id, [])) == 2

    await until(both_wait)
    await alive.answer(said.id, "applied", dispensed_g=250.0)
    first, second = await asyncio.gather(*both)
    assert first.id == second.id == said.id
    assert {first.state, second.state} == {S.APPLIED}
    assert len(alive.link.said("feed")) == 1


async def waits_for_another(process: Process) -> bool:
    return bool(process.commands._of_others)


@pytest.mark.both_databases
async def test_who_waits_for_what_another_process_settles_learns_of_it_by_the_next_round(
    start_process: StartProcess,
) -> None:
    one, other = await with_desktop(await start_process("h1")), await start_process("h2")
    pause = order("pause", key=Key("someone", "k", "body"))
    first = sending(one, pause)
    said = await one.link.told("pause")
    repeat = sending(other, pause)

    await until(lambda: waits_for_another(other))
    await other.rounds().go_round()
    assert not repeat.done()
    async with Overheard(other.stream) as overheard:
        await one.answer(said.id, "applied")
        await other.rounds().go_round()
        assert ((await first).state, (await repeat).state) == (S.APPLIED, S.APPLIED)
        await overheard.settled()
        assert len(overheard.told("command")) == 1


async def test_who_waits_for_its_turn_learns_by_the_next_round_that_another_process_superseded_it(
    start_process: StartProcess,
) -> None:
    one, other = await with_desktop(await start_process("h1")), await start_process("h2")
    await one.commands.send(config_order(), wait_s=0)
    second = sending(other, config_order())

    await until(lambda: waits_for_another(other))
    await one.commands.send(config_order(), wait_s=0)
    await other.rounds().go_round()
    assert (await second).state == S.SUPERSEDED


async def test_an_order_repeated_later_is_answered_as_it_is_now_even_if_the_desktop_is_away(alive: Process) -> None:
    key = Key("someone", "k", "body")
    command = await alive.commands.send(order("feed", args=DOSE, key=key), wait_s=0)
    await alive.answer(command.id, "applied", dispensed_g=250.0)
    await alive.link.take(TOPICS.heartbeat(SITE), b'{"online": false, "session": "session-1"}')
    again = await alive.commands.send(order("feed", args=DOSE, key=key))
    assert (again.id, again.state, again.result) == (command.id, S.APPLIED, {"dispensed_g": 250.0})
    assert len(alive.link.said("feed")) == 1
    with pytest.raises(KeyReused):
        await alive.commands.send(order("feed", args={"grams": 1.0}, key=Key("someone", "k", "other")))


def until_somebody_waits(session: Session) -> None:
    """PostgreSQL tells nobody when a lock begins to be waited for: it has to be asked."""
    for _ in range(1000):
        if session.execute(_SOMEBODY_WAITS).scalar_one():
            return
        time.sleep(0.005)
    pytest.fail("nobody waits for the lock")


@pytest.mark.both_databases
@pytest.mark.dose_pause
async def test_a_dose_that_another_process_places_under_the_same_key_meanwhile_is_not_denied(
    start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await with_desktop(await start_process("h1")), await start_process("h2")
    dose = order("feed", args=DOSE, key=Key("someone", "k", "body"))
    write, is_placed = one.database.write, asyncio.Event()
    loop = asyncio.get_running_loop()

    async def until_the_other_waits_for_its_lock(work: Any) -> Any:
        def slow(session: Session) -> Any:
            placed = work(session)
            session.flush()
            loop.call_soon_threadsafe(is_placed.set)
            if not one.database.is_sqlite:
                until_somebody_waits(session)
            return placed

        return await write(slow)

    monkeypatch.setattr(one.database, "write", until_the_other_waits_for_its_lock)
    first = sending(one, dose, 0)
    await asyncio.wait_for(is_placed.wait(), 5)
    second = await other.commands.send(dose, 0)
    assert (second.id, second.state) == ((await first).id, S.SENT)
    assert other.link.said("feed") == []


_SOMEBODY_WAITS = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


async def test_an_order_that_another_process_placed_is_not_denied_where_liveness_is_lost_meanwhile(
    start_process: StartProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await with_desktop(await start_process("h1")), await start_process("h2")
    pause = order("pause", key=Key("someone", "k", "body"))

    async def the_first_one_found_it(_site: str) -> Any:
        await one.commands.send(pause, 0)
        raise LivenessUnknown("Redis has not answered.")

    monkeypatch.setattr(other.liveness, "require_alive", the_first_one_found_it)
    assert (await other.commands.send(pause, 0)).id == one.link.said("pause")[0].id


async def test_a_refusal_is_not_kept_so_the_same_key_works_when_the_desktop_is_back(process: Process) -> None:
    key = Key("someone", "k", "body")
    await refused(process, order("feed", args=DOSE, key=key), DesktopOffline)
    await with_desktop(process)
    assert (await process.commands.send(order("feed", args=DOSE, key=key), wait_s=0)).state == S.SENT


# --- the stop ----------------------------------------------------------------------------------------------------


async def latched(process: Process) -> bool:
    return (await process.database.read(lambda session: session.get_one(Site, SITE))).stopped_at is not None


@pytest.mark.both_databases
async def test_a_stop_is_latched_and_published_whatever_liveness_says(process: Process) -> None:
    command = await process.commands.send(order("stop_all", None))
    assert command.state == S.SENT
    said = await process.link.told("stop_all")
    assert (said.session, said.journal_id, said.stop_epoch) == (None, None, 1)
    assert await latched(process)
    await process.store.redis.flushall()
    assert (await process.commands.send(order("stop_all", None))).stop_epoch == 2


async def test_a_stop_is_latched_before_it_is_published(process: Process, tmp_path: Path) -> None:
    stored: list[Any] = []

    def look(_said: Any) -> None:
        other = sqlite3.connect(tmp_path / "hub.sqlite")
        query = "SELECT stop_epoch, stopped_at IS NOT NULL FROM site WHERE id = ?"
        stored.append(other.execute(query, (SITE,)).fetchone())
        other.close()

    process.link.on_publish = look
    await process.commands.send(order("stop_all", None))
    assert stored == [(1, 1)]


async def test_a_stop_without_a_broker_is_latched_all_the_same(alive: Process) -> None:
    alive.link.connected = False
    await alive.commands.send(order("stop_all", None), wait_s=0)
    assert await latched(alive)


@pytest.mark.both_databases
async def test_a_stop_for_which_the_broker_was_away_goes_out_as_soon_as_it_is_back(alive: Process) -> None:
    alive.link.connected = False
    ordered = sending(alive, order("stop_all", None))
    await until(lambda: latched(alive))
    await until(lambda: is_unknown(alive))
    async with alive.rounds():
        await asyncio.sleep(0)
        assert alive.link.said("stop_all") == []
        alive.link.connected = True
        said = await alive.link.told("stop_all")
        await alive.answer(said.id, "applied", feeders={"f1": {"confirmed": True}, "f2": {"confirmed": True}})
        assert (await ordered).state == S.APPLIED


async def is_unknown(process: Process) -> bool:
    return [row.state for row in await rows(process)] == [S.UNKNOWN]


async def test_a_stop_for_which_broker_and_database_are_away_in_turn_is_latched_all_the_same(
    alive: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = alive.database.write

    async def then_away(work: Any) -> Any:
        monkeypatch.setattr(alive.database, "write", away)
        return await write(work)

    async def away(_work: Any) -> Any:
        raise OperationalError("UPDATE", {}, Exception("away"))

    alive.link.connected = False
    monkeypatch.setattr(alive.database, "write", then_away)
    command = await alive.commands.send(order("stop_all", None), wait_s=0)
    assert command.state == S.SENT
    assert await latched(alive)


async def test_a_feeder_that_confirms_a_stop_later_is_told_to_the_live_stream(alive: Process) -> None:
    stop = await alive.commands.send(order("stop_all", None), wait_s=0)
    lost = {"confirmed": False, "code": "plc_lost"}
    await alive.answer(stop.id, "failed", feeders={"f1": lost, "f2": lost})
    async with Overheard(alive.stream) as overheard:
        for _ in range(2):
            await alive.answer(stop.id, "failed", feeders={"f1": {"confirmed": True}, "f2": lost})
        await overheard.settled()
        assert [(told["id"], told["state"]) for told in overheard.told("command")] == [(stop.id, S.RECEIVED)]


async def test_a_stop_that_another_process_repeats_is_answered_to_that_process(
    process: Process, start_process: StartProcess
) -> None:
    stop = await process.commands.send(order("stop_all", None))
    other = await start_process("h2")
    await other.beat()
    again = await other.link.told("stop_all")
    assert (again.id, again.reply_to) == (stop.id, TOPICS.replies(SITE, "h2"))


async def test_a_stop_does_not_wait_for_redis_and_is_confirmed_while_that_is_frozen(
    alive: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def frozen(_site: str) -> Any:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(alive.liveness, "require_alive", frozen)
    await alive.commands.send(order("stop_all", None), wait_s=0)
    assert not asked.is_set()
    ordered = sending(alive, order("stop_all", None))
    said = await alive.link.told("stop_all", 2)
    await asyncio.wait_for(asked.wait(), 5)
    assert await latched(alive)
    await alive.answer(said.id, "applied", feeders={"f1": {"confirmed": True}, "f2": {"confirmed": True}})
    assert (await ordered).state == S.APPLIED


async def test_a_stop_of_a_living_site_waits_for_its_confirmation(alive: Process) -> None:
    ordered = sending(alive, order("stop_all", None))
    said = await alive.link.told("stop_all")
    await alive.answer(said.id, "applied", feeders={"f1": {"confirmed": True}, "f2": {"confirmed": True}})
    assert (await ordered).state == S.APPLIED


# --- listing -----------------------------------------------------------------------------------------------------


async def test_a_command_that_nobody_sent_is_not_found(process: Process) -> None:
    with pytest.raises(NotFound):
        await process.get("01JABCDEFGHJKMNPQRSTVWXYZ0")


def test_commands_are_listed_by_site_and_feeder_the_newest_first(session: Session) -> None:
    ids = [placed(session, order("pause", feeder)).id for feeder in ("f1", "f2", "f1")]
    placed(session, order("pause", site="pond8"))
    session.flush()
    newest_first = sorted(ids, reverse=True)
    assert [row.id for row in list_commands(session, SITE, None, None, 10)] == newest_first
    assert [row.id for row in list_commands(session, SITE, None, newest_first[0], 10)] == newest_first[1:]
    assert {row.id for row in list_commands(session, SITE, "f1", None, 10)} == {ids[0], ids[2]}
