"""Taking in what desktops say: acknowledged when stored, in the contract's order, and bad messages kept for people."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, ProgrammingError
from sqlmodel import select
from ulid import ULID

import hub.conversation
import hub.intake
import hub.rounds
import hub.sqlite
from hub import presence, settlement
from hub.command_states import CommandState
from hub.conversation import ACK_DELAY_S
from hub.database import CommitUnknown, DatabaseAway
from hub.feeders import get_feeder
from hub.liveness import EPOCH_KEY, RECOVERING_KEY, Liveness
from hub.models import FeederEvent
from hub.protocol.messages import Event, Heartbeat
from hub.protocol.times import utc_now
from hub.sites import add_site
from tests.hub.conftest import (
    FEEDER,
    NOW,
    SITE,
    TOPICS,
    Overheard,
    Process,
    StartProcess,
    heartbeat,
    order,
    state,
    until,
)

HEARTBEAT, STATE, EVENTS = TOPICS.heartbeat(SITE), TOPICS.state(SITE, FEEDER), TOPICS.events(SITE, FEEDER)
REPLIES = TOPICS.replies(SITE, "h1")
WILL = b'{"online": false, "session": "session-1"}'
SHUTDOWN = b'{"online": false, "session": "session-1", "reason": "shutdown"}'


def event(seq: int = 1) -> Event:
    return Event(id=str(ULID()), seq=seq, kind="meal", at=NOW, dispensed_g=250)


async def alive(process: Process) -> bool | None:
    return (await process.liveness.read([SITE]))[0].alive


async def spans(process: Process) -> list[tuple[str, str | None]]:
    found = await process.database.read(lambda session: presence.list_spans(session, SITE, None, 100))
    return [(span.session, span.ended_by) for span in reversed(found)]


async def events(process: Process) -> list[int]:
    return await process.database.read(lambda session: [row.seq for row in session.exec(select(FeederEvent))])


@contextlib.contextmanager
def locked(tmp_path: Path) -> Iterator[None]:
    """Somebody else holds the database, so that nothing can be written."""
    other = sqlite3.connect(tmp_path / "hub.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that is away is noticed soon, and tried again soon."""
    monkeypatch.setattr(hub.sqlite, "BUSY_TIMEOUT_S", 0.01)
    monkeypatch.setattr(hub.intake, "RETRY_PAUSE_S", 0.02)


# --- acknowledged when stored ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("kind", ["state", "event", "heartbeat", "reply"])
async def test_a_message_is_acknowledged_only_when_its_row_is_stored(
    start_process: StartProcess, tmp_path: Path, kind: str
) -> None:
    process = await start_process()
    command_id = (await process.commands.send(order("stop_all", None), wait_s=0)).id
    topic, said = {
        "state": (STATE, state(1)),
        "event": (EVENTS, event()),
        "heartbeat": (HEARTBEAT, heartbeat()),
        "reply": (REPLIES, b'{"id": "%s", "status": "applied"}' % command_id.encode()),
    }[kind]
    with locked(tmp_path):
        process.link.hand(topic, said)
        await asyncio.sleep(0.15)
        assert process.link.acknowledged == []

    async def acknowledged() -> bool:
        return len(process.link.acknowledged) == 1

    await until(acknowledged)
    match kind:
        case "state":
            row = await process.database.read(lambda session: get_feeder(session, SITE, FEEDER))
            assert row.state_seq == 1
        case "event":
            assert await events(process) == [1]
        case "heartbeat":
            assert await spans(process) == [("session-1", None)]
        case "reply":
            assert (await process.get(command_id)).state == CommandState.APPLIED


@pytest.mark.usefixtures("_impatient")
async def test_a_session_whose_first_rows_had_to_wait_is_welcomed_all_the_same(
    start_process: StartProcess, tmp_path: Path
) -> None:
    process = await start_process()
    with locked(tmp_path):
        process.link.hand(HEARTBEAT, heartbeat())
        await asyncio.sleep(0.1)
    await process.link.told("report")
    assert await spans(process) == [("session-1", None)]


