"""Changes that wait: for a site that is away, or for an earlier change of their feeder. None overtakes another."""

import asyncio
from datetime import datetime
from typing import Any

import pytest
from sqlmodel import Session, select

from hub import settlement, waiting
from hub.command_states import CommandState
from hub.errors import DesktopOffline, LivenessUnknown, Stopped
from hub.feeders import take_state
from hub.liveness import AliveSession
from hub.models import Command, ConfigRevision, Feeder
from hub.orders import Desk
from hub.protocol import messages
from hub.stories import stories
from tests.hub.conftest import (
    CONFIG,
    DESK,
    FEEDER,
    NOW,
    SITE,
    TO,
    TOPICS,
    Process,
    StartProcess,
    after,
    config_order,
    order,
    placed,
    reply,
    state,
    until,
)

pytestmark = pytest.mark.both_databases

S = CommandState


def change(session: Session, meal_g: float = 300.0, at: datetime = NOW, **how: Any) -> Command:
    """One that may wait for an hour; `to` None: the site is away."""
    to: AliveSession | None = how.pop("to", None)
    ordered = config_order(args=CONFIG | {"meal_g": meal_g}, **({"queue_for_s": 3600.0} | how))
    return placed(session, ordered, at, to)


def send(session: Session, at: datetime = NOW, desk: Desk = DESK, site: str = SITE) -> list[Command]:
    session.flush()
    return waiting.send_waiting(session, site, TO, desk, at)


def now_is(session: Session, command: Command) -> Command:
    session.flush()
    return session.get_one(Command, command.id, populate_existing=True)


def feeder(session: Session) -> Feeder:
    session.flush()
    return session.get_one(Feeder, (SITE, FEEDER), populate_existing=True)


def farm_tells(session: Session, seq: int = 1, **reported: Any) -> None:
    take_state(session, SITE, FEEDER, state(seq, **({"config_version": 7, "local_rev": 3} | reported)), NOW)


def answer(session: Session, command: Command, status: str, at: datetime, **told: Any) -> settlement.Settled:
    return settlement.take_reply(session, SITE, reply(command.id, status, **told), at)


def story(session: Session, command: Command) -> list[str]:
    session.flush()
    return [step.state for step in stories(session, [command.id])[command.id]]


# --- for a site that is away -------------------------------------------------------------------------------------


def test_a_change_of_a_site_that_is_away_is_pending_and_wanted_until_its_time_is_over(session: Session) -> None:
    farm_tells(session)
    command = change(session)
    assert (command.state, command.session, command.expires_at) == (S.PENDING, None, after(3600))
    assert story(session, command) == ["pending"]
    row = feeder(session)
    assert (row.pending_command_id, row.in_flight_command_id) == (command.id, None)
    assert row.desired_config == CONFIG | {"meal_g": 300.0}
    assert settlement.mark_overdue(session, after(4000)) == []
    assert waiting.expire_waiting(session, after(3599)) == []
    [expired] = waiting.expire_waiting(session, after(3600))
    assert (expired.id, expired.state, expired.settled_at) == (command.id, S.EXPIRED, after(3600))
    row = feeder(session)
    assert (row.pending_command_id, row.desired_config) == (None, CONFIG)
    assert send(session, after(3601)) == []
    assert waiting.expire_waiting(session, after(3602)) == []


def test_of_the_changes_that_wait_the_latest_wins_and_says_which_it_replaced(session: Session) -> None:
    farm_tells(session)
    first, second = change(session, 300.0), change(session, 310.0)
    assert second.replaces_id == first.id
    first = now_is(session, first)
    assert (first.state, first.code) == (S.SUPERSEDED, "superseded")
    assert second.id in (first.detail or "")
    [sent] = send(session, after(60))
    assert sent.id == second.id


