"""How much one client may hold or send: each bound, what happens past it, and that nobody else notices."""

import asyncio
import time

from hub.protocol.packets import Connect, Puback, Publish, Pubrec, Pubrel, Subscribe

HEARTBEAT = "fh/v1/pond7/heartbeat"
EVENTS = "fh/v1/pond7/feeders/f1/events"
COMMANDS = "fh/v1/pond7/commands"


def state(feeder: int, site: str = "pond7") -> str:
    return f"fh/v1/{site}/feeders/f{feeder}/state"


async def test_a_client_that_sends_too_many_messages_is_read_more_slowly_and_loses_none(start_broker):
    place = await start_broker(max_messages_per_s=200)
    hub = await place.hub(EVENTS, qos=0)
    site = await place.client("pond7", keep_alive=1)  # which does not end it while it is not listened to
    other = await place.client("pond8")
    began_s = time.monotonic()
    site.send(*(Publish(EVENTS, b"%d" % number, 1, packet_id=number + 1) for number in range(400)))
    first = await site.receive()
    await other.publish("fh/v1/pond8/heartbeat")  # at once
    assert time.monotonic() - began_s < 0.8
    assert [first] + [await site.receive() for _ in range(399)] == [Puback(number + 1) for number in range(400)]
    site.send(Publish(EVENTS, b"last", 1, packet_id=500))
    assert await site.receive() == Puback(500)
    assert time.monotonic() - began_s > 0.8  # 200 at once, and 200 in the second after that
    assert place.broker.counters["slowed_down"] >= 1
    assert len(await hub.messages()) == 401


async def test_a_client_that_is_read_slowly_can_be_taken_over_at_once(start_broker):
    place = await start_broker(max_messages_per_s=1)
    site = await place.client("pond7")
    site.send(*(Publish(EVENTS, b"x") for _ in range(1000)))
    await place.until("slowed_down")
    again = await place.client("pond7")
    assert await again.so_far() == []
    await place.until("ended_taken-over")


async def test_a_user_has_so_many_retained_messages_and_the_next_is_not_kept(start_broker):
    place = await start_broker(max_retained_messages=3)
    site, neighbour = await place.client("pond7"), await place.client("pond8")
    live = await place.hub("fh/v1/+/feeders/+/state")
    for feeder in range(5):
        await site.publish(state(feeder), b"x", retain=True)
    await neighbour.publish(state(0, "pond8"), b"mine", retain=True)
    assert len(await live.messages()) == 6
    late = await place.client("hub", client_id="hub-late")
    await late.subscribe("fh/v1/+/feeders/+/state")
    kept = sorted(topic for topic, *_ in await late.messages())
    assert kept == [state(0), state(1), state(2), state(0, "pond8")]
    assert place.broker.counters["refused_too-much-retained"] == 2
    await site.publish(state(0), b"", retain=True)  # gives room
    await site.publish(state(4), b"x", retain=True)
    assert place.broker.counters["retained"] == 4


async def test_a_retained_message_that_is_too_much_leaves_none_rather_than_the_old_one(start_broker):
    place = await start_broker(max_retained_bytes=1000)
    site = await place.client("pond7")
    await site.publish(state(1), b"old", retain=True)
    await site.publish(state(1), b"x" * 2000, retain=True)
    hub = await place.hub("fh/v1/#")
    assert await hub.messages() == []


async def test_a_session_has_so_many_subscriptions(start_broker):
    place = await start_broker(max_subscriptions=2)
    hub = await place.client("hub")
    assert await hub.subscribe("fh/v1/1", "fh/v1/2", "fh/v1/3") == (1, 1, 0x80)
    assert await hub.subscribe("fh/v1/1", qos=2) == (2,)  # the same again takes no place
    assert place.refusals[0].reason == "too-many-subscriptions"


async def test_qos_2_messages_that_are_never_released_end_the_connection(start_broker):
    place = await start_broker(max_unreleased=3)
    site = await place.client("pond7")
    site.send(*(Publish(EVENTS, b"x", 2, packet_id=number) for number in (1, 2, 3)))
    assert [await site.receive() for _ in range(3)] == [Pubrec(1), Pubrec(2), Pubrec(3)]
    site.send(Pubrel(1), Publish(EVENTS, b"x", 2, packet_id=4))
    await site.receive()
    assert await site.receive() == Pubrec(4)
    site.send(Publish(EVENTS, b"x", 2, packet_id=5))
    assert await site.closed() == []
    assert place.refusals[0].reason == "too-many-unreleased"


