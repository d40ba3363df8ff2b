"""What the standard asks for and the stock broker does not do."""

import pytest

from hub.protocol.packets import Connack, Pingreq, Pingresp, Publish, Will

HEARTBEAT = "fh/v1/pond7/heartbeat"
EVENTS = "fh/v1/pond7/feeders/f1/events"
COMMANDS = "fh/v1/pond7/commands"


@pytest.mark.parametrize(("published", "granted"), [(0, 1), (0, 2), (1, 2)])
async def test_a_message_is_delivered_with_no_more_than_the_qos_it_was_published_with(place, published, granted):
    hub = await place.hub(EVENTS, qos=granted)
    site = await place.client("pond7")
    await site.publish(EVENTS, qos=published)
    assert await place.heard(hub) == [(EVENTS, b"x", published, False)]


async def test_a_message_that_waited_for_its_client_comes_without_retain(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    site.drop()
    await place.settle()
    hub = await place.hub()
    await hub.publish(COMMANDS)
    await place.settle()
    back = await place.client("pond7", clean_session=False)
    assert await place.heard(back) == [(COMMANDS, b"x", 1, False)]


async def test_a_message_that_was_not_acknowledged_comes_again_as_a_duplicate(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    hub = await place.hub()
    await hub.publish(COMMANDS)
    first = await site.receive()
    assert isinstance(first, Publish)
    site.drop()
    await place.settle()
    back = await place.client("pond7", clean_session=False)
    await place.settle()
    assert await back.so_far() == [Publish(COMMANDS, b"x", 1, dup=True, packet_id=first.packet_id)]


@pytest.mark.parametrize("retain", [True, False])
async def test_a_reconnect_brings_the_retain_flag_of_its_own_will(place, retain):
    await place.client("pond7", clean_session=False, will=Will(HEARTBEAT, b"old", retain=not retain))
    new = await place.client("pond7", clean_session=False, will=Will(HEARTBEAT, b"new", retain=retain))
    await new.publish(HEARTBEAT, b"online", retain=True)
    await place.settle()
    new.drop()
    await place.settle()
    hub = await place.hub(HEARTBEAT)
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"new" if retain else b"online"]


async def test_a_shared_subscription_which_mqtt_3_does_not_have_is_refused(open_place):
    peer = await open_place.client("worker")
    assert await peer.subscribe("$share/workers/jobs", "jobs") == (0x80, 1)


@pytest.mark.parametrize(
    "connect",
    [
        b"\x10\x13\0\6MQIsdp\3\2\0\0\0\5pond7",
        b"\x10\x17\0\4MQTT\5\2\0\0\5\x11\0\0\0\0\0\5pond7",
    ],
    ids=["3.1", "5 with properties"],
)
async def test_a_client_of_another_version_is_told_so_and_closed(place, connect):
    peer = await place.socket()
    peer.writer.write(connect)
    assert await peer.closed() == [Connack(code=1)]


async def is_closed(place, peer):
    """Whether the broker has closed the connection, for what it was sent, by the time it has nothing more to do."""
    await place.settle()
    peer.send(Pingreq())
    try:
        while await peer.receive() != Pingresp():
            pass
    except (EOFError, ConnectionError):
        return True
    return False


def connect_with(flags: int, *fields: bytes) -> bytes:
    """A CONNECT of these flags and fields, well framed."""
    body = b"\0\4MQTT\4" + bytes((flags,)) + b"\0\0"
    body += b"".join(len(field).to_bytes(2, "big") + field for field in fields)
    return b"\x10" + bytes((len(body),)) + body


MALFORMED_CONNECTS = {
    "empty": b"\x10\0",
    "flags in the fixed header": b"\x11" + connect_with(0xC2, b"pond7", b"pond7", b"right")[1:],
    "will QoS 3": connect_with(0xDE, b"pond7", HEARTBEAT.encode(), b"x", b"pond7", b"right"),
    "will QoS without a will": connect_with(0xCA, b"pond7", b"pond7", b"right"),
    "will retain without a will": connect_with(0xE2, b"pond7", b"pond7", b"right"),
    "an empty will topic": connect_with(0xC6, b"pond7", b"", b"x", b"pond7", b"right"),
    "no client id": connect_with(0x02),
    "no password where one is flagged": connect_with(0xC2, b"pond7", b"pond7"),
    "more fields than flagged": connect_with(0xC2, b"pond7", b"pond7", b"right", b"more"),
    "NUL in the client id": connect_with(0xC2, b"po\0d7", b"pond7", b"right"),
    "no UTF-8 in the client id": connect_with(0xC2, b"po\xff7", b"pond7", b"right"),
    "a surrogate in the client id": connect_with(0xC2, b"\xed\xa0\x80", b"pond7", b"right"),
    "NUL in the will topic": connect_with(0xC6, b"pond7", b"a\0b", b"x", b"pond7", b"right"),
    "a PINGREQ instead": b"\xc0\0",
    "a PUBLISH instead": b"\x30\3\0\1a",
    "a SUBSCRIBE instead": b"\x82\6\0\1\0\1a\0",
    "a DISCONNECT instead": b"\xe0\0",
}


@pytest.mark.parametrize("case", MALFORMED_CONNECTS)
async def test_a_malformed_connect_closes_the_connection(place, case):
    peer = await place.socket()
    peer.writer.write(MALFORMED_CONNECTS[case])
    assert await is_closed(place, peer)


MALFORMED = {
    "PUBLISH QoS 3": b"\x36\5\0\1a\0\1",
    "PUBLISH QoS 0 with DUP": b"\x38\3\0\1a",
    "PUBLISH without a topic": b"\x30\0",
    "PUBLISH with an empty topic": b"\x30\2\0\0",
    "PUBLISH with a topic longer than the packet": b"\x30\3\0\x09a",
    "PUBLISH with a plus in its topic": b"\x30\5\0\3a/+",
    "PUBLISH with a number sign in its topic": b"\x30\5\0\3a/#",
    "PUBLISH with NUL in its topic": b"\x30\5\0\3a\0b",
    "PUBLISH with a topic that is no UTF-8": b"\x30\5\0\3a\xffb",
    "PUBLISH with a surrogate in its topic": b"\x30\5\0\3\xed\xa0\x80",
    "PUBLISH QoS 1 without an id": b"\x32\3\0\1a",
    "PUBLISH QoS 1 with id 0": b"\x32\5\0\1a\0\0",
    "PUBLISH QoS 2 with id 0": b"\x34\5\0\1a\0\0",
    "PUBACK with flags": b"\x41\2\0\1",
    "PUBACK of one byte": b"\x40\1\0",
    "PUBREC with flags": b"\x52\2\0\1",
    "PUBREL without its flags": b"\x60\2\0\1",
    "PUBREL without an id": b"\x62\0",
    "PUBCOMP with flags": b"\x72\2\0\1",
    "SUBSCRIBE without its flags": b"\x80\6\0\1\0\1a\0",
    "SUBSCRIBE with id 0": b"\x82\6\0\0\0\1a\0",
    "SUBSCRIBE without a filter": b"\x82\2\0\1",
    "SUBSCRIBE with an empty filter": b"\x82\5\0\1\0\0\0",
    "SUBSCRIBE without a QoS": b"\x82\5\0\1\0\1a",
    "SUBSCRIBE with QoS 3": b"\x82\6\0\1\0\1a\3",
    "SUBSCRIBE with reserved bits in its QoS": b"\x82\6\0\1\0\1a\4",
    "SUBSCRIBE with NUL in its filter": b"\x82\x08\0\1\0\3a\0b\0",
    "SUBSCRIBE with a filter that is no UTF-8": b"\x82\x08\0\1\0\3a\xffb\0",
    "UNSUBSCRIBE without its flags": b"\xa0\5\0\1\0\1a",
    "UNSUBSCRIBE with id 0": b"\xa2\5\0\0\0\1a",
    "UNSUBSCRIBE without a filter": b"\xa2\2\0\1",
    "UNSUBSCRIBE with an empty filter": b"\xa2\4\0\1\0\0",
    "PINGREQ with flags": b"\xc1\0",
    "PINGREQ with a body": b"\xc0\1\0",
    "CONNACK, which only a server sends": b"\x20\2\0\0",
    "SUBACK, which only a server sends": b"\x90\3\0\1\0",
    "UNSUBACK, which only a server sends": b"\xb0\2\0\1",
    "PINGRESP, which only a server sends": b"\xd0\0",
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_packet_closes_the_connection(place, case):
    peer = await place.client("pond7")
    peer.writer.write(MALFORMED[case])
    assert await is_closed(place, peer)
