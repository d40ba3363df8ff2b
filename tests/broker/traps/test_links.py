"""What goes wrong though nobody is at fault: half-open links, reconnects, take-overs, acknowledged messages."""

import pytest

from hub.protocol.packets import Puback, Publish, Suback, Subscribe, Will

HEARTBEAT = "fh/v1/pond7/heartbeat"
EVENTS = "fh/v1/pond7/feeders/f1/events"
COMMANDS = "fh/v1/pond7/commands"
OFFLINE = Will(HEARTBEAT, b"offline", qos=1, retain=True)


async def test_a_link_that_has_gone_silent_is_closed_and_its_will_goes_out(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", keep_alive=1, will=OFFLINE)
    assert await site.closed() == []
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"offline"]


async def test_a_clean_reconnect_closes_the_old_connection(place):
    old = await place.client("pond7")
    await place.client("pond7")
    assert await old.closed() == []


async def test_a_late_offline_of_the_old_connection_does_not_overwrite_the_online_of_the_new(place):
    old = await place.client("pond7", will=OFFLINE)
    new = await place.client("pond7", will=OFFLINE)
    await new.publish(HEARTBEAT, b"online", retain=True)
    await place.settle()
    old.drop()
    await place.settle()
    hub = await place.hub("fh/v1/+/heartbeat")
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"online"]


async def test_a_take_over_of_a_stored_session_publishes_the_will_of_the_old_connection(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    await place.client("pond7", clean_session=False, will=Will(HEARTBEAT, b"old", qos=1))
    await place.client("pond7", clean_session=False, will=Will(HEARTBEAT, b"new", qos=1))
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"old"]


async def test_after_a_take_over_the_stored_session_is_connected(place):
    await place.client("pond7", clean_session=False)
    new = await place.client("pond7", clean_session=False)
    await new.subscribe(COMMANDS)
    hub = await place.hub()
    await hub.publish(COMMANDS, b"go")
    assert [payload for _, payload, _, _ in await place.heard(new)] == [b"go"]


async def test_acknowledged_messages_are_delivered_while_others_subscribe(start_broker):
    place = await start_broker(max_subscriptions=200)
    await place.hub("fh/v1/#", client_id="hub-first", qos=0)
    hub = await place.hub("fh/v1/+/feeders/+/events", qos=0)
    busy = await place.hub(client_id="hub-busy")
    site = await place.client("pond7")
    busy.send(*(Subscribe(number, ((f"fh/v1/other{number}/heartbeat", 1),)) for number in range(1, 201)))
    site.send(*(Publish(EVENTS, b"%d" % number, 1, packet_id=number) for number in range(1, 201)))
    assert [await site.receive() for _ in range(200)] == [Puback(number) for number in range(1, 201)]
    assert [await busy.receive() for _ in range(200)] == [Suback(number, (1,)) for number in range(1, 201)]
    assert [int(payload) for _, payload, _, _ in await place.heard(hub)] == list(range(1, 201))


async def test_acknowledged_messages_are_delivered_when_their_publisher_leaves_right_away(place):
    hub = await place.hub("fh/v1/+/feeders/+/events", qos=0)
    site = await place.client("pond7")
    site.send(*(Publish(EVENTS, b"%d" % number, 1, packet_id=number) for number in range(1, 101)))
    assert [await site.receive() for _ in range(100)] == [Puback(number) for number in range(1, 101)]
    site.drop()
    assert [int(payload) for _, payload, _, _ in await place.heard(hub)] == list(range(1, 101))


@pytest.mark.parametrize("topic", [b"$SYS/broker/version", b"$anything", b""])
async def test_after_a_publish_that_it_does_not_take_the_broker_goes_on_listening_or_says_so(place, topic):
    site = await place.client("pond7")
    site.writer.write(b"\x30" + bytes((2 + len(topic),)) + len(topic).to_bytes(2, "big") + topic)
    await place.settle()
    try:
        assert await site.subscribe(COMMANDS) == (1,)
    except (EOFError, ConnectionError):
        await place.client("pond7")  # it was closed, and knows
