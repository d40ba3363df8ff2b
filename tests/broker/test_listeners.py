"""The ways in: TCP, TLS, WebSocket, WebSocket over TLS; on both event loops, because the product's is another one."""

import asyncio
import random
import socket
import ssl
import struct
from contextlib import AsyncExitStack, suppress

import pytest
import websockets

from hub.protocol.packets import Connack, Connect, Decoder, Publish, Subscribe, encode

pytestmark = pytest.mark.both_loops

WAYS = ("port", "tls_port", "ws_port", "wss_port")
CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))


@pytest.fixture
async def start_all(start_broker, tls):
    async def start(**options):
        return await start_broker(tls_port=0, ws_port=0, wss_port=0, tls=tls.files, **options)

    return start


async def way_in(place, way, tls, stack):
    """Connected by that way: how to send, how to receive, and the transport under both."""
    port = getattr(place.broker, way)
    secure = tls.client() if way in ("tls_port", "wss_port") else None
    if way in ("ws_port", "wss_port"):
        scheme = "ws" if secure is None else "wss"
        client = await stack.enter_async_context(
            websockets.connect(f"{scheme}://127.0.0.1:{port}", ssl=secure, subprotocols=["mqtt"])
        )
        return client.send, client.recv, client.transport

    peer = await place.socket(port=port, ssl=secure)

    async def send(data):
        peer.writer.write(data)

    return send, lambda: peer.reader.read(65_536), peer.writer.transport


async def opened(place, way):
    """A TCP connection to the port of that way, with nothing said."""
    return await asyncio.open_connection("127.0.0.1", getattr(place.broker, way))


async def ended(reader):
    """Wait for the other side to close; returns what it said before."""
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            while data := await reader.read(65_536):
                said += data
    return said


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_is_served_by_every_way(start_all, tls, way):
    place = await start_all()
    payload = bytes(range(256)) * 250
    async with AsyncExitStack() as stack, asyncio.timeout(5):
        send, receive, _ = await way_in(place, way, tls, stack)
        decoder, packets = Decoder(), []
        await send(CONNECT + encode(Subscribe(1, (("fh/v1/pond7/heartbeat", 0),))))
        await send(encode(Publish("fh/v1/pond7/heartbeat", payload)) * 3)
        while len(packets) < 5:
            packets += decoder.feed(await receive())
        assert packets[0] == Connack()
        assert packets[2:] == [Publish("fh/v1/pond7/heartbeat", payload)] * 3


@pytest.mark.parametrize("way", WAYS)
async def test_a_silent_socket_is_gone_after_the_time_limit(start_all, way):
    place = await start_all(connect_timeout_s=0.2)
    reader, writer = await opened(place, way)
    await ended(reader)
    assert place.refusals[0].reason == "connect-timeout"
    writer.close()
    await place.until_none("connections")


@pytest.mark.parametrize("way", WAYS)
async def test_a_socket_that_dribbles_gains_no_time_by_it(start_all, tls, way):
    place = await start_all(connect_timeout_s=0.3)
    reader, writer = await opened(place, way)
    whole = {
        "port": CONNECT,
        "ws_port": b"GET / HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 9,
        "tls_port": client_hello(tls),
        "wss_port": client_hello(tls),
    }[way]
    ending = asyncio.create_task(ended(reader))
    for at in range(len(whole) - 1):
        writer.write(whole[at : at + 1])
        await asyncio.wait({ending}, timeout=0.02)
        if ending.done():
            break
    await ending
    assert [refusal.reason for refusal in place.refusals] == ["connect-timeout"]
    writer.close()


def client_hello(tls):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls.client().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("way", ["tls_port", "ws_port", "wss_port"])
async def test_the_time_limit_goes_on_after_the_handshakes(start_all, tls, way):
    place = await start_all(connect_timeout_s=0.5)
    began = asyncio.get_running_loop().time()
    async with AsyncExitStack() as stack:
        _, receive, _ = await way_in(place, way, tls, stack)
        with suppress(websockets.ConnectionClosed):
            assert await asyncio.wait_for(receive(), 5) == b""
    assert asyncio.get_running_loop().time() - began < 5
    assert place.refusals[0].reason == "connect-timeout"


