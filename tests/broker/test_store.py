"""What survives: a broker that ends at any moment goes on with all that it acknowledged."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from broker.journal import Journal
from broker.store import GATHERING_S, StoreUnusable, open_store
from hub.protocol.packets import Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Will
from hub.protocol.topics import Identity
from tests.broker.conftest import WAIT_S, Peer

COMMANDS = "fh/v1/pond7/commands"
STATE = "fh/v1/pond7/feeders/f1/state"
HEARTBEAT = "fh/v1/pond7/heartbeat"
REPLIES = "fh/v1/pond7/replies/h1"
HUB = Identity("hub", "hub")


@pytest.fixture
def store_file(tmp_path) -> Path:
    return tmp_path / "broker.db"


async def test_retained_messages_survive_with_their_qos_and_cleared_ones_do_not(start_broker, store_file):
    place = await start_broker(store=store_file)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"online", qos=1, retain=True)
    await site.publish(STATE, b"old", qos=1, retain=True)
    await site.publish(STATE, b"new", qos=0, retain=True)
    await site.publish("fh/v1/pond7/feeders/f2/state", b"x", retain=True)
    await site.publish("fh/v1/pond7/feeders/f2/state", b"", retain=True)
    await place.broker.__aexit__(None, None, None)

    again = await start_broker(store=store_file)
    hub = await again.hub("fh/v1/+/heartbeat", "fh/v1/+/feeders/+/state", qos=2)
    assert sorted(await hub.messages()) == [(STATE, b"new", 0, True), (HEARTBEAT, b"online", 1, True)]


async def test_a_stored_session_survives_with_its_subscriptions_and_what_waits_for_it(start_broker, store_file):
    place = await start_broker(store=store_file)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS, qos=2)
    hub = await place.hub()
    await hub.publish(COMMANDS, b"acknowledged", qos=1)
    await site.so_far()
    await hub.publish(COMMANDS, b"one", qos=1)
    await hub.publish(COMMANDS, b"two", qos=2)
    await hub.publish(COMMANDS, b"three", qos=2)
    one, two, three = await site.so_far(acknowledge=False)
    site.send(Pubrec(two.packet_id))
    assert await site.receive() == Pubrel(two.packet_id)
    site.drop()
    await place.until("ended_lost")
    await hub.publish(COMMANDS, b"four", qos=1)
    await place.broker.__aexit__(None, None, None)

    again = await start_broker(store=store_file)
    assert again.broker.counters["sessions"] == 1
    back = await again.socket()
    assert (await back.connect("pond7", clean_session=False)).session_present
    assert [await back.receive() for _ in range(4)] == [
        Publish(COMMANDS, b"one", 1, dup=True, packet_id=one.packet_id),
        Publish(COMMANDS, b"three", 2, dup=True, packet_id=three.packet_id),
        Pubrel(two.packet_id),  # in the order of the PUBRECs, which come after each PUBLISH
        Publish(COMMANDS, b"four", 1, packet_id=1),  # an id that no message in flight has
    ]
    hub = await again.hub()
    await hub.publish(COMMANDS, b"five", qos=1)
    assert [payload for _, payload, _, _ in await back.messages()] == [b"five"]


async def test_a_qos_2_message_received_before_a_restart_is_not_taken_twice(start_broker, store_file):
    place = await start_broker(store=store_file)
    hub = await place.client("hub", clean_session=False)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS, qos=2)
    hub.send(Publish(COMMANDS, b"once", 2, packet_id=9))
    assert await hub.receive() == Pubrec(9)
    await place.broker.__aexit__(None, None, None)

    again = await start_broker(store=store_file)
    hub, site = await again.client("hub", clean_session=False), await again.client("pond7", clean_session=False)
    hub.send(Publish(COMMANDS, b"once", 2, dup=True, packet_id=9))
    assert await hub.receive() == Pubrec(9)
    hub.send(Pubrel(9))
    assert await hub.receive() == Pubcomp(9)
    assert len(await site.messages()) == 1
    hub.send(Publish(COMMANDS, b"another", 2, packet_id=9))
    assert await hub.receive() == Pubrec(9)
    assert [payload for _, payload, _, _ in await site.messages()] == [b"another"]


async def test_a_clean_session_leaves_nothing_on_disk(start_broker, store_file):
    place = await start_broker(store=store_file)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    hub = await place.hub()
    await hub.publish(COMMANDS, b"waits")
    clean = await place.client("pond7", clean_session=True)
    await clean.subscribe(COMMANDS)
    await hub.publish(COMMANDS, b"not kept", qos=2)
    await place.broker.__aexit__(None, None, None)
    with sqlite3.connect(store_file) as database:
        for table in ("session", "subscription", "message", "received", "retained"):
            assert database.execute(f"SELECT * FROM {table}").fetchall() == []
    database.close()


async def test_nothing_of_a_removed_user_is_left(start_broker, store_file):
    place = await start_broker(store=store_file)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    await site.publish(STATE, b"x", retain=True)
    other = await place.client("pond8")
    await other.publish("fh/v1/pond8/heartbeat", b"mine", retain=True)
    assert await place.broker.remove_user("pond7")
    hub = await place.hub("fh/v1/#")
    assert [topic for topic, *_ in await hub.messages()] == ["fh/v1/pond8/heartbeat"]
    assert place.broker.counters["sessions"] == 2
    await place.broker.__aexit__(None, None, None)
    again = await start_broker(store=store_file)
    assert again.broker.counters["sessions"] == 0
    assert again.broker.counters["retained"] == 1


@pytest.mark.parametrize("leaves", ["with DISCONNECT", "by itself", "not at all"])
async def test_the_will_of_a_client_that_the_broker_left_is_published_at_the_next_start(
    start_broker, store_file, leaves
):
    """Or a retained "online" would outlive the client for as long as that does not come again."""
    place = await start_broker(store=store_file)
    site = await place.client("pond7", will=Will(HEARTBEAT, b"offline", qos=1, retain=True))
    await site.publish(HEARTBEAT, b"online", retain=True)
    if leaves == "with DISCONNECT":
        site.send(Disconnect())
        await place.until("ended_disconnected")
    elif leaves == "by itself":
        site.drop()
        await place.until("ended_lost")
        hand = await place.client("pond7", client_id="pond7.hand")
        await hand.publish(HEARTBEAT, b"said since", retain=True)
    await place.broker.__aexit__(None, None, None)

    for _ in range(2):  # and not again at the start after that
        again = await start_broker(store=store_file)
        hub = await again.hub("fh/v1/+/heartbeat")
        said = {"with DISCONNECT": b"online", "by itself": b"said since", "not at all": b"offline"}[leaves]
        assert await hub.messages() == [(HEARTBEAT, said, 1, True)]
        await again.broker.__aexit__(None, None, None)


async def test_the_will_of_a_left_client_is_not_what_is_too_much_for_a_restored_session(start_broker, store_file):
    events = "fh/v1/pond7/feeders/f1/events"
    place = await start_broker(store=store_file, max_queued_messages=3)
    hub = await place.hub(events, clean_session=False)
    hub.drop()
    await place.until("ended_lost")
    site = await place.client("pond7", will=Will(events, b"gone", qos=1))
    for number in range(3):
        await site.publish(events, b"%d" % number)
    await place.broker.__aexit__(None, None, None)
    again = await start_broker(store=store_file, max_queued_messages=3)
    hub = await again.client("hub", clean_session=False)
    assert [payload for _, payload, *_ in await hub.messages()] == [b"0", b"1", b"2", b"gone"]


async def test_a_broker_that_cannot_listen_leaves_its_file_to_others(start_broker, store_file):
    place = await start_broker()
    with pytest.raises(OSError, match="in use"):
        await start_broker(store=store_file, port=place.broker.port)
    await start_broker(store=store_file)


async def test_what_its_owner_may_not_have_any_more_is_not_restored(start_broker, store_file):
    place = await start_broker(store=store_file)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    hub = await place.hub()
    site.drop()
    await place.until("ended_lost")
    await hub.publish(COMMANDS, b"waits")
    await place.broker.__aexit__(None, None, None)
    with sqlite3.connect(store_file) as database:
        database.execute("UPDATE message SET topic = 'fh/v1/pond8/commands'")
        database.execute("UPDATE subscription SET filter = '#'")
    database.close()

    again = await start_broker(store=store_file)
    site = await again.client("pond7", clean_session=False)
    hub = await again.hub()
    await hub.publish(COMMANDS, b"not subscribed")
    assert await site.messages() == []


# --- a broker that is killed ------------------------------------------------------------------------------------


class Killed:
    """The open broker as a process, to be killed and started again over the same file."""

    def __init__(self, store_file: Path) -> None:
        self._command = [sys.executable, "main.py", "broker", "--open", "--port", "0", "--store", str(store_file)]
        self._peers: list[Peer] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=asyncio.subprocess.PIPE)
        self._port = json.loads(await asyncio.wait_for(self._process.stdout.readline(), 20))["port"]

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        while self._peers:
            self._peers.pop().drop()

    async def peer(self, client_id: str) -> Peer:
        """A client with a stored session."""
        peer = await Peer(self._port).open()
        self._peers.append(peer)
        peer.send(Connect(client_id, clean_session=False))
        assert (await peer.receive()).code == 0
        return peer


@pytest.fixture
async def killed(store_file):
    broker = Killed(store_file)
    await broker.start()
    yield broker
    await broker.kill()


async def test_after_kill_9_nothing_acknowledged_is_lost_and_nothing_delivered_and_acknowledged_comes_again(killed):
    reader, writer = await killed.peer("reader"), await killed.peer("writer")
    await reader.subscribe("t/#")
    for number in range(20):
        await writer.publish("t/read", b"%d" % number)
    assert len(await reader.messages()) == 20  # and acknowledged
    await reader.publish("other", b"", retain=True)  # the answer comes after those acknowledgements are on disk
    reader.drop()
    for number in range(300):
        writer.send(Publish("t/kept", b"%d" % number, 1, retain=number == 299, packet_id=number + 1))
    for number in range(300):
        assert await writer.receive() == Puback(number + 1)
    await killed.kill()

    await killed.start()
    reader = await killed.peer("reader")
    heard = []
    while messages := await reader.messages():
        heard += [(topic, payload) for topic, payload, _, _ in messages]
    assert heard == [("t/kept", b"%d" % number) for number in range(300)]
    other = await killed.peer("other")
    await other.subscribe("t/kept")
    assert await other.messages() == [("t/kept", b"299", 1, True)]


class OnceReader:
    """The receiver of QoS 2 messages as section 4.3.3 has it: what it takes in outlives its connections."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._unreleased: set[int] = set()

    async def hear(self, peer: Peer) -> None:
        while True:
            packet = await peer.receive()
            if isinstance(packet, Publish):
                if packet.packet_id not in self._unreleased:
                    self._unreleased.add(packet.packet_id)
                    self.heard.append(packet.payload)
                peer.send(Pubrec(packet.packet_id))
            else:
                assert isinstance(packet, Pubrel)
                self._unreleased.discard(packet.packet_id)
                peer.send(Pubcomp(packet.packet_id))


