"""MQTT over WebSocket: who is let in and with which answer, and which frames may come."""

import asyncio
from contextlib import suppress

import pytest
import websockets
from websockets.frames import Frame, Opcode

from broker import websocket
from hub.protocol.packets import Connack, Connect, Decoder, Pingreq, Pingresp, encode

pytestmark = pytest.mark.both_loops

CONNECT = encode(Connect("pond7", username="pond7", password=b"right"))
KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{KEY}"
MQTT = "Sec-WebSocket-Protocol: mqtt\r\n"


@pytest.fixture
async def place(start_broker):
    return await start_broker(ws_port=0, ws_origins=("https://farm.example",), max_packet_bytes=1_000)


async def ask(place, head, after=b""):
    """Send a request and return the head of the answer and what follows it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.broker.ws_port)
    writer.write(head if isinstance(head, bytes) else f"{head}\r\n".encode() + after)
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
    return answer.decode(), reader, writer


async def body(reader, writer):
    """What is left until the broker closes."""
    async with asyncio.timeout(5):
        text = await reader.read()
    writer.close()
    return text.decode()


def connect(place):
    return websockets.connect(f"ws://127.0.0.1:{place.broker.ws_port}", subprotocols=["mqtt"])


async def closed(client):
    """Wait for the broker to close; returns the code of its closing frame."""
    async with asyncio.timeout(5):
        await client.wait_closed()
    return client.protocol.close_rcvd.code


@pytest.mark.parametrize("protocols", ["mqtt", "mqttv5, mqtt", "chat,mqtt"])
async def test_the_subprotocol_mqtt_is_chosen(place, protocols):
    head = f"GET /mqtt HTTP/1.1\r\nHost: x\r\n{UPGRADE}Sec-WebSocket-Protocol: {protocols}\r\n"
    answer, _, writer = await ask(place, head)
    assert answer.startswith("HTTP/1.1 101 ")
    assert "Sec-WebSocket-Protocol: mqtt\r\n" in answer  # [MQTT-6.0.0-4]
    writer.close()


@pytest.mark.parametrize("protocols", ["", "Sec-WebSocket-Protocol: mqttv3.1\r\n"])
async def test_without_the_subprotocol_nobody_is_let_in(place, protocols):
    answer, reader, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{protocols}")
    assert answer.startswith("HTTP/1.1 400 ")  # [MQTT-6.0.0-3]
    assert "subprotocol" in await body(reader, writer)
    assert place.refusals[0].reason == "websocket-handshake"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\n", 426),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", 426),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n", 400),
        ("GET / HTTP/1.0\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE.replace('13', '8')}{MQTT}", 400),
        (f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE.replace(KEY, '')}{MQTT}", 400),
        ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 1_000, 400),
        ("GET /" + "x" * 15_000 + " HTTP/1.1\r\n", 400),
        (b"X: " + b"y" * 40_000, 431),
        (CONNECT + b"\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
)
async def test_what_is_no_websocket_gets_a_proper_answer_and_is_closed(place, head, status):
    answer, reader, writer = await ask(place, head)
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "Connection: close\r\n" in answer
    assert f"Content-Length: {len(await body(reader, writer))}\r\n" in answer
    assert place.refusals[0].reason == "websocket-handshake"
    await place.until_none("connections")


@pytest.mark.parametrize(
    ("spoilt", "status"), [("Cookie: \xe9", 101), ("Origin: \xe9", 403), (KEY[:-6] + "\xe9==", 400)]
)
async def test_bytes_that_are_not_ascii_are_no_fault_of_the_brokers(place, caplog, spoilt, status):
    upgrade = UPGRADE.replace(KEY, "") if spoilt.startswith("Sec") else UPGRADE
    head = f"GET / HTTP/1.1\r\nHost: x\r\n{upgrade}{MQTT}{spoilt}\r\n\r\n"
    answer, _, writer = await ask(place, head.encode("latin-1"))
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert not caplog.records
    writer.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "http://farm.example", "null", "https://farm.example:444"])
async def test_a_page_that_is_not_listed_is_refused_at_once(place, origin):
    answer, reader, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n{UPGRADE}{MQTT}")
    assert answer.startswith("HTTP/1.1 403 ")
    assert await body(reader, writer) == "Forbidden\n"
    assert place.refusals[0].reason == "foreign-origin"
    assert place.broker.counters["refused_foreign-origin"] == 1


async def test_one_good_origin_does_not_cover_a_bad_one(place):
    origins = "Origin: https://farm.example\r\nOrigin: https://evil.example\r\n"
    answer, _, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: x\r\n{origins}{UPGRADE}{MQTT}")
    assert answer.startswith("HTTP/1.1 403 ")
    writer.close()


@pytest.mark.parametrize("origin", ["", "Origin: https://farm.example\r\n", "Origin: http://broker.example:8083\r\n"])
async def test_listed_pages_programs_and_the_brokers_own_address_may_connect(place, origin):
    answer, _, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: broker.example:8083\r\n{origin}{UPGRADE}{MQTT}")
    assert answer.startswith("HTTP/1.1 101 ")
    writer.close()


async def test_by_default_no_page_may_connect_and_on_an_open_broker_every_page(start_broker, open_place):
    strict = await start_broker(ws_port=0)
    head = f"GET / HTTP/1.1\r\nHost: x\r\nOrigin: https://any.example\r\n{UPGRADE}{MQTT}"
    for place, status in ((strict, 403), (open_place, 101)):
        answer, _, writer = await ask(place, head)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        writer.close()


async def test_a_client_that_does_not_wait_for_the_answer_is_served(place):
    packets = Frame(Opcode.BINARY, CONNECT).serialize(mask=True)
    answer, reader, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{MQTT}", packets)
    assert answer.startswith("HTTP/1.1 101 ")
    assert await reader.readexactly(6) == b"\x82\x04" + encode(Connack())
    writer.close()


async def test_mqtt_does_not_depend_on_where_frames_are_cut(place):
    async with connect(place) as client, asyncio.timeout(5):
        assert client.subprotocol == "mqtt"
        for at in range(0, len(CONNECT), 7):
            await client.send(CONNECT[at : at + 7])
            await client.send(b"")
        assert Decoder().feed(await client.recv()) == [Connack()]
        await client.send([b"\xc0", b"", b"\0\xc0"])  # one message in three frames: a ping and a half
        await client.send(b"\0")
        decoder, packets = Decoder(), []
        while len(packets) < 2:
            packets += decoder.feed(await client.recv())
        assert packets == [Pingresp()] * 2


async def test_a_frame_may_be_longer_than_any_packet(place):
    async with connect(place) as client, asyncio.timeout(5):
        await client.send(CONNECT + encode(Pingreq()) * 50_000)
        decoder, packets = Decoder(), []
        while len(packets) < 50_001:
            packets += decoder.feed(await client.recv())


async def test_a_ping_is_answered_also_while_mqtt_says_nothing(place):
    async with connect(place) as client, asyncio.timeout(5):
        await (await client.ping())
        await client.send(CONNECT)
        await client.recv()
        await (await client.ping(b"again"))


@pytest.mark.parametrize("sent", [b"", CONNECT])
async def test_a_text_frame_closes(place, sent):
    async with connect(place) as client:
        await client.send(sent)
        await client.send("text")  # [MQTT-6.0.0-1]
        assert await closed(client) == 1003
    assert place.refusals[0].reason == "malformed"


async def test_a_packet_longer_than_the_limit_closes_however_it_is_framed(place):
    async with connect(place) as client:
        await client.send(CONNECT)
        await client.recv()
        await client.send(b"\x30\xff\xff\x01")
        assert await closed(client) == 1000
    assert place.refusals[0].reason == "packet-too-large"


async def test_a_client_that_closes_is_answered_and_its_will_goes_out(place):
    async with connect(place) as client, asyncio.timeout(5):
        await client.send(CONNECT)
        await client.recv()
        await client.close(code=4000, reason="enough")
        assert client.protocol.close_sent.code == client.protocol.close_rcvd.code == 4000
    await place.until("ended_lost")


async def test_a_client_that_says_no_goodbye_is_not_waited_for_long(place):
    _, reader, writer = await ask(place, f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{MQTT}")
    writer.write(Frame(Opcode.BINARY, CONNECT + encode(Pingreq())).serialize(mask=True))
    await reader.readexactly(2 + 4)
    shutdown = asyncio.create_task(place.broker.shutdown())
    said = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(5):
            said = await reader.read()
    assert said.endswith(b"\x88\x02\x03\xe8")
    await shutdown
    writer.close()


async def test_pings_that_nobody_reads_the_answers_of_cost_no_memory(place, monkeypatch):
    monkeypatch.setattr(websocket, "_IDLE_FRAMES_PER_S", 1_000_000)
    _, writer = await asyncio.open_connection("127.0.0.1", place.broker.ws_port, limit=1)
    writer.write(f"GET / HTTP/1.1\r\nHost: x\r\n{UPGRADE}{MQTT}\r\n".encode())
    writer.write(Frame(Opcode.BINARY, CONNECT).serialize(mask=True))
    await place.until("connects")
    pings = Frame(Opcode.PING, bytes(125)).serialize(mask=True) * 10_000
    for _ in range(20):
        writer.write(pings)
        async with asyncio.timeout(5):
            await writer.drain()  # the broker goes on reading
    connection = next(iter(place.broker._connections))
    assert connection._writer.buffered_bytes < 200_000
    writer.transport.abort()


@pytest.mark.parametrize("idle", [Frame(Opcode.PING, b""), Frame(Opcode.BINARY, b"")])
async def test_frames_that_carry_nothing_are_read_at_a_pace_of_their_own(place, idle):
    async with connect(place) as client:
        await client.send(CONNECT)
        await client.recv()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        frames = idle.serialize(mask=True) * 1000
        client.transport.write(frames + Frame(Opcode.BINARY, encode(Pingreq())).serialize(mask=True))
        assert await asyncio.wait_for(client.recv(), 5) == encode(Pingresp())
        assert loop.time() - began_s > 0.8


async def test_a_few_pings_delay_nothing(place):
    async with connect(place) as client:
        await client.send(CONNECT)
        await client.recv()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(5):
            await (await client.ping())
        assert loop.time() - began_s < 0.5
