"""What both brokers can do, so that a test of a trap fails on the stock one because of the trap and nothing else."""

from dataclasses import replace

import pytest
import websockets

from hub.protocol.packets import Connack, Connect, Decoder, Will, encode

HEARTBEAT = "fh/v1/pond7/heartbeat"
COMMANDS = "fh/v1/pond7/commands"


async def test_who_has_the_password_gets_in_and_who_has_not_does_not(place):
    good, bad = await place.socket(), await place.socket()
    assert (await good.connect("pond7")).code == 0
    assert (await bad.connect("pond8", b"wrong")).code == 5
    assert await bad.closed() == []


async def test_the_contracts_topics_work_for_those_who_may_use_them(place):
    site = await place.client("pond7")
    assert await site.subscribe(COMMANDS, "fh/v1/pond7/feeders/+/commands", HEARTBEAT) == (1, 1, 1)
    hub = await place.hub("fh/v1/+/feeders/+/state", "fh/v1/+/heartbeat")
    await hub.publish(COMMANDS, b"go")
    assert await place.heard(site) == [(COMMANDS, b"go", 1, False)]
    await site.publish("fh/v1/pond7/feeders/f1/state", b"going")
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"going"]


async def test_live_messages_pass_the_rights(place):
    site, hub = await place.client("pond7"), await place.hub("fh/v1/+/heartbeat")
    assert await site.subscribe("fh/v1/pond8/heartbeat") == (0x80,)
    await site.publish("fh/v1/pond8/heartbeat")
    assert await place.heard(hub) == []


async def test_retained_messages_are_kept(place):
    site = await place.client("pond7")
    await site.publish(HEARTBEAT, b"here", retain=True)
    await place.settle()
    hub = await place.hub("fh/v1/+/heartbeat")
    assert await place.heard(hub) == [(HEARTBEAT, b"here", 1, True)]


async def test_stored_sessions_are_kept(place):
    site = await place.client("pond7", clean_session=False)
    await site.subscribe(COMMANDS)
    site.drop()
    await place.settle()
    hub = await place.hub()
    await hub.publish(COMMANDS, b"while you were away")
    await place.settle()
    back = await place.client("pond7", clean_session=False)
    assert [payload for _, payload, _, _ in await place.heard(back)] == [b"while you were away"]


async def test_wills_are_published(place):
    hub = await place.hub("fh/v1/+/heartbeat")
    site = await place.client("pond7", will=Will(HEARTBEAT, b"offline", qos=1))
    site.drop()
    assert [payload for _, payload, _, _ in await place.heard(hub)] == [b"offline"]


async def test_websockets_are_listened_to(start_broker):
    place = await start_broker(ws=True)
    async with websockets.connect(f"ws://127.0.0.1:{place.broker.ws_port}", subprotocols=["mqtt"]) as client:
        await client.send(encode(Connect("pond7", username="pond7", password=b"right")))
        assert Decoder().feed(await client.recv()) == [Connack()]


@pytest.mark.parametrize("name", [None, "pond7"])
async def test_tls_is_listened_to_with_and_without_a_certificate_of_the_client(start_broker, tls, name):
    place = await start_broker(tls=replace(tls.files, client_certificates="optional"))
    peer = await place.socket(port=place.broker.tls_port, ssl=tls.client(name))
    assert (await peer.connect("pond7")).code == 0


async def test_a_broker_that_is_open_needs_no_password(open_place):
    one, other = await open_place.hub("any/#"), await open_place.client("other")
    await other.publish("any/topic", b"x")
    assert await open_place.heard(one) == [("any/topic", b"x", 1, False)]


async def test_a_broker_without_clients_shuts_down(place):
    await place.broker.shutdown()
