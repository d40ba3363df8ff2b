"""`$SYS/#`: the broker's figures, under the names and by the rules that monitoring tools know from mosquitto."""

import asyncio
import os
import signal
import sqlite3
from contextlib import asynccontextmanager, closing
from math import exp

import pytest

from broker.server import BrokerOptions, EmbeddedBroker
from broker.sys_topics import PREFIX, SysTopics
from hub.protocol.packets import Connect, Disconnect, Publish, Subscribe, encode
from hub.protocol.topics import Topics
from tests.broker.conftest import Peer, authenticate
from tests.end_to_end.external import free_port

HEARTBEAT = "fh/v1/pond7/heartbeat"
ALL_WITHIN_S = 20.0


def told(topics: SysTopics, now_s: float, **counters: int) -> dict[str, str]:
    """What changed, without the prefix that all topics have."""
    return {topic.removeprefix(PREFIX): said.decode() for topic, said in topics.update(counters, now_s)}


# --- the rules ---------------------------------------------------------------------------------------------------


def test_the_totals_are_the_counters():
    said = told(
        SysTopics("feeder-hub version 1.2", 100.0),
        223.9,
        bytes_received=1,
        bytes_sent=2,
        packets_received=3,
        packets_sent=4,
        messages_received=5,
        messages_sent=6,
        payload_bytes_received=7,
        payload_bytes_sent=8,
        subscriptions=9,
        sessions=12,
        clients_connected=10,
        retained=20,
        retained_bytes=200,
        messages_queued=3,
        queued_bytes=30,
        dropped_qos_0=40,
        dropped_queue_full=2,
    )
    loads = {topic for topic in said if topic.startswith("load/")}
    assert {topic: text for topic, text in said.items() if topic not in loads} == {
        "version": "feeder-hub version 1.2",
        "uptime": "123 seconds",
        "bytes/received": "1",
        "bytes/sent": "2",
        "messages/received": "3",
        "messages/sent": "4",
        "publish/messages/received": "5",
        "publish/messages/sent": "6",
        "publish/messages/dropped": "42",
        "publish/bytes/received": "7",
        "publish/bytes/sent": "8",
        "subscriptions/count": "9",
        "shared_subscriptions/count": "0",
        "clients/connected": "10",
        "clients/active": "10",
        "clients/disconnected": "2",
        "clients/inactive": "2",
        "clients/expired": "0",
        "clients/total": "12",
        "clients/maximum": "10",
        "retained messages/count": "20",
        "messages/stored": "23",
        "store/messages/count": "23",
        "store/messages/bytes": "230",
    }
    assert len(loads) == 27


def test_what_has_not_changed_is_not_told_again():
    topics = SysTopics("v", 0.0)
    assert len(told(topics, 0.0)) == 51
    assert told(topics, 10.0) == {"uptime": "10 seconds"}
    assert told(topics, 20.0, retained=1).keys() == {
        "uptime",
        "retained messages/count",
        "messages/stored",
        "store/messages/count",
    }


@pytest.mark.parametrize("interval_s", [1, 10, 60])
def test_a_load_goes_towards_the_rate_of_each_minute_however_often_it_is_told(interval_s):
    topics = SysTopics("v", 0.0)
    said = told(topics, 0.0)
    assert said["load/messages/received/1min"] == "0.00"
    for now_s in range(interval_s, 61, interval_s):
        said |= told(topics, now_s, packets_received=now_s * 2)
    for span, minutes in (("1min", 1), ("5min", 5), ("15min", 15)):
        assert said[f"load/messages/received/{span}"] == f"{120 * (1 - exp(-1 / minutes)):.2f}"
    for now_s in range(60 + interval_s, 121, interval_s):
        said |= told(topics, now_s, packets_received=120)
    assert said["load/messages/received/1min"] == f"{120 * (1 - exp(-1)) * exp(-1):.2f}"


def test_a_load_stays_when_no_time_has_passed():
    topics = SysTopics("v", 5.0)
    told(topics, 5.0, connects=3)
    assert told(topics, 5.0, connects=30) == {}
    assert told(topics, 65.0, connects=30)["load/connections/1min"] == f"{30 * (1 - exp(-1)):.2f}"


def test_the_maximum_of_clients_stays_when_they_go():
    topics = SysTopics("v", 0.0)
    assert told(topics, 0.0, clients_connected=7)["clients/maximum"] == "7"
    said = told(topics, 10.0, clients_connected=2)
    assert said["clients/connected"] == "2"
    assert "clients/maximum" not in said


# --- beside mosquitto --------------------------------------------------------------------------------------------


@asynccontextmanager
async def mosquitto(program, directory):
    """A mosquitto that tells its figures each second; yields its port."""
    port = free_port()
    conf = directory / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\n{user}")
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, "-c", str(conf), stdout=null, stderr=null)
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def subscriber(program, port, *arguments):
    pipe = asyncio.subprocess.PIPE
    address = ("-h", "127.0.0.1", "-p", str(port))
    return await asyncio.create_subprocess_exec(program, *address, *arguments, stdout=pipe, stderr=pipe)


async def heard_topics(process, wanted):
    """The topics that it prints until all that are wanted were there."""
    heard: set[str] = set()
    async with asyncio.timeout(ALL_WITHIN_S):
        while not wanted <= heard:
            line = await process.stdout.readline()
            assert line, await process.stderr.read()
            heard.add(line.decode().rstrip("\n"))
    return heard