@pytest.mark.parametrize("way", ["tls_port", "wss_port"])
@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", CONNECT, b"\0" * 100_000, b"\x16\x03\x01\xff\xff" * 9_000]
)
async def test_garbage_where_tls_is_expected_is_refused_at_once(start_all, way, garbage):
    place = await start_all(connect_timeout_s=3600)
    reader, writer = await opened(place, way)
    writer.write(garbage)
    await ended(reader)
    assert place.refusals[0].reason == "tls-handshake"
    writer.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("said", [b"", b"\x10"])
async def test_whoever_comes_and_goes_leaves_nothing_behind(start_all, way, said):
    place = await start_all()
    for _ in range(5):
        _, writer = await opened(place, way)
        writer.write(said)
        writer.close()
    with socket.create_connection(("127.0.0.1", getattr(place.broker, way))) as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes with a reset
    await place.until("ended_lost", 5)
    await place.until_none("connections")


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_vanishes_is_no_fault_of_the_brokers(start_all, tls, way, caplog):
    place = await start_all()
    async with AsyncExitStack() as stack, asyncio.timeout(5):
        send, receive, transport = await way_in(place, way, tls, stack)
        await send(CONNECT)
        await receive()
        transport.abort()
        await place.until("ended_lost")
        await place.until_none("connections")
    assert not caplog.records


UPGRADE = (
    b"GET /mqtt HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)


def spoilt(chance, data):
    """A few bytes changed, taken out or put in."""
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        data = data[:at] + chance.randbytes(chance.randint(0, 3)) + data[at + chance.randint(0, 3) :]
    return data


@pytest.mark.parametrize("way", ["tls_port", "ws_port"])
async def test_no_bytes_of_a_handshake_are_a_fault_of_the_brokers(start_all, tls, way, caplog):
    place = await start_all(connect_timeout_s=1)
    chance = random.Random(7)
    good = client_hello(tls) if way == "tls_port" else UPGRADE + b"\x82\x80\0\0\0\0"
    for _ in range(10):
        peers = [await opened(place, way) for _ in range(30)]
        for _, writer in peers:
            writer.write(spoilt(chance, good))
            writer.write_eof()
        await asyncio.gather(*(ended(reader) for reader, _ in peers))
        for _, writer in peers:
            writer.close()
    await place.until_none("connections")
    assert not caplog.records


async def test_a_peer_that_has_said_all_it_will_still_hears_the_answers(start_all):
    place = await start_all()
    reader, writer = await opened(place, "port")
    writer.write(CONNECT + encode(Subscribe(1, (("fh/v1/pond7/commands", 1),))))
    writer.write_eof()
    packets = Decoder().feed(await ended(reader))
    assert [type(packet).__name__ for packet in packets] == ["Connack", "Suback"]
    writer.close()


async def test_a_goodbye_in_tls_behind_the_last_packet_does_not_swallow_the_answer(start_all, tls):
    place = await start_all()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await opened(place, "tls_port")
    async with asyncio.timeout(5):
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
    client.write(CONNECT)
    with suppress(ssl.SSLWantReadError):
        client.unwrap()
    writer.write(outgoing.read())
    incoming.write(await ended(reader))
    assert Decoder().feed(client.read(100)) == [Connack()]
    writer.close()


async def test_everybody_is_gone_soon_after_a_shutdown(start_all, tls):
    place = await start_all(connect_timeout_s=3600)
    silent = [await opened(place, way) for way in WAYS for _ in range(10)]
    async with AsyncExitStack() as stack:
        for way in WAYS:
            send, receive, _ = await way_in(place, way, tls, stack)  # one says nothing more
            send, receive, _ = await way_in(place, way, tls, stack)
            await send(CONNECT.replace(b"pond7", way.encode()[:4] + b"0"))
            await receive()
        async with asyncio.timeout(2):
            await place.broker.shutdown()
        await asyncio.gather(*(ended(reader) for reader, _ in silent))
    for _, writer in silent:
        writer.close()
    assert place.broker.counters["connections"] == 0