@pytest.mark.usefixtures("_impatient")
async def test_a_will_whose_row_had_to_wait_ends_the_span_as_a_will(
    start_process: StartProcess, tmp_path: Path
) -> None:
    process = await start_process()
    await process.beat()
    with locked(tmp_path):
        process.link.hand(HEARTBEAT, WILL)
        await asyncio.sleep(0.1)

    async def ended() -> bool:
        return await spans(process) == [("session-1", "will")]

    await until(ended)


@pytest.mark.usefixtures("_impatient")
async def test_outcomes_that_had_to_wait_for_the_database_are_not_lost(
    start_process: StartProcess, tmp_path: Path
) -> None:
    process = await start_process(timeout_s=0.1)
    await process.beat()
    await process.link.told("report")
    command = await process.commands.send(order("pause"))
    assert command.state == CommandState.UNKNOWN
    await process.conversation.ask_what_is_open(SITE, at_once=True)
    asked = await process.link.told("report", 2)
    assert asked.args == {"commands": [command.id]}
    with locked(tmp_path):
        outcomes = b'[{"id": "%s", "status": "not_seen"}]' % command.id.encode()
        process.link.hand(REPLIES, b'{"id": "%s", "status": "applied", "outcomes": %s}' % (asked.id.encode(), outcomes))
        await asyncio.sleep(0.1)

    async def settled() -> bool:
        return (await process.get(command.id)).state == CommandState.NOT_EXECUTED

    await until(settled)


async def test_while_redis_is_away_a_heartbeat_waits_and_counts_later(
    start_process: StartProcess, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.intake, "RETRY_PAUSE_S", 0.02)
    path = tmp_path / "valkey.sock"
    server = Path(redis_url.removeprefix("unix://").partition("?")[0])
    path.symlink_to(server)
    process = await start_process(store_url=f"unix://{path}")
    path.unlink()
    await process.store.redis.connection_pool.disconnect()
    process.link.hand(HEARTBEAT, heartbeat())
    await asyncio.sleep(0.1)
    assert process.link.acknowledged == []
    assert await alive(process) is None
    path.symlink_to(server)

    async def acknowledged() -> bool:
        return len(process.link.acknowledged) == 1

    await until(acknowledged)
    assert await alive(process) is True
    assert await spans(process) == [("session-1", None)]