class OnceWriter:
    """The sender of QoS 2 messages 0, 1, 2, ... one after the other."""

    def __init__(self) -> None:
        self.sent = 0
        self._unanswered: Publish | Pubrel = Publish("t", b"0", 2, packet_id=1)

    def repeat(self, peer: Peer) -> None:
        last = self._unanswered
        peer.send(replace(last, dup=True) if isinstance(last, Publish) else last)

    async def go_on(self, peer: Peer) -> None:
        """Take one answer and send what follows."""
        answer = await peer.receive()
        if isinstance(answer, Pubrec):
            self._unanswered = Pubrel(answer.packet_id)
        else:
            assert isinstance(answer, Pubcomp)
            self.sent += 1
            self._unanswered = Publish("t", b"%d" % self.sent, 2, packet_id=self.sent % 9 + 1)
        peer.send(self._unanswered)


async def test_qos_2_is_exactly_once_over_many_kills(killed):
    reader, writer = OnceReader(), OnceWriter()
    reading = await killed.peer("reader")
    await reading.subscribe("t", qos=2)
    for steps in (31, 2, 57):  # a kill at another point of the exchange each time
        writing = await killed.peer("writer")
        writer.repeat(writing)
        hearing = asyncio.create_task(reader.hear(reading))
        for _ in range(steps):
            await writer.go_on(writing)
        hearing.cancel()
        await asyncio.wait([hearing])
        await killed.kill()
        await killed.start()
        reading = await killed.peer("reader")
    hearing = asyncio.create_task(reader.hear(reading))
    async with asyncio.timeout(WAIT_S):
        while len(reader.heard) < writer.sent:
            await asyncio.sleep(0.005)
    hearing.cancel()
    assert reader.heard[: writer.sent] == [b"%d" % number for number in range(writer.sent)]
    assert len(reader.heard) - writer.sent in (0, 1)