def test_a_change_that_waited_is_sent_to_whoever_is_there_with_the_times_of_its_sending(session: Session) -> None:
    farm_tells(session)
    command = change(session)
    [sent] = send(session, after(600))
    assert (sent.state, sent.session, sent.journal_id) == (S.SENT, TO.session, TO.journal_id)
    assert (sent.created_at, sent.expires_at, sent.deadline_at) == (NOW, after(610), after(610))
    assert sent.args == {"config": CONFIG | {"meal_g": 300.0}, "config_version": 8, "local_rev": 3} | {
        "time_zone": "Asia/Jerusalem"
    }
    assert feeder(session).in_flight_command_id == command.id
    assert story(session, command) == ["pending", "sent"]
    assert send(session, after(600)) == []


def test_an_old_change_is_answered_to_the_process_that_sends_it_and_a_young_one_to_where_somebody_waits(
    session: Session,
) -> None:
    farm_tells(session)
    other = Desk("h2", TOPICS, DESK.timeout_s)
    change(session)
    [old] = send(session, after(600), other)
    assert old.hub_id == "h2"
    answer(session, old, "applied", after(601), config=old.args["config"])
    change(session, at=after(700))
    [young] = send(session, after(701), other)
    assert young.hub_id == "h1"


def test_an_edit_on_the_farm_in_the_meantime_makes_the_desktop_refuse_it(session: Session) -> None:
    """It was ordered upon a config that is not there any more: the hub does not pretend otherwise."""
    farm_tells(session)
    change(session)
    farm_tells(session, 2, local_rev=4, config=CONFIG | {"meal_g": 111.0})
    [sent] = send(session, after(60))
    assert sent.args["local_rev"] == 3


def test_a_farm_that_is_ahead_of_a_restored_database_gets_a_version_that_is_newer_than_its_own(
    session: Session,
) -> None:
    farm_tells(session)
    command = change(session)
    farm_tells(session, 2, config_version=20)
    [sent] = send(session, after(60))
    assert sent.args["config_version"] == 21
    row = feeder(session)
    assert (row.desired_version, row.last_version) == (21, 21)
    [revision] = session.exec(select(ConfigRevision).where(ConfigRevision.command_id == command.id)).all()
    assert revision.version == 21


def test_while_the_stop_is_latched_nothing_that_waits_is_sent_and_its_time_runs_on(session: Session) -> None:
    farm_tells(session)
    command = change(session)
    placed(session, order("stop_all", None), to=None)
    assert send(session, after(60)) == []
    with pytest.raises(Stopped):
        change(session)
    release = placed(session, order("release", None))
    answer(session, release, "applied", after(70))
    [sent] = send(session, after(80))
    assert (sent.id, sent.stop_epoch) == (command.id, release.stop_epoch)
    later = change(session, at=after(90))
    placed(session, order("stop_all", None), to=None)
    [expired] = waiting.expire_waiting(session, after(90 + 3600))
    assert expired.id == later.id


def test_only_sites_with_something_that_waits_are_looked_at(session: Session) -> None:
    assert waiting.sites_with_waiting(session) == []
    change(session)
    session.flush()
    assert waiting.sites_with_waiting(session) == [SITE]
    send(session)
    session.flush()
    assert waiting.sites_with_waiting(session) == []


# --- for an earlier change ---------------------------------------------------------------------------------------


def test_a_change_waits_while_another_one_of_its_feeder_is_on_its_way(session: Session) -> None:
    farm_tells(session)
    first = change(session, 300.0, to=TO, queue_for_s=None)
    second = change(session, 310.0, to=TO, queue_for_s=None)
    assert (first.state, second.state) == (S.SENT, S.PENDING)
    assert (second.args["config_version"], second.expires_at) == (first.args["config_version"] + 1, after(10))
    assert send(session, after(1)) == []
    answer(session, first, "received", after(1))
    assert send(session, after(1)) == []
    settled = answer(session, first, "applied", after(2), config=CONFIG | {"meal_g": 300.0})
    assert settled.another_waits
    [sent] = send(session, after(2))
    assert sent.id == second.id
    assert not answer(session, second, "applied", after(3), config=CONFIG | {"meal_g": 310.0}).another_waits
    row = feeder(session)
    assert (row.pending_command_id, row.in_flight_command_id) == (None, None)
    assert row.reported_config == CONFIG | {"meal_g": 310.0}