async def test_of_two_sessions_that_had_to_wait_the_later_one_counts(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, tell_time = asyncio.Event(), process.conversation.tell_time

    async def slow_at_first(site: str, said: Heartbeat) -> None:
        if said.session == "first":
            await goes_on.wait()
        await tell_time(site, said)

    monkeypatch.setattr(process.conversation, "tell_time", slow_at_first)
    for session in ("first", "second"):
        process.link.hand(HEARTBEAT, heartbeat(session))
    await asyncio.sleep(0.05)  # so long the second one could overtake it
    goes_on.set()

    async def both_have_begun() -> bool:
        return await spans(process) == [("first", "replaced"), ("second", None)]

    await until(both_have_begun)
    assert (await process.liveness.require_alive(SITE)).session == "second"


# --- heartbeats --------------------------------------------------------------------------------------------------


async def test_the_first_thing_said_to_a_new_session_is_the_time_before_its_key_is_there(process: Process) -> None:
    stored: list[tuple[str, Any]] = []

    def look(said: Any) -> None:

        url = process.store.redis.connection_pool.connection_kwargs["path"]
        with redis.Redis(unix_socket_path=url) as client:
            stored.append((said.name, client.exists(f"fh:{{{SITE}}}:alive")))

    process.link.on_publish = look
    await process.beat("session-1", 5)
    assert stored == [("ping", 0), ("report", 1)]
    (ping,) = process.link.said("ping")
    assert ping.args == {"session": "session-1", "seq": 5}
    assert (ping.session, ping.journal_id) == ("session-1", "journal-1")


@pytest.mark.both_databases
async def test_a_site_that_is_back_is_told_the_time_asked_and_then_stopped(process: Process) -> None:
    stop = await process.commands.send(order("stop_all", None))
    process.link.published.clear()
    await process.beat()
    assert [said.name for said in process.link.said()] == ["ping", "report", "stop_all"]
    again = process.link.said("stop_all")[0]
    assert (again.id, again.stop_epoch, again.session) == (stop.id, 1, None)
    assert again.expires_at > utc_now()
    assert {topic for topic, _ in process.link.published} == {TOPICS.commands(SITE)}
    assert all(said.stop_epoch == 1 for said in process.link.said())


async def test_each_new_session_is_asked_again_and_renewals_are_not(process: Process) -> None:
    await process.beat("session-1", 1)
    await process.answer((await process.link.told("ping")).id, "applied")
    await process.beat("session-1", 2)
    assert [said.name for said in process.link.said()] == ["ping", "report"]
    await process.beat("session-2", 1)
    assert [(said.name, said.session) for said in process.link.said()[2:]] == [
        ("ping", "session-2"),
        ("report", "session-2"),
    ]
    assert await spans(process) == [("session-1", "replaced"), ("session-2", None)]


@pytest.mark.parametrize("answer", [None, "rejected"])
async def test_a_session_that_has_not_confirmed_the_time_is_told_it_again(
    process: Process, answer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.conversation, "LEAST_PING_PAUSE_S", 0.0)
    await process.beat(seq=1)
    if answer is not None:
        await process.answer((await process.link.told("ping")).id, answer)
    await process.beat(seq=2)
    assert [said.args["seq"] for said in process.link.said("ping")] == [1, 2]


async def test_a_desktop_that_beats_a_hundred_times_a_second_is_not_told_the_time_each_time(process: Process) -> None:
    for seq in range(1, 101):
        await process.beat(seq=seq)
    assert 0 < len(process.link.said("ping")) < 20


async def test_questions_that_nobody_answers_are_forgotten_the_oldest_first(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.conversation, "_MOST_QUESTIONS", 10)
    for number in range(50):
        await process.beat(session=f"session-{number}")
    newest = await process.link.told("report", 50)
    assert len(process.conversation._asked) == 10
    assert newest.id in process.conversation._asked


async def test_the_reply_to_an_acknowledgement_of_events_is_expected(process: Process) -> None:
    await process.beat()
    await process.link.take(TOPICS.events(SITE, FEEDER), event(1))
    await process.answer((await process.link.told("ack_events")).id, "applied")
    assert await process.rejects.last(SITE) == []


async def test_thanks_for_events_are_repeated_with_the_heartbeats_until_they_are_heard(process: Process) -> None:
    await process.beat(seq=1)
    await process.link.take(EVENTS, event(1))
    await process.link.told("ack_events", 1)  # and it is lost on its way
    await process.beat(seq=2)
    await process.answer((await process.link.told("ack_events", 2)).id, "applied")
    await process.beat(seq=3)
    await asyncio.sleep(2 * ACK_DELAY_S)
    assert [said.args for said in process.link.said("ack_events")] == [{"through": {FEEDER: 1}}] * 2


async def test_thanks_for_which_the_database_was_away_are_said_later(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.beat(seq=1)
    read = process.database.read

    async def away(_work: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("away"))

    await process.link.take(EVENTS, event(1))
    monkeypatch.setattr(process.database, "read", away)
    await asyncio.sleep(2 * ACK_DELAY_S)
    assert process.link.said("ack_events") == []
    monkeypatch.setattr(process.database, "read", read)
    await process.beat(seq=2)
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 1}}


async def test_an_event_is_not_acknowledged_over_one_that_still_waits_for_its_store(process: Process) -> None:
    await process.beat()
    with process.conversation.taking_event(SITE, FEEDER, 5):
        await process.link.take(TOPICS.events(SITE, FEEDER), event(6))
        await asyncio.sleep(2 * ACK_DELAY_S)
        assert process.link.said("ack_events") == []
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 6}}