# --- a file that cannot be used -----------------------------------------------------------------------------------


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)


def other_format(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()


def lose_a_table(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE message")
    database.close()


@pytest.mark.parametrize("damage", [overwrite, cut, garble, other_format, lose_a_table])
async def test_a_damaged_file_is_put_aside_and_the_broker_starts(start_broker, store_file, damage, caplog):
    place = await start_broker(store=store_file)
    site = await place.client("pond7")
    for number in range(100):
        await site.publish(f"fh/v1/pond7/feeders/f{number}/state", b"x" * 200, qos=0, retain=True)
    await place.broker.__aexit__(None, None, None)
    damage(store_file)
    damaged = store_file.read_bytes()

    again = await start_broker(store=store_file)
    assert again.broker.counters["store_put_aside"] == 1
    [aside] = store_file.parent.glob("broker.db.damaged-*")
    assert aside.read_bytes() == damaged
    assert aside.name in caplog.text
    site = await again.client("pond7")
    await site.publish(STATE, b"new", retain=True)
    await again.broker.__aexit__(None, None, None)
    third = await start_broker(store=store_file)
    assert third.broker.counters["retained"] == 1


async def test_a_file_that_another_process_uses_is_not_damaged(store_file):
    async with open_store(store_file, Counter()):
        with pytest.raises(StoreUnusable, match="locked"):
            async with open_store(store_file, Counter()):
                pass
    assert list(store_file.parent.glob("*damaged*")) == []


async def test_somebody_elses_database_is_left_alone(store_file):
    with sqlite3.connect(store_file) as database:
        database.execute("CREATE TABLE session (mine TEXT)")
    database.close()
    with pytest.raises(StoreUnusable, match="somebody else's"):
        async with open_store(store_file, Counter()):
            pass
    with sqlite3.connect(store_file) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("session",)]
    database.close()


async def test_a_directory_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match="cannot be used"):
        async with open_store(tmp_path / "file" / "broker.db", Counter()):
            pass


