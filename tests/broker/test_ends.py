"""How connections end: take-over, wills, keep-alive, DISCONNECT, malformed packets, readers that stall."""

import asyncio
import socket

import pytest

from broker.guard import Credentials
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.packets import Connack, Disconnect, Publish, Will
from hub.protocol.topics import Identity, Topics
from tests.broker.conftest import Peer

HEARTBEAT = "fh/v1/pond7/heartbeat"
WILL = Will(HEARTBEAT, b"offline", qos=1, retain=True)
HEARD_WILL = (HEARTBEAT, b"offline", 1, False)


async def test_a_newcomer_takes_the_place_of_the_old_connection(place):
    old = await place.client("pond7")
    new = await place.client("pond7")
    assert await old.closed() == []  # [MQTT-3.1.4-2]
    assert await new.so_far() == []
    assert place.broker.counters["clients_connected"] == 1


@pytest.mark.parametrize("clean", [True, False])
async def test_late_will_of_an_old_connection_never_overwrites_the_newcomer(place, clean):
    hub = await place.hub("fh/v1/+/heartbeat")
    await place.client("pond7", clean_session=clean, will=Will(HEARTBEAT, b"old offline", qos=1, retain=True))
    new = await place.client("pond7", clean_session=clean, will=Will(HEARTBEAT, b"new offline", qos=1, retain=True))
    await new.publish(HEARTBEAT, b"online", retain=True)
    heard = [payload for _, payload, _, _ in await hub.messages()]
    assert heard == [b"old offline", b"online"]
    late = await place.hub(client_id="hub-2")
    await late.subscribe("fh/v1/+/heartbeat")
    assert await late.messages() == [(HEARTBEAT, b"online", 1, True)]