async def test_no_event_is_acknowledged_over_one_that_was_said_while_nobody_listened(process: Process) -> None:
    await process.beat(seq=2)  # the broker was restarted, and the desktop was back before the hub: event 1 found nobody
    await process.link.take(EVENTS, event(2))
    await process.link.told("report", 2)
    assert process.link.said("ack_events") == []
    await process.link.take(EVENTS, event(1))  # a report makes the desktop say again what it keeps
    await process.answer(process.link.said("report")[-1].id, "applied", outcomes=[])
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 2}}


async def test_a_retained_heartbeat_proves_nothing(process: Process) -> None:
    await process.link.take(HEARTBEAT, heartbeat(), retained=True)
    assert await alive(process) is False
    assert await spans(process) == []
    assert process.link.published == []


async def test_a_retained_heartbeat_does_not_renew(process: Process) -> None:
    await process.beat(seq=1)
    await process.store.redis.pexpire(f"fh:{{{SITE}}}:alive", 1000)
    await process.link.take(HEARTBEAT, heartbeat(seq=2), retained=True)
    assert await process.store.redis.pttl(f"fh:{{{SITE}}}:alive") <= 1000


async def test_a_heartbeat_that_waited_longer_than_its_time_to_live_proves_nothing(process: Process) -> None:
    await process.link.take(HEARTBEAT, heartbeat(), age_s=31)
    assert await alive(process) is False
    assert await spans(process) == []


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize(("said", "by"), [(WILL, "will"), (SHUTDOWN, "shutdown")])
async def test_an_offline_ends_its_session_at_once_retained_or_not(
    process: Process, said: bytes, by: str, retained: bool
) -> None:
    async with Overheard(process.stream) as heard:
        await process.beat()
        await process.link.take(HEARTBEAT, said, retained=retained)
        assert await alive(process) is False
        assert await spans(process) == [("session-1", by)]
        assert [told["alive"] for told in await heard.hear("liveness", 2)] == [True, False]


async def test_a_late_will_of_an_old_session_changes_nothing(process: Process) -> None:
    await process.beat("session-1")
    await process.beat("session-2")
    await process.link.take(HEARTBEAT, WILL)
    assert await alive(process) is True
    assert await spans(process) == [("session-1", "replaced"), ("session-2", None)]


async def test_a_late_heartbeat_of_an_old_session_does_not_take_the_living_ones_place(process: Process) -> None:
    await process.beat("session-1", 1)
    await process.beat("session-2", 1)
    await process.beat("session-1", 2)
    await process.beat("session-2", 1)  # and a duplicate
    await process.link.take(EVENTS, event(7))
    ack = await process.link.told("ack_events")
    assert ack.session == "session-2"
    assert await spans(process) == [("session-1", "replaced"), ("session-2", None)]


async def test_a_process_that_is_always_second_speaks_to_the_session_that_is_alive(start_process: StartProcess) -> None:
    first, second = await start_process("h1"), await start_process("h2")
    for session in ("session-1", "session-2"):
        for seq in (1, 2):
            await first.beat(session, seq)
            await second.beat(session, seq)
    await second.conversation.ask_what_is_open(SITE, at_once=True)
    assert (await second.link.told("report")).session == "session-2"
    assert await spans(first) == [("session-1", "replaced"), ("session-2", None)]


@pytest.mark.parametrize("counted_here", [1, 2])
async def test_a_session_is_present_where_one_of_its_first_heartbeats_counted_and_another_process_took_the_other(
    process: Process, counted_here: int
) -> None:
    conversation = process.conversation
    for seq in (1, 2):
        assert conversation.hear(SITE, heartbeat(seq=seq)) is False
    for seq in (1, 2):
        if seq == counted_here:
            conversation.accept(SITE, "session-1")
        else:
            conversation.disregard(SITE, "session-1", seq)
    assert conversation.hear(SITE, heartbeat(seq=3)) is True
    await process.link.take(EVENTS, event(1))
    assert (await process.link.told("ack_events")).session == "session-1"


