"""What reaches whom: quality of service, retained messages, stored sessions."""

import pytest

from hub.protocol.packets import (
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsuback,
    Unsubscribe,
)

HEARTBEAT = "fh/v1/pond7/heartbeat"
EVENTS = "fh/v1/pond7/feeders/f1/events"
COMMANDS = "fh/v1/pond7/commands"


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
async def test_the_lower_of_published_and_granted_qos_counts(place, published, granted):
    hub = await place.hub(EVENTS, qos=granted)
    site = await place.client("pond7")
    await site.publish(EVENTS, qos=published)
    assert await hub.messages() == [(EVENTS, b"x", min(published, granted), False)]


async def test_overlapping_filters_deliver_once_with_the_highest_qos(place):
    hub = await place.hub("fh/v1/#", "fh/v1/+/feeders/+/events", qos=0)
    await hub.subscribe(EVENTS, qos=2)
    site = await place.client("pond7")
    await site.publish(EVENTS, qos=1)
    assert await hub.messages() == [(EVENTS, b"x", 1, False)]  # [MQTT-3.3.5-1]


async def test_subscribing_again_changes_the_qos_and_sends_the_retained_again(place):
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"here", retain=True)
    hub = await place.hub(HEARTBEAT, qos=1)
    assert await hub.messages() == [(HEARTBEAT, b"here", 1, True)]
    await hub.subscribe(HEARTBEAT, qos=0)
    assert await hub.messages() == [(HEARTBEAT, b"here", 0, True)]  # [MQTT-3.8.4-3]
    await site.publish(HEARTBEAT, b"again")
    assert await hub.messages() == [(HEARTBEAT, b"again", 0, False)]


async def test_retain_is_set_for_a_new_subscription_only(place):
    hub = await place.hub(HEARTBEAT)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, retain=True)
    assert await hub.messages() == [(HEARTBEAT, b"x", 1, False)]  # [MQTT-3.3.1-9]
    await hub.subscribe("fh/v1/+/heartbeat")
    assert await hub.messages() == [(HEARTBEAT, b"x", 1, True)]  # [MQTT-3.3.1-8]


async def test_an_empty_payload_is_delivered_and_clears_the_retained_message(place):
    hub = await place.hub(HEARTBEAT)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"x", retain=True)
    await site.publish(HEARTBEAT, b"y")  # not retained: replaces nothing [MQTT-3.3.1-12]
    assert place.broker.counters["retained"] == 1
    await site.publish(HEARTBEAT, b"", retain=True)  # [MQTT-3.3.1-10]
    assert [payload for _, payload, _, _ in await hub.messages()] == [b"x", b"y", b""]
    assert place.broker.counters["retained"] == 0
    await hub.subscribe(HEARTBEAT)
    assert await hub.messages() == []


async def test_retained_messages_outlive_the_session_of_their_publisher(place):
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, qos=0, retain=True)
    site.drop()
    await place.until("ended_lost")
    hub = await place.hub(HEARTBEAT)
    assert await hub.messages() == [(HEARTBEAT, b"x", 0, True)]


async def test_unsubscribing_ends_delivery_and_is_always_answered(place):
    hub = await place.hub("fh/v1/+/heartbeat", HEARTBEAT)
    hub.send(Unsubscribe(7, ("fh/v1/+/heartbeat", "never/subscribed")))
    assert await hub.receive() == Unsuback(7)
    hub.send(Unsubscribe(8, (HEARTBEAT,)))
    assert await hub.receive() == Unsuback(8)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT)
    assert await hub.messages() == []


async def test_a_qos_2_message_sent_twice_before_its_release_goes_on_once(place):
    hub = await place.hub(EVENTS)
    site = await place.client("pond7")
    site.send(Publish(EVENTS, b"x", 2, packet_id=5), Publish(EVENTS, b"x", 2, dup=True, packet_id=5))
    assert [await site.receive(), await site.receive()] == [Pubrec(5), Pubrec(5)]
    site.send(Pubrel(5), Pubrel(5))
    assert [await site.receive(), await site.receive()] == [Pubcomp(5), Pubcomp(5)]
    assert len(await hub.messages()) == 1
    site.send(Publish(EVENTS, b"y", 2, packet_id=5))  # after the release the id is free
    await site.receive()
    assert len(await hub.messages()) == 1