def test_a_change_of_another_feeder_waits_for_nothing(session: Session) -> None:
    change(session, to=TO)
    assert change(session, to=TO, feeder="f2").state == S.SENT
    assert change(session, to=TO, site="pond8").state == S.SENT


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_a_change_that_failed_lets_the_next_one_go(session: Session, end: str) -> None:
    farm_tells(session)
    first, second = change(session, to=TO), change(session, 310.0, to=TO)
    assert answer(session, first, end, after(1)).another_waits
    assert [sent.id for sent in send(session, after(1))] == [second.id]


def test_a_change_that_is_not_answered_lets_the_next_one_go_after_its_deadline(session: Session) -> None:
    farm_tells(session)
    first, second = change(session, to=TO), change(session, 310.0, to=TO)
    session.flush()
    assert [command.id for command in settlement.mark_overdue(session, first.deadline_at)] == [first.id]
    assert [sent.id for sent in send(session, after(11))] == [second.id]
    answer(session, first, "applied", after(12), config=first.args["config"])  # late
    row = feeder(session)
    assert (row.pending_command_id, row.in_flight_command_id) == (second.id, second.id)


def test_the_change_that_is_on_its_way_is_not_superseded_by_those_that_wait_behind_it(session: Session) -> None:
    first, second, third = (change(session, meal_g, to=TO) for meal_g in (300.0, 310.0, 320.0))
    assert now_is(session, first).state == S.SENT
    assert now_is(session, second).state == S.SUPERSEDED
    assert (third.replaces_id, now_is(session, third).state) == (second.id, S.PENDING)


def test_a_change_that_comes_when_the_site_is_back_takes_the_place_of_the_one_that_waited(session: Session) -> None:
    old = change(session)
    new = change(session, 310.0, to=TO, queue_for_s=None)
    assert (new.state, new.replaces_id) == (S.SENT, old.id)
    assert now_is(session, old).state == S.SUPERSEDED
    assert send(session, after(1)) == []


# --- patches -----------------------------------------------------------------------------------------------------


def patch(session: Session, at: datetime = NOW, to: AliveSession | None = TO, **fields: Any) -> Command:
    return placed(session, config_order(args=fields, patch=True, queue_for_s=3600.0), at, to)


def revision_of(session: Session, command: Command) -> ConfigRevision:
    session.flush()
    query = select(ConfigRevision).where(ConfigRevision.command_id == command.id)
    return session.exec(query.execution_options(populate_existing=True)).one()


@pytest.mark.parametrize("end", ["rejected", "failed"])
def test_a_patch_that_waited_carries_nothing_of_a_change_that_came_to_nothing(session: Session, end: str) -> None:
    farm_tells(session)
    first, second = patch(session, meal_g=999.0), patch(session, silo_low_g=1.0)
    assert second.args["config"] == CONFIG | {"meal_g": 999.0, "silo_low_g": 1.0}
    answer(session, first, end, after(1), code="read_back_differs")
    [sent] = send(session, after(1))
    assert (sent.id, sent.args["config"]) == (second.id, CONFIG | {"silo_low_g": 1.0})
    assert feeder(session).desired_config == CONFIG | {"silo_low_g": 1.0}
    assert revision_of(session, second).config == CONFIG | {"silo_low_g": 1.0}


def test_a_patch_that_waited_is_made_upon_what_the_change_before_it_brought_about(session: Session) -> None:
    farm_tells(session)
    first, second = patch(session, meal_g=999.0), patch(session, silo_low_g=1.0)
    read_back = CONFIG | {"meal_g": 999.0}
    answer(session, first, "applied", after(1), config=read_back, config_version=8, local_rev=3)
    [sent] = send(session, after(1))
    assert (sent.id, sent.args["config"]) == (second.id, read_back | {"silo_low_g": 1.0})