async def test_a_fourth_session_within_a_minute_raises_two_desktops(process: Process) -> None:
    async with Overheard(process.stream) as heard:
        for n in range(3):
            await process.beat(f"s{n}")
        await heard.settled()
        assert heard.told("two-desktops") == []
        await process.beat("s3")
        await heard.hear("two-desktops")


async def test_a_heartbeat_of_a_site_that_is_not_there_is_recorded_and_makes_nobody_alive(process: Process) -> None:
    await process.beat(site="nowhere")
    assert (await process.liveness.read(["nowhere"]))[0].alive is False
    (rejected,) = await process.rejects.last("nowhere")
    assert rejected["reason"] == "unknown"


async def test_a_clock_that_is_off_is_seen_and_does_not_decide(process: Process) -> None:
    await process.beat(sent_at=NOW - timedelta(days=400))
    now = (await process.liveness.read([SITE]))[0]
    assert now.alive is True
    assert now.clock_skew_s is not None
    assert now.clock_skew_s < -86_400


# --- events and state --------------------------------------------------------------------------------------------


async def test_events_are_thanked_for_after_they_are_stored_and_together(process: Process) -> None:
    await process.beat()
    stored: list[list[int]] = []

    def look(said: Any) -> None:
        if said.name == "ack_events":
            other = sqlite3.connect(str(process.database.url.database))
            stored.append([seq for (seq,) in other.execute("SELECT seq FROM feeder_event ORDER BY seq")])
            other.close()

    process.link.on_publish = look
    for seq in (1, 2, 3):
        process.link.hand(EVENTS, event(seq))
    process.link.hand(TOPICS.events(SITE, "f2"), event(9))
    ack = await process.link.told("ack_events")
    assert ack.args == {"through": {"f1": 3, "f2": 9}}
    assert stored == [[1, 2, 3, 9]]


async def test_thanks_wait_for_the_next_heartbeat_where_the_database_is_away(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.beat()
    read, refusals = process.database.read, iter([OperationalError("SELECT", {}, Exception("restarts"))])

    async def read_if_there(work: Any) -> Any:
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        return await read(work)

    monkeypatch.setattr(process.database, "read", read_if_there)
    await process.link.take(EVENTS, event(1))
    await asyncio.sleep(2 * ACK_DELAY_S)
    assert process.link.said("ack_events") == []
    await process.beat(seq=2)
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 1}}


async def test_a_desktop_that_answers_no_thanks_costs_no_memory(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.conversation, "ACK_DELAY_S", 0.0)
    await process.beat()
    for seq in range(1, 201):
        await process.link.take(EVENTS, event(seq))
    await process.link.told("ack_events", 2)
    present = process.conversation._present[SITE]
    assert len(present.thanks._events[FEEDER].stored) < 20
    assert len(present.thanks._said) <= 100


@pytest.mark.both_databases
async def test_an_event_sent_again_is_stored_and_told_once_and_thanked_for_again(process: Process) -> None:
    await process.beat()
    one = event(4)
    async with Overheard(process.stream) as heard:
        await process.link.take(EVENTS, one)
        await process.link.told("ack_events", 1)
        await process.link.take(EVENTS, one)
        await process.link.told("ack_events", 2)
        await heard.settled()
        assert len(heard.told("event")) == 1
    assert await events(process) == [4]


@pytest.mark.both_databases
async def test_a_state_is_told_with_its_drift_and_an_old_one_is_not(process: Process) -> None:
    async with Overheard(process.stream) as heard:
        await process.link.take(STATE, state(5, condition="jammed"))
        await process.link.take(STATE, state(4))
        await process.link.take(STATE, state(5), retained=True)
        await heard.settled()
        (told,) = heard.told("state")
    assert (told["feeder"], told["condition"], told["drift"]) == (FEEDER, "jammed", [])