async def test_a_message_to_a_client_does_not_wait_for_what_its_own_messages_wait_for(
    start_broker, store_file, monkeypatch
):
    place = await start_broker(store=store_file)
    hub = await place.hub(STATE, clean_session=False)
    site = await place.client("pond7")
    await site.subscribe(COMMANDS)
    file, may_write = place.broker._store._file, threading.Event()
    write = file.write
    monkeypatch.setattr(file, "write", lambda batch: may_write.wait(WAIT_S) and write(batch))
    site.send(Publish(STATE, b"kept for the hub", 1, packet_id=1))
    assert (await hub.receive()).payload == b"kept for the hub"
    hub.send(Publish(COMMANDS, b"at once", 1, packet_id=1))
    assert (await site.receive()).payload == b"at once"
    may_write.set()
    assert await site.receive() == Puback(1)


async def test_nothing_is_acknowledged_while_the_disk_refuses_and_nothing_is_lost(
    start_broker, store_file, monkeypatch
):
    monkeypatch.setattr("broker.store.RETRY_S", 0.05)
    place = await start_broker(store=store_file)
    site = await place.client("pond7")
    file = place.broker._store._file
    write, refusing = file.write, True

    def write_or_refuse(batch):
        if refusing:
            raise sqlite3.OperationalError("database or disk is full")
        write(batch)

    monkeypatch.setattr(file, "write", write_or_refuse)
    site.send(Publish(STATE, b"x", 1, retain=True, packet_id=1))
    await place.until("store_faults", 2)
    other = await place.client("pond8")
    await other.publish("fh/v1/pond8/feeders/f1/events")  # what need not be kept goes on
    refusing = False
    assert await site.receive() == Puback(1)


