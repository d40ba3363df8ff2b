"""What others, many, large or slow, cost a client: nothing that grows with them.

Speeds are compared within one run, the best of a few rounds against the best of a few rounds.
"""

import asyncio
import time

import pytest

from hub.protocol.packets import Connect, Disconnect, Publish, Subscribe

COMMANDS = "fh/v1/pond7/commands"
MB = 1_000_000
ROUNDS = 5
MANY = 8
"""Times as slow as alone: ours is about once, on a busy machine a few times; the stock broker is 25 to 600 times."""


async def best_s(measured):
    """Seconds of the fastest of a few rounds."""
    best = float("inf")
    for number in range(ROUNDS):
        start = time.perf_counter()
        await measured(number)
        best = min(best, time.perf_counter() - start)
    return best


async def idle_filters(place, count):
    """Have 20 clients subscribe to so many filters that match nothing of the test's."""
    for client in range(20):
        peer = await place.client(f"idle{client}")
        peer.send(Subscribe(1, tuple((f"idle/{client}/{number}/+", 0) for number in range(count // 20))))
        await peer.receive()


async def retained_topics(place, count):
    """Have so many topics hold a retained message that no filter of the test's matches."""
    peer = await place.client("retainer")
    for number in range(count):
        await peer.publish(f"retained/{number}", retain=True)
    await place.settle()


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_subscriber_that_stalls_takes_bounded_memory(start_broker, qos):
    place = await start_broker(max_buffered_bytes=2 * MB, max_queued_bytes=2 * MB)
    hub, stalled = await place.hub(), await place.client("pond7", clean_session=False)
    await stalled.subscribe(COMMANDS)
    stalled.writer.transport.pause_reading()
    before = place.broker.memory_bytes
    for _ in range(800):
        await hub.publish(COMMANDS, bytes(100_000), qos=qos)
    assert place.broker.memory_bytes - before < 40 * MB


async def test_a_subscriber_that_acknowledges_nothing_has_few_messages_in_flight(start_broker):
    place = await start_broker(max_in_flight=20)
    hub, site = await place.hub(), await place.client("pond7")
    await site.subscribe(COMMANDS)
    for number in range(100):
        await hub.publish(COMMANDS, b"%d" % number)
    await place.settle()
    assert len(await site.so_far(acknowledge=False)) == 20


async def test_the_queue_of_a_client_that_is_away_is_bounded(start_broker):
    place = await start_broker(max_queued_messages=50, max_in_flight=10)
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    site.send(Disconnect())
    await site.closed()
    hub = await place.hub()
    for number in range(200):
        await hub.publish(COMMANDS, b"%d" % number)
    await place.settle()
    back = await place.client("pond7", clean_session=False)
    heard = 0
    while messages := await place.heard(back):
        heard += len(messages)
    assert heard <= 60


@pytest.mark.parametrize("connected", [True, False])
async def test_a_packet_of_256_megabytes_is_refused_when_it_is_declared(place, connected):
    peer = await place.client("pond7") if connected else await place.socket()
    peer.writer.write(b"\x30\xff\xff\xff\x7f" if connected else b"\x10\xff\xff\xff\x7f")
    assert await peer.closed() == []


async def test_idle_filters_do_not_slow_a_publish_down(open_place):
    publisher, subscriber = await open_place.client("publisher"), await open_place.client("subscriber")
    await subscriber.subscribe("busy/topic", qos=0)

    async def publish(_):
        publisher.send(*(Publish("busy/topic", b"x") for _ in range(300)))
        for _ in range(300):
            await subscriber.receive()

    alone_s = await best_s(publish)
    await idle_filters(open_place, 4000)
    assert await best_s(publish) < MANY * alone_s


async def test_retained_messages_do_not_slow_a_subscribe_down(open_place):
    peer = await open_place.client("subscriber")

    async def subscribe(number):
        peer.send(Subscribe(1, tuple((f"new/{number}/{n}", 0) for n in range(100))))
        await peer.receive()
        await peer.so_far()

    alone_s = await best_s(subscribe)
    await retained_topics(open_place, 2000)
    assert await best_s(subscribe) < MANY * alone_s


async def test_filters_and_retained_messages_of_others_do_not_slow_a_connect_down(open_place):
    async def connect(number):
        for n in range(3):
            await (await open_place.client(f"new{number}-{n}")).so_far()

    alone_s = await best_s(connect)
    await retained_topics(open_place, 500)
    await idle_filters(open_place, 500)
    assert await best_s(connect) < MANY * alone_s


async def test_filters_and_retained_messages_do_not_stop_others_while_clients_connect(open_place):
    other = await open_place.client("other")

    async def ping_beside_connects(number):
        for n in range(3):
            newcomer = await open_place.socket()
            newcomer.send(Connect(f"new{number}-{n}"))
            await newcomer.receive()
            await other.so_far()

    alone_s = await best_s(ping_beside_connects)
    await retained_topics(open_place, 500)
    await idle_filters(open_place, 500)
    assert await best_s(ping_beside_connects) < MANY * alone_s


async def test_passwords_that_are_slow_to_check_do_not_stop_others(start_broker):
    place = await start_broker(slow_passwords=True)
    other = await place.client("pond7")
    start = time.perf_counter()
    logins = asyncio.gather(*(place.client("hub", client_id=f"hub-{number}") for number in range(6)))
    slowest_s = 0.0
    while not logins.done():
        asked = time.perf_counter()
        await other.so_far()
        slowest_s = max(slowest_s, time.perf_counter() - asked)
    await logins
    assert slowest_s < (time.perf_counter() - start) / 3


async def test_a_stored_session_costs_little_memory(place):
    async def come_and_go(number):
        peer = await place.hub("fh/v1/+/heartbeat", client_id=f"hub-{number}", clean_session=False)
        peer.send(Disconnect())
        await peer.closed()

    for number in range(100):
        await come_and_go(number)
    before = place.broker.memory_bytes
    for number in range(100, 1100):
        await come_and_go(number)
    assert (place.broker.memory_bytes - before) / 1000 < 12_000