async def test_many_take_overs_at_once_leave_exactly_one(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    peers = [await place.socket() for _ in range(20)]
    answers = await asyncio.gather(
        *(peer.connect("pond7", clean_session=False, will=WILL) for peer in peers),
        return_exceptions=True,
    )
    assert Connack(session_present=True) in answers
    await place.until("ended_taken-over", 19)
    assert place.broker.counters["clients_connected"] == 2
    assert len(await hub.messages()) == 19


async def test_a_will_is_published_when_the_network_ends(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", will=WILL)
    site.drop()
    await place.until("ended_lost")
    assert await hub.messages() == [HEARD_WILL]
    assert place.broker.counters["retained"] == 1


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x36\0", b"\x20\2\0\0", b"\x30\2\0\0"])
async def test_a_malformed_packet_ends_its_own_connection_only_and_its_will_is_published(place, data):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", will=WILL)
    other = await place.client("pond8")
    site.writer.write(data)
    assert await site.closed() == []
    assert await hub.messages() == [HEARD_WILL]
    assert await other.so_far() == []
    assert place.refusals[0].reason == "malformed"


async def test_after_a_disconnect_there_is_no_will_and_nothing_else_is_looked_at(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", will=WILL)
    site.send(Disconnect(), Publish(HEARTBEAT, b"late"))
    assert await site.closed() == []
    assert await hub.messages() == []  # [MQTT-3.14.4-3]


async def test_a_silent_client_is_ended_after_one_and_a_half_keep_alives_with_its_will(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    loop = asyncio.get_running_loop()
    start = loop.time()
    site = await place.client("pond7", keep_alive=1, will=WILL)
    site.writer.write(b"\xc0")  # half a packet is no packet
    assert await site.closed() == []  # [MQTT-3.1.2-24]
    assert 1.4 < loop.time() - start < 2.5
    assert await hub.messages() == [HEARD_WILL]
    assert place.broker.counters["ended_keep-alive"] == 1


async def test_pings_keep_a_connection_alive(place):
    site = await place.client("pond7", keep_alive=1)
    for _ in range(4):
        await asyncio.sleep(0.5)
        assert await site.so_far() == []


async def test_the_hub_may_disconnect_a_client_and_its_will_is_published(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", will=WILL)
    assert await place.broker.disconnect_user("pond7")
    assert await site.closed() == []
    assert not await place.broker.disconnect_user("pond7")
    assert await hub.messages() == [HEARD_WILL]


async def test_a_reader_that_stalls_costs_bounded_memory_and_then_its_connection(start_broker):
    place = await start_broker(max_buffered_bytes=200_000)
    hub = await place.hub()
    stalled = await place.socket()
    stalled.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await stalled.connect("pond7", will=WILL)
    await stalled.subscribe("fh/v1/pond7/commands", qos=0)
    stalled.writer.transport.pause_reading()
    for _ in range(40):
        for _ in range(9):
            hub.send(Publish("fh/v1/pond7/commands", b"x" * 60_000))
        await hub.publish("fh/v1/pond7/commands", b"x" * 60_000, qos=0)
    assert place.broker.counters["dropped_qos_0"] > 0
    stalled.writer.write(b"\xc0\0" * 200_000)
    await place.until("ended_stalled")
    assert await hub.so_far() == []


async def test_a_client_that_acknowledges_nothing_is_ended_when_its_queue_is_full(start_broker):
    place = await start_broker(max_queued_messages=5, max_in_flight=2)
    hub = await place.hub()
    site = await place.client("pond7", clean_session=False)
    await site.subscribe("fh/v1/pond7/commands")
    for number in range(8):
        await hub.publish("fh/v1/pond7/commands", b"%d" % number)
    await place.until("ended_queue-full")
    back = await place.socket()
    assert not (await back.connect("pond7", clean_session=False)).session_present  # so it knows of the gap
    assert await back.messages() == []


async def test_the_session_of_an_absent_client_ends_when_its_queue_is_full(start_broker):
    place = await start_broker(max_queued_messages=3)
    hub = await place.hub()
    site = await place.client("pond7", clean_session=False)
    await site.subscribe("fh/v1/pond7/commands")
    site.drop()
    await place.until("ended_lost")
    for number in range(3):
        await hub.publish("fh/v1/pond7/commands", b"%d" % number)
    assert place.broker.counters["messages_queued"] == 3
    await hub.publish("fh/v1/pond7/commands", b"too many")
    assert place.broker.counters["sessions_overflowed"] == 1
    assert place.broker.counters["sessions"] == 1  # the hub's
    back = await place.socket()
    assert not (await back.connect("pond7", clean_session=False)).session_present


async def test_shutdown_closes_every_connection_in_time_and_publishes_no_wills(start_broker):
    place = await start_broker()
    silent, idle = await place.socket(), await place.client("pond7", will=WILL)
    stalled = await place.client("pond8")
    stalled.writer.transport.pause_reading()
    loop = asyncio.get_running_loop()
    start = loop.time()
    await place.broker.shutdown()
    assert loop.time() - start < 2
    assert await silent.closed() == await idle.closed() == []
    assert place.broker.counters["retained"] == 0
    with pytest.raises(OSError):
        await place.socket()


async def test_the_hands_of_a_user_are_disconnected_with_it(place):
    hand = await place.client("pond7", client_id="pond7.x")
    site = await place.client("pond7")
    other = await place.client("pond8")
    assert await place.broker.disconnect_user("pond7")
    assert await hand.closed() == await site.closed() == []
    assert await other.so_far() == []


async def test_who_is_removed_while_its_password_is_looked_at_is_looked_at_again(monkeypatch):
    """What the database said before the removal does not count after it."""
    looked, go_on, users = asyncio.Event(), asyncio.Event(), {"pond7"}

    async def slow(shown: Credentials) -> Identity | None:
        known = shown.username in users
        looked.set()
        await go_on.wait()
        return Identity("site", "pond7") if known else None

    async with EmbeddedBroker(BrokerOptions(port=0), slow, Topics(), lambda _: None) as broker:
        peer = await Peer(broker.port).open()
        connecting = asyncio.create_task(peer.connect("pond7"))
        await looked.wait()
        users.clear()
        assert not await broker.remove_user("pond7")
        go_on.set()
        assert (await connecting).code == 5
        peer.drop()


async def test_whoever_is_connected_when_its_user_is_forgotten_is_ended(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe("fh/v1/pond7/commands")
    place.broker._exchange.forget_user("pond7")
    assert await site.closed() == []
    assert place.broker.counters["sessions"] == place.broker.counters["subscriptions"] == 0


async def test_the_hub_has_a_place_however_many_sessions_there_are(start_broker):
    place = await start_broker(max_sessions=1)
    await place.client("pond7")
    link = place.broker.link(Identity("hub", "hub"), "hub", (("fh/v1/#", 1),))
    async with link.running(lambda message: None):
        assert link.connected


async def test_the_hubs_place_may_be_taken_again_and_what_an_earlier_run_says_is_done_changes_nothing(place):
    link = place.broker.link(Identity("hub", "hub"), "hub", (("fh/v1/#", 1),))
    site, arrived = await place.client("pond7"), []
    for _ in range(2):
        async with link.running(arrived.append):
            await site.publish("fh/v1/pond7/feeders/f1/events", b"x")
    first, *again = arrived
    assert [message.payload for message in again] == [b"x", b"x"]
    async with link.running(arrived.append):
        await asyncio.sleep(0)
        assert len(arrived) == 5
        first.acknowledge()
        assert place.broker._paces.of("pond7").with_hub.messages == 2
        for message in arrived[3:]:
            message.acknowledge()
        assert place.broker._paces.of("pond7").with_hub.messages == 0