async def listens(port):
    async with asyncio.timeout(ALL_WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


async def test_each_of_them_is_a_topic_of_mosquittos(needs_program, tmp_path):
    ours = {topic for topic, _ in SysTopics("v", 0.0).update({}, 0.0)}
    program = needs_program("mosquitto_sub")
    async with mosquitto(needs_program("mosquitto"), tmp_path) as port:
        await listens(port)
        reader = await subscriber(program, port, "-t", "$SYS/#", "-F", "%t")
        try:
            await heard_topics(reader, ours)
        finally:
            reader.kill()
            await reader.wait()


async def test_mosquitto_sub_reads_the_figures_as_an_exporter_does(start_broker, needs_program):
    program = needs_program("mosquitto_sub")
    place = await start_broker(sys_interval_s=0.1)
    login = ("-u", "monitor", "-P", "right")
    reader = await subscriber(program, place.broker.port, *login, "-t", "$SYS/#", "-F", "%t %r")
    try:
        version, connected = f"{PREFIX}version", f"{PREFIX}clients/connected"
        await heard_topics(reader, {f"{version} 1", f"{connected} 1", f"{connected} 0"})
    finally:
        reader.kill()
        await reader.wait()


# --- in the broker -----------------------------------------------------------------------------------------------


async def figures(place):
    """What a new monitor is given, by topic."""
    monitor = await place.client("monitor", client_id="")
    await monitor.subscribe("$SYS/#")
    messages = await monitor.messages()
    monitor.send(Disconnect())
    await monitor.closed()
    return {topic.removeprefix(PREFIX): payload.decode() for topic, payload, _, _ in messages}


async def test_a_monitor_is_given_all_at_once_and_then_what_changes(start_broker):
    place = await start_broker(sys_interval_s=0.05)
    monitor = await place.client("monitor")
    await monitor.subscribe("$SYS/#")
    first = await monitor.messages()
    assert len({topic for topic, _, qos, retain in first if qos == 0 and retain}) == 51
    told: list[Publish] = []
    async with asyncio.timeout(5):
        while f"{PREFIX}subscriptions/count" not in {packet.topic for packet in told}:
            packet = await monitor.receive()
            assert isinstance(packet, Publish)
            told.append(packet)
    assert not any(packet.retain for packet in told)


async def test_the_figures_are_what_went_over_the_network(start_broker):
    place = await start_broker(sys_interval_s=0)
    site, hub = await place.socket(), await place.socket()
    said = [
        Connect("pond7", username="pond7", password=b"right"),
        Publish(HEARTBEAT, b"12345", 1, packet_id=1),
        Publish(HEARTBEAT, b"678", 0),
        Publish("fh/v1/pond8/heartbeat", b"forbidden", 0),
    ]
    listens = [Connect("hub", username="hub", password=b"right"), Subscribe(1, (("fh/v1/#", 0),))]
    hub.send(*listens)
    for _ in listens:
        await hub.receive()
    site.send(*said)
    await site.receive()
    await site.receive()
    for _ in range(2):
        assert isinstance(await hub.receive(), Publish)
    counters = place.broker.counters
    expected = {
        "bytes_received": sum(len(encode(packet)) for packet in said + listens),
        "bytes_sent": 4 + 5 + 4 + 4 + 2 * (2 + 2 + len(HEARTBEAT)) + 8,
        "packets_received": 6,
        "packets_sent": 6,
        "messages_received": 3,
        "messages_sent": 2,
        "payload_bytes_received": 17,
        "payload_bytes_sent": 8,
        "connects": 2,
        "sockets": 2,
        "subscriptions": 1,
    }
    assert {name: counters[name] for name in expected} == expected


async def test_wildcards_on_the_first_level_do_not_match_them(open_place):  # [MQTT-4.7.2-1]
    peer = await open_place.socket()
    peer.send(Connect("one"))
    await peer.receive()
    assert await peer.subscribe("#", "+/broker/version", "+/#") == (1, 1, 1)
    assert await peer.messages() == []
    await peer.subscribe("$SYS/+/version")
    assert [topic for topic, *_ in await peer.messages()] == [f"{PREFIX}version"]


async def test_nobody_else_is_given_them(start_broker):
    place = await start_broker(sys_interval_s=0.01)
    for user in ("pond7", "hub"):
        peer = await place.client(user)
        assert await peer.subscribe("$SYS/#") == (0x80,)
        assert await peer.messages() == []


async def test_they_are_no_users_retained_messages(start_broker):
    place = await start_broker(sys_interval_s=0.01, max_retained_messages=1)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"mine", retain=True)
    async with asyncio.timeout(5):
        while (said := await figures(place))["retained messages/count"] == "0":
            pass
    assert (said["retained messages/count"], said["store/messages/bytes"]) == ("1", "4")
    assert place.broker.counters["retained"] == 1
    assert "refused_too-much-retained" not in place.broker.counters


async def test_they_are_not_kept_on_disk(tmp_path):
    options = BrokerOptions(port=0, store=tmp_path / "store", sys_interval_s=0.01)
    async with EmbeddedBroker(options, authenticate, Topics(), print) as broker:
        site = await Peer(broker.port).open()
        await site.connect("pond7")
        await site.publish(HEARTBEAT, b"mine", retain=True)
        site.drop()
    with closing(sqlite3.connect(tmp_path / "store")) as kept:
        assert kept.execute("SELECT topic FROM retained").fetchall() == [(HEARTBEAT,)]


async def test_without_an_interval_there_are_none(start_broker):
    place = await start_broker(sys_interval_s=0)
    assert await figures(place) == {}