async def test_a_retained_state_counts_if_it_is_newer(process: Process) -> None:
    await process.link.take(STATE, state(5), retained=True)
    row = await process.database.read(lambda session: get_feeder(session, SITE, FEEDER))
    assert row.state_seq == 5


# --- bad messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (HEARTBEAT, b"", "not-json"),
        (HEARTBEAT, b"hello", "not-json"),
        (HEARTBEAT, b"\xff\xfe", "not-json"),
        (HEARTBEAT, b"[]", "not-the-schema"),
        (HEARTBEAT, b'{"online": "yes"}', "not-the-schema"),
        (HEARTBEAT, b'{"online": true, "session": "s1"}', "not-the-schema"),
        (HEARTBEAT, b'{"online": false}', "not-the-schema"),
        (STATE, b"{}", "not-the-schema"),
        (STATE, b"x" * (64 * 1024 + 1), "too-large"),
        (EVENTS, b'{"id": 1}', "not-the-schema"),
        (REPLIES, b'{"id": "01JABCDEFGHJKMNPQRSTVWXYZ0", "status": "done"}', "not-the-schema"),
        (REPLIES, b'{"id": "01JABCDEFGHJKMNPQRSTVWXYZ0", "status": "applied"}', "unknown-command"),
        (TOPICS.state(SITE, "f9"), b"", "not-json"),
        ("fh/v1/pond7/feeders/F1/state", b"{}", "unknown-topic"),
        ("fh/v1/pond7/heartbeats", b"{}", "unknown-topic"),
    ],
)
async def test_a_bad_message_changes_nothing_and_is_kept_with_its_reason(
    process: Process, topic: str, payload: bytes, reason: str
) -> None:
    await process.link.take(topic, payload)
    (rejected,) = await process.rejects.last(SITE)
    assert (rejected["reason"], rejected["topic"]) == (reason, topic)
    assert rejected["detail"]
    assert await alive(process) is False
    assert await spans(process) == []
    assert process.link.published == []


async def test_a_payload_of_exactly_64_kib_is_read(process: Process) -> None:
    padded = state(1).model_dump_json().encode().ljust(64 * 1024)
    await process.link.take(STATE, padded)
    assert await process.rejects.last(SITE) == []


async def test_a_state_of_a_feeder_that_is_not_there_is_kept_with_its_reason(process: Process) -> None:
    await process.link.take(TOPICS.state(SITE, "f9"), state(1))
    (rejected,) = await process.rejects.last(SITE)
    assert rejected["reason"] == "unknown"
    assert "f9" in rejected["detail"]


async def test_the_last_bad_messages_of_a_site_are_kept_and_no_more(process: Process) -> None:
    for n in range(30):
        await process.link.take(STATE, f"bad {n}".encode())
    kept = await process.rejects.last(SITE)
    assert [one["payload"] for one in kept] == [f"bad {n}" for n in range(29, 9, -1)]
    assert await process.rejects.last("pond8") == []


# --- by the clock ------------------------------------------------------------------------------------------------


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.rounds, "ROUND_EVERY_S", 0.05)


@pytest.mark.both_databases
@pytest.mark.usefixtures("_often")
async def test_a_desktop_that_falls_silent_is_told_once_however_many_processes_look(
    start_process: StartProcess,
) -> None:
    one, two = await start_process("h1"), await start_process("h2")
    async with one.rounds(), two.rounds(), Overheard(one.stream) as heard:
        await one.beat()
        await two.beat()
        await one.store.redis.delete(f"fh:{{{SITE}}}:alive")  # as its time to live does
        await heard.hear("liveness", 2)
        await asyncio.sleep(0.2)  # some rounds more: nobody may tell it again
        await heard.settled()
        assert [told["alive"] for told in heard.told("liveness")] == [True, False]
    assert await spans(one) == [("session-1", "expired")]