async def test_a_qos_2_message_goes_out_in_four_steps(place):
    hub = await place.hub(EVENTS, qos=2)
    site = await place.client("pond7")
    await site.publish(EVENTS, qos=2)
    message = await hub.receive()
    hub.send(Pubrec(message.packet_id), Pubrec(message.packet_id))
    assert [await hub.receive(), await hub.receive()] == [Pubrel(message.packet_id)] * 2
    hub.send(Pubcomp(message.packet_id))
    assert await hub.so_far() == []


async def test_no_more_than_the_window_is_in_flight_and_the_rest_follows_in_order(start_broker):
    place = await start_broker(max_in_flight=3)
    hub = await place.hub(EVENTS)
    site = await place.client("pond7")
    for number in range(8):
        await site.publish(EVENTS, b"%d" % number)
    first = await hub.so_far(acknowledge=False)
    assert [message.payload for message in first] == [b"0", b"1", b"2"]
    hub.send(Puback(first[1].packet_id))
    [fourth] = await hub.so_far(acknowledge=False)
    assert fourth.payload == b"3"
    assert fourth.packet_id not in (first[0].packet_id, first[2].packet_id)
    hub.send(*(Puback(message.packet_id) for message in (first[0], first[2], fourth)))
    assert [message.payload for message in await hub.so_far()] == [b"4", b"5", b"6"]


async def test_a_stored_session_gets_what_it_missed_and_what_it_did_not_acknowledge(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS, qos=2)
    hub = await place.hub()
    await hub.publish(COMMANDS, b"one", qos=1)
    await hub.publish(COMMANDS, b"two", qos=2)
    await hub.publish(COMMANDS, b"three", qos=2)
    one, two, three = await site.so_far(acknowledge=False)
    site.send(Pubrec(two.packet_id))
    await site.receive()
    site.drop()
    await place.until("ended_lost")
    await hub.publish(COMMANDS, b"four", qos=1)
    await hub.publish(COMMANDS, b"lost", qos=0)

    back = await place.socket()
    assert (await back.connect("pond7", clean_session=False)).session_present
    assert [await back.receive() for _ in range(4)] == [
        Publish(COMMANDS, b"one", 1, dup=True, packet_id=one.packet_id),  # [MQTT-4.4.0-1] [MQTT-3.3.1-1]
        Publish(COMMANDS, b"three", 2, dup=True, packet_id=three.packet_id),
        Pubrel(two.packet_id),  # in the order of the PUBRECs, which come after each PUBLISH
        Publish(COMMANDS, b"four", 1, packet_id=three.packet_id + 1),
    ]


async def test_a_clean_session_forgets_the_stored_one(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    clean = await place.socket()
    assert not (await clean.connect("pond7", clean_session=True)).session_present
    hub = await place.hub()
    await hub.publish(COMMANDS)
    assert await clean.so_far() == []
    clean.drop()
    await place.until("ended_lost")
    again = await place.socket()
    assert not (await again.connect("pond7", clean_session=False)).session_present


@pytest.mark.parametrize("answer", [Pubrec, Pubcomp])
async def test_an_acknowledgement_of_the_wrong_kind_closes_the_connection(place, answer):
    hub = await place.hub(EVENTS)
    site = await place.client("pond7")
    await site.publish(EVENTS)
    message = await hub.receive()
    hub.send(answer(message.packet_id))
    assert await hub.closed() == []  # [MQTT-4.8.0-1]


async def test_nothing_is_lost_when_the_publisher_leaves_right_away(place):
    hub = await place.hub(EVENTS)
    site = await place.client("pond7")
    site.send(*(Publish(EVENTS, b"%d" % number, 1, packet_id=number + 1) for number in range(500)))
    for _ in range(500):
        await site.receive()
    site.drop()
    heard = []
    while len(heard) < 500:
        heard += [int(payload) for _, payload, _, _ in await hub.messages()]
    assert heard == list(range(500))


async def test_subscriptions_without_acknowledgements_do_not_fill_the_queue_for_ever(start_broker):
    place = await start_broker(max_in_flight=1, max_queued_messages=3)
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, retain=True)
    for number in range(1, 7):
        site.send(Subscribe(number, ((HEARTBEAT, 1),)))
    await site.closed()
    assert place.broker.counters["ended_queue-full"] == 1
