"""Clients that other people wrote work unchanged, by every way in that they know."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from broker.certificates import TlsFiles
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import EmbeddedBroker
from hub.protocol.packets import Connect, Publish
from tests.broker.conftest import Peer
from tests.interop.clients import Client, Gmqtt, Heard, Mosquitto, MqttJs, Node, Paho, Way, Will

TOPIC = "farm/pond"
LARGE = b"large" * 10_000
HERE = Path(__file__).parent
KINDS: tuple[type[Client], ...] = (Paho, MqttJs, Gmqtt, Mosquitto)

Connected = Callable[..., Awaitable[Client]]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """Open to everybody, with every way in. Its authority's certificate is `ca.pem` in `tmp_path`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.cert_chain_pems[0].write_to_path(str(tmp_path / "broker.pem"))
    made.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    tls = TlsFiles(tmp_path / "broker.pem", tmp_path / "key.pem")
    options = replace(OPEN_OPTIONS, port=0, tls_port=0, ws_port=0, wss_port=0, tls=tls)
    async with EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), lambda _: None) as broker:
        yield broker


@pytest.fixture
async def peer(broker: EmbeddedBroker) -> AsyncIterator[Peer]:
    """The other side: our own codec, subscribed to everything at QoS 2."""
    peer = await Peer(broker.port).open()
    peer.send(Connect("peer"))
    await peer.receive()
    yield peer
    peer.drop()


@pytest.fixture
async def connected(
    broker: EmbeddedBroker, tmp_path: Path, needs_program: Callable[[str], str]
) -> AsyncIterator[Connected]:
    """`await connected(kind, scheme, client_id="c", clean=..., will=...)`: a client of that kind that is in."""
    ports = {"mqtt": broker.port, "mqtts": broker.tls_port, "ws": broker.ws_port, "wss": broker.wss_port}
    ca = tmp_path / "ca.pem"
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []

        async def connect(kind: type[Client], scheme: str, client_id: str = "c", **wishes: Any) -> Client:
            port = ports[scheme]
            assert port is not None
            client = kind(Way(scheme, port, ca), client_id, **wishes)
            if isinstance(client, Mosquitto):
                client.publish_program = needs_program("mosquitto_pub")
                client.subscribe_program = needs_program("mosquitto_sub")
            if isinstance(client, MqttJs):
                if not nodes:
                    nodes.append(await Node.started(needs_mqtt_js(needs_program), ca))
                    stack.push_async_callback(nodes[0].stop)
                client.node = nodes[0]
            await client.open()
            stack.push_async_callback(client.close)
            return client

        yield connect


def needs_mqtt_js(needs_program: Callable[[str], str]) -> str:
    """Node.js, with MQTT.js beside the script that leads it."""
    node = needs_program("node")
    if not (HERE / "node_modules" / "mqtt").is_dir():
        pytest.skip("NOT TESTED: MQTT.js is not installed; `make programs` installs it or says how")
    return node


every_way = pytest.mark.parametrize(
    ("kind", "scheme"), [pytest.param(kind, way, id=f"{kind.__name__}-{way}") for kind in KINDS for way in kind.ways]
)


@every_way
async def test_messages_of_every_qos_go_in_and_out(connected: Connected, peer: Peer, kind, scheme) -> None:
    client = await connected(kind, scheme)
    await client.subscribe(f"{TOPIC}/to", 2)
    await peer.subscribe(f"{TOPIC}/from", qos=2)
    for qos in (0, 1, 2):
        for payload in (b"small", LARGE):
            await peer.publish(f"{TOPIC}/to", payload, qos)
            assert await client.heard() == Heard(f"{TOPIC}/to", payload, qos, retain=False)
            await client.publish(f"{TOPIC}/from", payload, qos)
            message = await peer.receive()
            assert message == Publish(f"{TOPIC}/from", payload, qos, packet_id=message.packet_id)


@every_way
async def test_a_retained_message_is_told_from_a_live_one(
    connected: Connected, peer: Peer, broker: EmbeddedBroker, kind, scheme
) -> None:
    writer = await connected(kind, scheme, "writer")
    await writer.publish(TOPIC, b"kept", 1, retain=True)
    await until_retained(broker)
    client = await connected(kind, scheme)
    await client.subscribe("farm/+", 1)
    assert await client.heard() == Heard(TOPIC, b"kept", 1, retain=True)
    await peer.publish(TOPIC, b"live", 1, retain=True)
    assert await client.heard() == Heard(TOPIC, b"live", 1, retain=False)


@every_way
async def test_a_stored_session_has_what_came_meanwhile(connected: Connected, peer: Peer, kind, scheme) -> None:
    client = await connected(kind, scheme, clean=False)
    await client.subscribe(TOPIC, 2)
    await client.close()
    for qos in (1, 2):
        await peer.publish(TOPIC, b"missed %d" % qos, qos)
    await client.open()
    assert [await client.heard(), await client.heard()] == [
        Heard(TOPIC, b"missed 1", 1, retain=False),
        Heard(TOPIC, b"missed 2", 2, retain=False),
    ]


@every_way
async def test_the_will_goes_out_when_the_connection_is_cut(
    connected: Connected, peer: Peer, broker: EmbeddedBroker, kind, scheme
) -> None:
    client = await connected(kind, scheme, will=Will(TOPIC, b"gone", 1, retain=True))
    await client.subscribe("something", 1)
    await peer.subscribe(TOPIC)
    outlet = broker._exchange._subscribers["c"].outlet
    assert outlet is not None
    outlet.end("cut")
    assert await peer.receive() == Publish(TOPIC, b"gone", 1, packet_id=1)


async def until_retained(broker: EmbeddedBroker) -> None:
    """Wait until the broker has kept a message: some clients do not tell when theirs is through."""
    async with asyncio.timeout(5):
        while not broker.counters["retained"]:
            await asyncio.sleep(0.005)