@pytest.mark.usefixtures("_often")
async def test_a_beginning_that_was_written_too_late_gives_way_to_the_session_that_is_alive(process: Process) -> None:
    await process.beat("session-1")
    await process.beat("session-2")
    await process.database.write(lambda session: presence.begin(session, SITE, "session-1", utc_now()))
    assert (await spans(process))[-1] == ("session-1", None)
    async with process.rounds():

        async def mended() -> bool:
            return (await spans(process))[-1] == ("session-2", None)

        await until(mended)


@pytest.mark.usefixtures("_often")
async def test_a_desktop_that_is_back_before_its_end_is_written_is_held_to_be_alive(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.beat()
    await process.store.redis.delete(f"fh:{{{SITE}}}:alive")
    really_read = process.liveness.read

    async def read(sites: list[str]) -> list[Liveness]:
        found = await really_read(sites)
        await process.liveness.beat(SITE, heartbeat(seq=2), 0)
        return found

    monkeypatch.setattr(process.liveness, "read", read)
    await process.rounds().go_round()
    assert await spans(process) == [("session-1", "expired"), ("session-1", None)]


async def test_that_redis_came_back_empty_is_noticed_at_once_though_every_site_is_alive(process: Process) -> None:
    await process.beat()
    await process.store.redis.flushall()
    await process.beat(seq=2)
    await process.rounds().go_round()
    assert await process.store.redis.exists(EPOCH_KEY, RECOVERING_KEY) == 2


async def test_that_redis_was_away_is_noticed_at_once_though_every_site_is_alive(process: Process) -> None:
    await process.beat()
    process.store.failures += 1
    await process.rounds().go_round()
    assert await process.store.redis.exists(RECOVERING_KEY)


@pytest.mark.usefixtures("_often")
async def test_while_liveness_is_unknown_nobody_is_declared_offline(process: Process) -> None:
    await process.beat()
    await process.store.redis.flushall()
    async with process.rounds():
        await asyncio.sleep(0.2)
    assert await spans(process) == [("session-1", None)]


@pytest.mark.both_databases
@pytest.mark.usefixtures("_often")
async def test_what_another_process_left_sent_is_found_overdue_and_asked_about(start_process: StartProcess) -> None:
    gone, here = await start_process("h1", timeout_s=0.1), await start_process("h2", timeout_s=0.1)
    await gone.beat()
    command = await gone.commands.send(order("pause"), wait_s=0)
    async with here.rounds():
        await here.beat(seq=2)

        async def asked() -> bool:
            return any(said.args["commands"] == [command.id] for said in here.link.said("report"))

        await until(asked)
    assert (await here.get(command.id)).state == CommandState.UNKNOWN
    assert await here.database.read(lambda session: settlement.sites_to_ask(session, utc_now())) == []


async def test_while_redis_refuses_writes_a_heartbeat_waits_and_counts_later(process: Process) -> None:
    await process.store.redis.config_set("maxmemory", "1")
    try:
        beat = process.link.hand(HEARTBEAT, heartbeat())
        await process.link.take(TOPICS.replies(SITE, "h1"), b"no json")
        assert beat.payload not in process.link.acknowledged
    finally:
        await process.store.redis.config_set("maxmemory", "0")

    async def acknowledged() -> bool:
        return beat.payload in process.link.acknowledged

    await until(acknowledged)
    assert await alive(process)


@pytest.mark.parametrize("field", ["session", "journal_id"])
async def test_a_nul_in_a_text_is_not_the_schema(process: Process, field: str) -> None:
    with_nul = heartbeat().model_dump_json().replace(f'"{field}":"', f'"{field}":"\\u0000')
    await process.link.take(HEARTBEAT, with_nul.encode())
    assert [entry["reason"] for entry in await process.rejects.last(SITE)] == ["not-the-schema"]
    assert not await alive(process)


@pytest.mark.parametrize(
    "at",
    [
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.999Z"),
        *("1969-12-31T23:59:59.999Z", "3000-01-01T00:00:00Z"),
    ],
)
async def test_a_time_that_no_clock_shows_is_not_the_schema(process: Process, at: str) -> None:
    said = state(1).model_dump(mode="json") | {"at": at}
    await process.link.take(STATE, json.dumps(said).encode())
    assert [entry["reason"] for entry in await process.rejects.last(SITE)] == ["not-the-schema"]


@pytest.mark.both_databases
async def test_an_event_of_one_site_is_stored_though_another_site_has_one_with_its_id(process: Process) -> None:
    now = utc_now()
    await process.database.write(lambda session: add_site(session, "pond9", [FEEDER], "UTC", now))
    await process.beat()
    said = event()
    await process.link.take(TOPICS.events(SITE, FEEDER), said)
    await process.link.take(TOPICS.events("pond9", FEEDER), said)
    assert await events(process) == [1, 1]


# --- a store that fails ------------------------------------------------------------------------------------------


def failing_once(process: Process, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The next write fails, the later ones do not."""
    write, errors = process.database.write, iter([error])

    async def write_or_fail(work: Any) -> Any:
        if (failure := next(errors, None)) is not None:
            raise failure
        return await write(work)

    monkeypatch.setattr(process.database, "write", write_or_fail)


UNFIT = [
    OperationalError("INSERT", {}, Exception("terminating connection due to administrator command")),
    InternalError("INSERT", {}, Exception("cannot execute INSERT in a read-only transaction")),
    InterfaceError("INSERT", {}, Exception("the connection is closed")),
    DatabaseAway("connection refused"),
    CommitUnknown("connection lost"),
]


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("error", UNFIT, ids=lambda error: type(error).__name__)
async def test_while_the_database_is_unfit_an_event_waits_and_is_stored_later(
    process: Process, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await process.beat()
    failing_once(process, monkeypatch, error)
    await process.link.take(EVENTS, event(1))
    assert await events(process) == [1]
    assert await process.rejects.last(SITE) == []


async def test_no_event_is_acknowledged_over_one_that_the_hub_failed_to_store(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process.beat()
    failing_once(process, monkeypatch, ProgrammingError("INSERT", {}, Exception("no such table")))
    first = event(1)
    await process.link.take(EVENTS, first)
    await process.link.take(EVENTS, event(2))
    await asyncio.sleep(2 * ACK_DELAY_S)
    assert process.link.said("ack_events") == []
    await process.link.take(EVENTS, first)  # said again, with a report
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 2}}


@pytest.mark.parametrize(
    "error",
    [DataError("INSERT", {}, Exception("value out of range")), IntegrityError("INSERT", {}, Exception("no such row"))],
    ids=lambda error: type(error).__name__,
)
async def test_an_event_that_cannot_be_stored_because_of_what_it_says_holds_up_no_thanks(
    process: Process, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await process.beat()
    failing_once(process, monkeypatch, error)
    await process.link.take(EVENTS, event(1))
    await process.link.take(EVENTS, event(2))
    assert (await process.link.told("ack_events")).args == {"through": {FEEDER: 2}}
    assert [entry["reason"] for entry in await process.rejects.last(SITE)] == ["internal"]


@pytest.mark.usefixtures("_impatient")
async def test_a_message_that_still_waits_when_the_hub_ends_is_not_acknowledged(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()

    async def away(_work: Any) -> Any:
        began.set()
        raise OperationalError("INSERT", {}, Exception("away"))

    await process.beat()
    monkeypatch.setattr(process.database, "write", away)
    before = list(process.link.acknowledged)
    process.link.hand(EVENTS, event(1))
    await began.wait()
    (taking,) = [task for task in asyncio.all_tasks() if task.get_name() == "take events"]
    taking.cancel()
    await asyncio.wait({taking})
    assert process.link.acknowledged == before