# --- the journal's rules ------------------------------------------------------------------------------------------


def journal() -> Journal:
    return Journal(last_message=0, changed=lambda: None)


def test_what_comes_and_goes_within_one_batch_leaves_no_trace():
    notes = journal()
    number = notes.add_message("c", Publish("t", b"x", 1))
    assert notes.last_change == 1
    notes.remove_message(number)
    assert not notes.take()


def test_what_goes_after_its_batch_was_taken_is_removed_in_the_next():
    notes = journal()
    number = notes.add_message("c", Publish("t", b"x", 1))
    assert notes.take().messages[number] is not None
    notes.remove_message(number)
    assert notes.take().messages == {number: None}


def test_those_who_wait_are_told_at_each_commit():
    notes = journal()
    told = []
    notes.open_session("c", Identity("site", "pond7"))
    notes.take()
    notes.when_committed(lambda: told.append(notes.committed))
    notes.commit()
    assert told == [1]


async def test_what_the_hub_inside_is_done_with_at_once_is_acknowledged_and_never_written(
    start_broker, store_file, monkeypatch
):
    monkeypatch.setattr("broker.store.READER_HAS_S", WAIT_S)
    place = await start_broker(store=store_file)
    site, handed = await place.client("pond7"), asyncio.Queue()
    async with place.broker.link(HUB, "hub", (("fh/v1/+/replies/#", 1),)).running(handed.put_nowait):
        await place.broker._store.flush()
        batches = place.broker.counters["store_batches"]
        for _ in range(3):
            site.send(Publish(REPLIES, b"applied", 1, packet_id=7))
            answer = asyncio.create_task(site.receive())
            message = await handed.get()
            await asyncio.sleep(3 * GATHERING_S)  # the hub's own transaction takes some time
            assert not answer.done()
            message.acknowledge()
            assert await answer == Puback(7)
        assert place.broker.counters["store_batches"] == batches


async def test_what_the_hub_inside_is_not_done_with_is_written_before_it_is_acknowledged(start_broker, store_file):
    place = await start_broker(store=store_file)
    site, handed = await place.client("pond7"), []
    async with place.broker.link(HUB, "hub", (("fh/v1/+/replies/#", 1),)).running(handed.append):
        await place.broker._store.flush()
        site.send(Publish(REPLIES, b"applied", 1, packet_id=7))
        assert await site.receive() == Puback(7)
        assert [message.payload for message in handed] == [b"applied"]
    await place.broker.__aexit__(None, None, None)
    again, handed = await start_broker(store=store_file), []
    async with again.broker.link(HUB, "hub", (("fh/v1/+/replies/#", 1),)).running(handed.append):
        await asyncio.sleep(0)
        assert [message.payload for message in handed] == [b"applied"]


def test_only_messages_for_the_reader_in_this_process_may_come_to_nothing():
    notes = journal()
    notes.read_here = "hub"
    assert not notes.may_come_to_nothing
    first = notes.add_message("hub", Publish(REPLIES, b"x", 1, packet_id=1))
    assert notes.may_come_to_nothing
    other = notes.add_message("pond7", Publish(COMMANDS, b"x", 1, packet_id=1))
    assert not notes.may_come_to_nothing
    notes.remove_message(other)
    assert notes.may_come_to_nothing
    notes.retain(Publish(STATE, b"x", 1, retain=True), "pond7")
    assert not notes.may_come_to_nothing
    notes.take()
    notes.remove_message(first)
    assert not notes.may_come_to_nothing
