"""Who may say and hear what: publish, subscribe, will, and every delivery."""

import pytest

from hub.protocol.packets import Puback, Pubcomp, Publish, Pubrec, Pubrel, Will

HEARTBEAT = "fh/v1/pond7/heartbeat"


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("topic", ["fh/v1/pond8/heartbeat", "fh/v1/pond7/commands", "$SYS/broker/uptime", "elsewhere"])
async def test_a_forbidden_publish_is_acknowledged_dropped_and_recorded(place, topic, qos):
    hub = await place.hub("fh/v1/#")
    site = await place.client("pond7")
    site.send(Publish(topic, b"x", qos, retain=True, packet_id=9 if qos else 0))
    if qos == 1:
        assert await site.receive() == Puback(9)
    if qos == 2:
        assert await site.receive() == Pubrec(9)
        site.send(Pubrel(9))
        assert await site.receive() == Pubcomp(9)
    assert await site.so_far() == []
    assert await hub.messages() == []
    [refusal] = place.refusals
    assert (refusal.kind, refusal.identity, refusal.topic) == ("publish", "pond7", topic)
    assert place.broker.counters["retained"] == 0


async def test_commands_are_never_retained(place):
    hub = await place.hub()
    await hub.publish("fh/v1/pond7/commands", retain=True)
    site = await place.client("pond7")
    await site.subscribe("fh/v1/pond7/commands")
    assert await site.messages() == []
    assert place.broker.counters["retained"] == 0


@pytest.mark.parametrize(
    "topic_filter",
    [
        "#",
        "+/#",
        "fh/#",
        "$SYS/#",
        "fh/v1/+/commands",
        "fh/v1/pond7/#",
        "fh/v1/pond8/commands",
        "$share/group/fh/v1/pond7/commands",
    ],
)
async def test_a_forbidden_subscribe_is_refused_beside_those_that_are_granted(place, topic_filter):
    site = await place.client("pond7")
    assert await site.subscribe("fh/v1/pond7/commands", topic_filter, HEARTBEAT) == (1, 0x80, 1)
    assert [refusal.topic for refusal in place.refusals] == [topic_filter]


@pytest.mark.parametrize("topic", ["fh/v1/pond8/heartbeat", "$SYS/broker", "fh/v1/pond7/commands", "anything"])
async def test_a_will_on_a_foreign_topic_is_refused_with_its_connection(place, topic):
    hub = await place.hub("fh/v1/#")
    site = await place.socket()
    assert (await site.connect("pond7", will=Will(topic, b"x", qos=1, retain=True))).code == 5
    await site.closed()
    assert await hub.messages() == []
    assert place.refusals[0].kind == "will"


@pytest.mark.parametrize("topic", ["fh/v1/+/heartbeat", "#"])
async def test_a_will_with_wildcards_closes_without_an_answer(place, topic):
    site = await place.socket()
    head = b"\0\4MQTT\4\xc6\0\0\0\5pond7" + len(topic).to_bytes(2, "big") + topic.encode() + b"\0\0"
    body = head + b"\0\5pond7\0\5right"
    site.writer.write(b"\x10" + bytes((len(body),)) + body)
    assert await site.closed() == []
    assert place.refusals[0].reason == "malformed"


async def test_retained_messages_go_to_nobody_who_may_not_read_them(place):
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"mine", retain=True)
    await site.publish("fh/v1/pond7/feeders/f1/state", b"mine", retain=True)
    other = await place.client("pond8")
    await other.subscribe("#", HEARTBEAT, "fh/v1/pond8/heartbeat")
    assert await other.messages() == []
    await site.subscribe(HEARTBEAT)
    assert await site.messages() == [(HEARTBEAT, b"mine", 1, True)]


async def test_a_new_client_is_sent_nothing_for_the_filters_of_others(place):
    await place.hub("fh/v1/#")
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, retain=True)
    assert await (await place.client("pond8")).so_far() == []


async def test_every_delivery_passes_the_guard_whatever_was_subscribed(place):
    site = await place.client("pond7")
    [subscriber] = place.broker._exchange._subscribers.values()
    place.broker._exchange._subscriptions.add("#", subscriber, 1)  # as if a wider filter had slipped through
    other = await place.client("pond8")
    await other.publish("fh/v1/pond8/heartbeat")
    assert await site.messages() == []
    assert place.refusals[-1].kind == "receive"


async def test_a_stored_queue_is_for_its_own_identity_only(place):
    # A site whose name looks like one of the hub's client ids finds the hub's session closed to it.
    hub = await place.hub("fh/v1/#", client_id="hub-1", clean_session=False)
    hub.drop()
    await place.until("ended_lost")
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"for the hub")
    thief = await place.socket()
    assert (await thief.connect("hub-1", clean_session=True)).code == 2
    assert place.refusals[-1].reason == "client-id-of-another"
    hub = await place.socket()
    assert (await hub.connect("hub", client_id="hub-1", clean_session=False)).session_present
    assert await hub.messages() == [(HEARTBEAT, b"for the hub", 1, False)]


@pytest.mark.parametrize("topic", ["fh/v1/pond7/" + "x" * 600, "fh/v1/pond7" + "/x" * 40])
async def test_a_topic_that_is_too_long_or_too_deep_is_refused_like_a_foreign_one(place, topic):
    hub = await place.client("hub")
    assert await hub.subscribe(topic, "fh/v1/#") == (0x80, 1)
    site = await place.client("pond7")
    await site.publish(topic)
    assert await hub.messages() == []
    peer = await place.socket()
    assert (await peer.connect("pond8", will=Will(topic, b"x"))).code == 5
    assert [refusal.reason for refusal in place.refusals] == ["topic-too-long"] * 3
