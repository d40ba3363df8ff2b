"""The broker as a whole: its life, its listeners, its counters."""

import asyncio
import errno
import socket

import pytest
import websockets

from broker.server import BrokerOptions, EmbeddedBroker, ListenError
from hub.protocol.packets import Connack, Connect, Decoder, Pingreq, Pingresp, encode
from hub.protocol.topics import Topics

CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))


async def nobody(user: str, password: bytes) -> None:
    return None


async def websocket_to(place):
    return await websockets.connect(f"ws://127.0.0.1:{place.broker.ws_port}", subprotocols=["mqtt"])


@pytest.mark.parametrize("listener", ["mqtt", "websocket"])
async def test_a_taken_port_is_said_with_its_listener(listener):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = BrokerOptions(port=port) if listener == "mqtt" else BrokerOptions(port=0, ws_port=port)
        with pytest.raises(ListenError) as error:
            async with EmbeddedBroker(options, nobody, Topics(), print):
                pytest.fail("it started")
    assert (error.value.errno, error.value.listener) == (errno.EADDRINUSE, listener)
    assert (error.value.host, error.value.port) == ("127.0.0.1", port)


async def test_counters_tell_what_happened_and_what_is(place):
    hub = await place.hub("fh/v1/#", clean_session=False)
    site = await place.client("pond7")
    await site.publish("fh/v1/pond7/heartbeat", retain=True)
    await site.publish("fh/v1/pond8/heartbeat", retain=True)
    hub.drop()
    await place.until("ended_lost")
    await site.publish("fh/v1/pond7/heartbeat")
    counters = place.broker.counters
    assert {name: counters[name] for name in ("clients_connected", "sessions", "messages_queued", "retained")} == {
        "clients_connected": 1,
        "sessions": 2,
        "messages_queued": 1,
        "retained": 1,
    }
    assert counters["messages_received"] == 3
    assert counters["refused_foreign-publish"] == 1


async def test_mqtt_over_websocket_does_not_depend_on_where_frames_are_cut(start_broker):
    place = await start_broker(ws_port=0)
    async with await websocket_to(place) as client:
        assert client.subprotocol == "mqtt"
        for at in range(0, len(CONNECT), 7):
            await client.send(CONNECT[at : at + 7])
            await client.send(b"")
        assert Decoder().feed(await client.recv()) == [Connack()]
        await client.send(encode(Pingreq()) * 2)
        assert Decoder().feed(await client.recv()) == [Pingresp()] * 2


async def test_a_text_frame_closes_the_websocket(start_broker):
    place = await start_broker(ws_port=0)
    async with await websocket_to(place) as client:
        await client.send(CONNECT)
        await client.recv()
        await client.send("text")
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 5)
    assert place.refusals[0].reason == "malformed"


async def test_a_frame_longer_than_any_packet_closes_the_websocket(start_broker):
    place = await start_broker(ws_port=0, max_packet_bytes=1000)
    async with await websocket_to(place) as client:
        await client.send(b"\x30" * 2000)
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(client.recv(), 5)


async def test_a_packet_longer_than_the_limit_closes_the_connection_when_it_is_declared(start_broker):
    place = await start_broker(max_packet_bytes=1000)
    site = await place.client("pond7")
    site.writer.write(b"\x30\xff\xff\xff\x7f")
    assert await site.closed() == []
    assert place.refusals[0].reason == "packet-too-large"


async def test_websockets_are_closed_by_a_shutdown_in_time(start_broker):
    place = await start_broker(ws_port=0)
    async with await websocket_to(place) as connected, await websocket_to(place) as silent:
        await connected.send(CONNECT)
        await connected.recv()
        async with asyncio.timeout(2):
            await place.broker.shutdown()
        for client in (connected, silent):
            with pytest.raises(websockets.ConnectionClosed):
                await asyncio.wait_for(client.recv(), 5)


async def test_a_fault_of_the_broker_costs_one_connection_only(place, monkeypatch, caplog):
    other = await place.client("pond8")
    site = await place.client("pond7")
    monkeypatch.setattr(place.broker._exchange, "publish", lambda message: 1 / 0)
    site.writer.write(b"\x30\3\0\1a\x30\x17\0\x15fh/v1/pond7/heartbeat")
    assert await site.closed() == []
    assert await other.so_far() == []
    assert "fault of the broker" in caplog.text