async def test_there_are_so_many_sessions(start_broker):
    place = await start_broker(max_sessions=2)
    kept = await place.client("pond7", clean_session=False)
    kept.drop()
    await place.until("ended_lost")
    await place.client("pond8")
    assert (await (await place.socket()).connect("pond9")).code == 3
    assert (await (await place.socket()).connect("pond7", clean_session=False)).code == 0  # its own is there


LARGE = 120_000
"""Bytes of a payload of which some dozens are more than the network itself holds."""


async def test_what_waits_for_a_client_that_does_not_read_follows_when_it_reads_again_in_order(start_broker):
    place = await start_broker(max_queued_bytes=50_000_000, max_in_flight=100)
    hub = await place.hub()
    site = await place.socket()
    await site.connect("pond7")
    await site.subscribe(COMMANDS, qos=1)
    site.writer.transport.pause_reading()
    for number in range(200):
        await hub.publish(COMMANDS, b"%03d" % number + b"x" * LARGE, qos=number % 2)
    assert place.broker.counters["messages_queued"] > 0
    site.writer.transport.resume_reading()
    heard = []
    async with asyncio.timeout(10):
        while len(heard) < 200:
            heard += [(qos, int(payload[:3])) for _, payload, qos, _ in await site.messages()]
    for qos in (0, 1):
        assert [number for each, number in heard if each == qos] == list(range(qos, 200, 2))


async def test_of_what_waits_the_oldest_of_qos_0_go_first(start_broker):
    place = await start_broker(max_queued_messages=10, max_in_flight=100)
    hub = await place.hub()
    site = await place.socket()
    await site.connect("pond7")
    await site.subscribe(COMMANDS, qos=1)
    site.writer.transport.pause_reading()
    last = 0
    while place.broker.counters["messages_queued"] < 10:  # the network's buffers are full before
        last += 1
        await hub.publish(COMMANDS, b"%05d" % last + b"x" * LARGE, qos=0)
    for number in range(3):
        await hub.publish(COMMANDS, b"kept%d" % number, qos=1)
    assert place.broker.counters["dropped_qos_0"] == 3
    site.writer.transport.resume_reading()
    heard = []
    async with asyncio.timeout(10):
        while len(heard) < last:
            heard += [payload[:5] for _, payload, _, _ in await site.messages()]
    arrived = [payload for payload in heard if not payload.startswith(b"kept")]
    missing = sorted(set(range(1, last + 1)) - set(map(int, arrived)))
    assert missing == [last - 9, last - 8, last - 7]  # the oldest of the ten that waited
    assert [payload for payload in heard if payload.startswith(b"kept")] == [b"kept0", b"kept1", b"kept2"]


async def test_a_subscribe_brings_each_retained_message_though_they_are_more_than_may_wait(start_broker):
    place = await start_broker(max_queued_messages=5, max_in_flight=2)
    site = await place.client("pond7")
    for feeder in range(50):
        await site.publish(state(feeder), b"x", retain=True)
    hub = await place.client("hub")
    hub.send(Subscribe(1, (("fh/v1/+/feeders/+/state", 1),)))
    heard = []
    async with asyncio.timeout(5):
        while len(heard) < 50:
            heard += [topic for topic, *_ in await hub.messages()]
    assert sorted(heard) == sorted(map(state, range(50)))


async def test_one_filter_a_thousand_times_in_one_packet_stops_nobody(open_place):
    """It is granted as often and looked up once: 10,000 looks through 2,000 retained topics would take seconds."""
    writer = await open_place.socket()
    writer.send(Connect("writer"))
    await writer.receive()
    writer.send(*(Publish(f"a/{number}/c", b"x", retain=True) for number in range(2_000)))
    assert await writer.so_far() == []
    reader = await open_place.socket()
    reader.send(Connect("reader"))
    await reader.receive()
    began_s = time.monotonic()
    reader.send(Subscribe(1, (("+/+/d", 1),) * 10_000))
    assert (await reader.receive()).codes == (1,) * 10_000
    assert time.monotonic() - began_s < 1.5


async def test_one_filter_over_and_over_brings_a_client_no_more_than_may_wait_whatever_others_retain(start_broker):
    place = await start_broker(max_queued_messages=50, max_in_flight=5)
    others = await place.client("pond8")
    for feeder in range(500):
        await others.publish(state(feeder, "pond8"), b"x", retain=True)
    site = await place.client("pond7", clean_session=False)
    await site.publish(HEARTBEAT, b"x", retain=True)
    site.send(Subscribe(1, ((HEARTBEAT, 1),) * 400))
    await place.until("ended_queue-full")
    assert place.broker.counters["messages_queued"] == 0
    assert len([packet for packet in await site.closed() if isinstance(packet, Publish)]) <= 5
