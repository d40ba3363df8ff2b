"""What one tenant can do to another: nothing, whichever of its rights it stretches."""

import pytest

from hub.protocol.packets import Disconnect, Will

HEARTBEAT = "fh/v1/pond7/heartbeat"
STATE = "fh/v1/pond7/feeders/f1/state"
COMMANDS = "fh/v1/pond7/commands"


async def test_a_new_client_is_not_sent_the_retained_messages_of_others_filters(place):
    await place.hub("fh/v1/#")
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"mine", retain=True)
    await place.settle()
    other = await place.client("pond8")
    assert await place.heard(other) == []


async def test_retained_messages_pass_the_same_check_as_live_ones(place):
    site = await place.client("pond7")
    await site.subscribe("fh/v1/pond7/#")  # what may be read of it is less
    await site.publish(STATE, b"live", retain=True)
    assert await place.heard(site) == []
    await site.subscribe("fh/v1/pond7/#", "fh/v1/pond7/feeders/+/commands")
    assert await place.heard(site) == []


async def test_a_will_passes_the_same_check_as_a_publish(place):
    hub = await place.hub("fh/v1/#")
    site = await place.socket()
    await site.connect("pond7", will=Will("fh/v1/pond8/heartbeat", b"forged", qos=1, retain=True))
    site.drop()
    assert await place.heard(hub) == []
    await hub.subscribe("fh/v1/pond8/heartbeat")
    assert await place.heard(hub) == []


async def test_a_will_on_a_topic_of_the_brokers_own_is_not_kept(place):
    site = await place.socket()
    await site.connect("pond7", will=Will("$SYS/broker/version", b"forged", qos=1, retain=True))
    site.drop()
    await place.settle()
    monitor = await place.client("monitor")
    await monitor.subscribe("$SYS/#")
    assert b"forged" not in [payload for _, payload, _, _ in await place.heard(monitor)]


@pytest.mark.parametrize("topic", ["fh/v1/+/heartbeat", "fh/v1/#", "#"])
async def test_a_will_with_wildcards_is_refused_with_its_connection(place, topic):
    site = await place.socket()
    head = b"\0\4MQTT\4\xe6\0\0\0\5pond7" + len(topic).to_bytes(2, "big") + topic.encode() + b"\0\6forged"
    body = head + b"\0\5pond7\0\5right"
    site.writer.write(b"\x10" + bytes((len(body),)) + body)
    assert await site.closed() == []


async def test_another_tenant_does_not_get_a_queues_messages(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    site.send(Disconnect())
    await site.closed()
    await place.settle()
    hub = await place.hub()
    await hub.publish(COMMANDS, b"for pond7 only")
    await place.settle()
    thief = await place.socket()
    assert (await thief.connect("pond8", client_id="pond7", clean_session=False)).code == 2
    assert await thief.closed() == []


async def test_the_right_to_one_level_is_no_right_to_all_below_it(place):
    site = await place.client("pond7")
    assert await site.subscribe("fh/v1/pond7/#") == (0x80,)


async def test_what_is_not_allowed_to_be_published_is_forbidden(start_broker):
    place = await start_broker(publish_acl=False)
    hub = await place.hub("fh/v1/#")
    site = await place.client("pond7")
    await site.publish("fh/v1/pond8/heartbeat", b"forged")
    assert await place.heard(hub) == []