def test_a_patch_carries_nothing_of_the_one_whose_place_it_took(session: Session) -> None:
    farm_tells(session)
    patch(session, to=None, meal_g=999.0)
    behind = patch(session, to=None, silo_low_g=1.0)
    assert behind.args["config"] == CONFIG | {"silo_low_g": 1.0}
    assert patch(session, interval_s=1800).args["config"] == CONFIG | {"interval_s": 1800}


def test_a_patch_that_does_not_fit_the_config_any_more_is_refused_and_not_wanted(session: Session) -> None:
    farm_tells(session)
    first, second = patch(session, daily_limit_g=9000.0), patch(session, meal_g=5000.0)
    answer(session, first, "failed", after(1))
    [refused] = send(session, after(1))
    assert (refused.id, refused.state, refused.code) == (second.id, S.REFUSED, "no_longer_fits")
    assert "5000 is more than daily_limit_g 4000" in refused.detail
    assert story(session, second) == ["pending", "refused"]
    row = feeder(session)
    assert (row.pending_command_id, row.in_flight_command_id, row.desired_config) == (None, None, CONFIG)
    assert send(session, after(2)) == []


def test_a_patch_upon_a_config_that_nobody_came_to_know_is_refused(session: Session) -> None:
    first = change(session, to=TO)
    second = patch(session, silo_low_g=1.0)
    answer(session, first, "failed", after(1))
    [refused] = send(session, after(1))
    assert (refused.id, refused.state) == (second.id, S.REFUSED)


# --- in a hub process --------------------------------------------------------------------------------------------


def answers_pings(process: Process) -> None:
    """The desktop says that it has taken the hub's time."""

    def answer_ping(said: messages.Command) -> None:
        if said.name == "ping":
            process.link.hand(said.reply_to, reply(said.id, "applied"))

    process.link.on_publish = answer_ping


async def test_a_site_that_is_back_hears_the_time_the_report_its_stop_and_then_what_waited(process: Process) -> None:
    answers_pings(process)
    waits = await process.commands.send(config_order(queue_for_s=60.0))
    assert waits.state == S.PENDING
    assert process.link.published == []
    await process.beat()
    await process.link.told("set_config")
    assert [said.name for said in process.link.said()] == ["ping", "report", "set_config"]
    await process.answer(waits.id, "applied", config=CONFIG, config_version=1, local_rev=0)
    assert (await process.get(waits.id)).state == S.APPLIED


async def test_what_waits_is_sent_by_no_process_before_the_session_has_confirmed_the_time_to_it(
    start_process: StartProcess,
) -> None:
    """A desktop rejects it before that, for good (`clock_unknown`): its line is slow, or the session has just begun."""
    one, other = await start_process("h1"), await start_process("h2")
    waits = await one.commands.send(config_order(queue_for_s=60.0))
    await one.beat()
    await one.link.told("report")
    await other.beat(seq=2)
    ping = await other.link.told("ping")
    for process in (one, other):
        await process.rounds().go_round()
        assert process.link.said("set_config") == []
    await other.link.take(ping.reply_to, reply(ping.id, "applied"))
    await one.rounds().go_round()
    assert one.link.said("set_config") == []
    await other.rounds().go_round()
    assert (await other.link.told("set_config")).id == waits.id


async def test_the_time_that_an_earlier_session_confirms_late_is_not_that_of_the_one_after_it(process: Process) -> None:
    await process.commands.send(config_order(queue_for_s=60.0))
    await process.beat()
    ping = await process.link.told("ping")
    await process.beat("session-2")
    await process.link.told("ping", 2)
    await process.link.take(ping.reply_to, reply(ping.id, "applied"))
    await process.rounds().go_round()
    assert process.link.said("set_config") == []


async def test_without_the_wish_to_wait_a_site_that_is_away_is_refused(process: Process) -> None:
    with pytest.raises(DesktopOffline):
        await process.commands.send(config_order())


async def test_where_liveness_is_not_known_nothing_waits(process: Process, redis_url: str) -> None:
    await process.store.call("FLUSHALL")
    with pytest.raises(LivenessUnknown):
        await process.commands.send(config_order(queue_for_s=60.0))
    assert await process.database.read(lambda session: session.exec(select(Command)).all()) == []


async def test_changes_of_one_feeder_from_two_processes_are_sent_one_after_the_other(
    start_process: StartProcess,
) -> None:
    one, other = await start_process("h1"), await start_process("h2")
    answers_pings(one)
    await one.beat()
    await one.link.told("report")
    await other.beat(seq=2)
    await other.link.told("ping")
    first = asyncio.create_task(one.commands.send(config_order()))
    said = await one.link.told("set_config")
    second = asyncio.create_task(other.commands.send(config_order(args=CONFIG | {"meal_g": 310.0})))

    async def it_waits() -> bool:
        rows = await other.database.read(lambda session: session.exec(select(Command.state)).all())
        return S.PENDING in rows

    await until(it_waits)
    assert other.link.said("set_config") == []
    await one.answer(said.id, "applied", config=CONFIG, config_version=1, local_rev=0)
    assert (await first).state == S.APPLIED
    next_said = await one.link.told("set_config", 2)  # by the process that heard the first one's end
    assert next_said.reply_to.endswith("/h2")  # and answered to where somebody waits
    assert next_said.args["config_version"] == said.args["config_version"] + 1
    await other.link.take(
        TOPICS.replies(SITE, "h2"),
        reply(next_said.id, "applied", config=CONFIG | {"meal_g": 310.0}, config_version=2, local_rev=0),
    )
    assert (await second).state == S.APPLIED


async def test_what_nobody_sent_when_its_time_came_is_sent_by_the_next_round(process: Process) -> None:
    answers_pings(process)
    await process.beat()
    await process.link.told("report")
    # As if its site had come back between the look at its liveness and the row.
    await process.database.write(lambda session: placed(session, config_order(queue_for_s=3600.0), NOW, None))
    async with process.rounds():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await process.link.told("set_config")  # its hour was over long ago
        command = await process.commands.send(config_order(queue_for_s=60.0), wait_s=0)
        assert command.state == S.SENT


async def test_who_waits_is_told_when_a_newer_change_takes_its_place(process: Process) -> None:
    answers_pings(process)
    await process.beat()
    await process.link.told("report")
    first = asyncio.create_task(process.commands.send(config_order()))
    await process.link.told("set_config")
    second = asyncio.create_task(process.commands.send(config_order()))
    await until(lambda: _waits(process))
    third = asyncio.create_task(process.commands.send(config_order()))
    assert (await second).state == S.SUPERSEDED
    said = process.link.said("set_config")[0]
    await process.answer(said.id, "applied", config=CONFIG, config_version=1, local_rev=0)
    assert (await first).state == S.APPLIED
    said = await process.link.told("set_config", 2)
    await process.answer(said.id, "applied", config=CONFIG, config_version=3, local_rev=0)
    assert (await third).state == S.APPLIED


async def _waits(process: Process) -> bool:
    return bool(await process.database.read(waiting.sites_with_waiting))


async def test_who_waits_is_told_when_a_patch_is_refused(process: Process) -> None:
    answers_pings(process)
    await process.beat()
    await process.link.told("report")
    await process.link.take(TOPICS.state(SITE, FEEDER), state())
    changes = [{"daily_limit_g": 9000.0}, {"meal_g": 5000.0}]
    first = asyncio.create_task(process.commands.send(config_order(args=changes[0], patch=True)))
    said = await process.link.told("set_config")
    second = asyncio.create_task(process.commands.send(config_order(args=changes[1], patch=True)))
    await until(lambda: _waits(process))
    await process.answer(said.id, "failed", code="plc_lost")
    assert ((await first).state, (await second).state) == (S.FAILED, S.REFUSED)
    assert len(process.link.said("set_config")) == 1
