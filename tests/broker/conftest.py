"""A real broker on a free port, and raw peers with our own codec, so that each byte and moment is known."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pytest
import trustme
import uvloop

from broker.certificates import TlsFiles
from broker.guard import Credentials, Refusal
from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.packets import (
    Connack,
    Connect,
    Decoder,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
)
from hub.protocol.topics import Identity, Topics

SECRET = b"right"
WAIT_S = 5.0


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asyncio's own loop, and for what is marked `both_loops` also the one that the product runs on."""
    both = item.get_closest_marker("both_loops") is not None
    return {"asyncio": asyncio.new_event_loop} | ({"uvloop": uvloop.new_event_loop} if both else {})


class Peer:
    """One client's socket, with nothing automatic."""

    def __init__(self, port: int, source: str = "127.0.0.1", **way: Any) -> None:
        self._way = {"host": "127.0.0.1", "port": port, "local_addr": (source, 0)} | way
        self._decoder = Decoder()
        self._packets: list[Packet] = []
        self._next_id = 0

    async def open(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(**self._way)
        return self

    async def connect(self, user: str, password: bytes | None = SECRET, **fields: Any) -> Connack:
        """Send a CONNECT (client id: the user's name, if no other is given) and return the answer."""
        self.send(Connect(fields.pop("client_id", user), username=user, password=password, **fields))
        answer = await self.receive()
        assert isinstance(answer, Connack)
        return answer

    def send(self, *packets: Packet) -> None:
        self.writer.write(b"".join(map(encode, packets)))

    async def receive(self) -> Packet:
        async with asyncio.timeout(WAIT_S):
            while not self._packets:
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError
                self._packets += self._decoder.feed(data)
        return self._packets.pop(0)

    async def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, *, retain: bool = False) -> None:
        """Publish, and wait until the broker has passed it on."""
        self._next_id += 1
        self.send(Publish(topic, payload, qos, retain, packet_id=self._next_id if qos else 0))
        if qos == 0:
            assert await self.so_far() == []
        else:
            answer = await self.receive()
            assert getattr(answer, "packet_id", None) == self._next_id, answer

    async def subscribe(self, *filters: str, qos: int = 1) -> tuple[int, ...]:
        self._next_id += 1
        self.send(Subscribe(self._next_id, tuple((name, qos) for name in filters)))
        answer = await self.receive()
        assert isinstance(answer, Suback)
        return answer.codes

    async def so_far(self, *, acknowledge: bool = True) -> list[Packet]:
        """All that the broker has sent until now: what comes before the answer to a ping."""
        found: list[Packet] = []
        self.send(Pingreq())
        while (packet := await self.receive()) != Pingresp():
            found.append(packet)
            if acknowledge and isinstance(packet, Publish) and packet.qos == 1:
                self.send(Puback(packet.packet_id))
        return found

    async def messages(self) -> list[tuple[str, bytes, int, bool]]:
        """Topic, payload, QoS and RETAIN of the messages so far."""
        return [(p.topic, p.payload, p.qos, p.retain) for p in await self.so_far() if isinstance(p, Publish)]

    async def closed(self) -> list[Packet]:
        """What comes until the broker closes the connection."""
        found: list[Packet] = []
        try:
            while True:
                found.append(await self.receive())
        except (EOFError, ConnectionError):
            return found

    def drop(self) -> None:
        """Vanish without a DISCONNECT."""
        self.writer.transport.abort()


@dataclass
class Place:
    """A broker and its peers. Sites: any name. The hub: user `hub`."""

    broker: EmbeddedBroker
    refusals: list[Refusal]
    peers: list[Peer] = field(default_factory=list)

    async def socket(self, source: str = "127.0.0.1", **way: Any) -> Peer:
        """A peer that has not said anything yet, with that address. way: for `asyncio.open_connection`."""
        peer = await Peer(**{"port": self.broker.port, "source": source} | way).open()
        self.peers.append(peer)
        return peer

    async def client(self, user: str, **fields: Any) -> Peer:
        """A peer that is connected."""
        peer = await self.socket()
        assert (await peer.connect(user, **fields)).code == 0
        return peer

    async def hub(self, *filters: str, qos: int = 1, **fields: Any) -> Peer:
        """The hub's peer, with its subscriptions."""
        hub = await self.client("hub", **fields)
        if filters:
            assert await hub.subscribe(*filters, qos=qos) == (qos,) * len(filters)
        return hub

    async def until(self, counter: str, count: int = 1) -> None:
        """Wait for a counter of the broker's to get there."""
        async with asyncio.timeout(WAIT_S):
            while self.broker.counters.get(counter, 0) < count:
                await asyncio.sleep(0.005)

    async def until_none(self, gauge: str) -> None:
        """Wait for a gauge of the broker's to be 0."""
        async with asyncio.timeout(WAIT_S):
            while self.broker.counters[gauge]:
                await asyncio.sleep(0.005)


async def authenticate(shown: Credentials) -> Identity | None:
    await asyncio.sleep(0)
    user = shown.username
    if user is None or shown.password != SECRET:
        return None
    if user.startswith("monitor"):  # `monitor-pond7` reads the topics of pond7
        return Identity("monitor", user, user.removeprefix("monitor").removeprefix("-") or None)
    return Identity("hub" if user == "hub" else "site", user)


@dataclass
class Tls:
    """An authority, the broker's files that it made, and what its clients need."""

    authority: trustme.CA
    files: TlsFiles

    def renew(self, *, key: bool = True) -> None:
        """Put a new certificate, with a key of its own, in the place of the old one."""
        made = self.authority.issue_cert("localhost", "127.0.0.1")
        made.cert_chain_pems[0].write_to_path(str(self.files.certificate))
        if key:
            made.private_key_pem.write_to_path(str(self.files.key))

    def client(self, name: str | None = None, authority: trustme.CA | None = None) -> ssl.SSLContext:
        """A client that believes the authority; with a name, it shows a certificate for it."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if name is not None:
            identity = f"{name or 'nameless'}.example"
            made = (authority or self.authority).issue_cert(identity, common_name=name or None)
            made.configure_cert(context)
        return context


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    files = TlsFiles(tmp_path / "broker.pem", tmp_path / "broker-key.pem", client_ca=tmp_path / "authority.pem")
    tls = Tls(authority, files)
    tls.renew()
    return tls


StartBroker = Callable[..., Awaitable[Place]]


@pytest.fixture
async def start_broker() -> AsyncIterator[StartBroker]:
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> Place:
            refusals: list[Refusal] = []
            broker = EmbeddedBroker(BrokerOptions(**({"port": 0} | options)), authenticate, Topics(), refusals.append)
            place = Place(await stack.enter_async_context(broker), refusals)
            stack.callback(lambda: [peer.drop() for peer in place.peers])
            return place

        yield start


@pytest.fixture
async def open_place() -> AsyncIterator[Place]:
    """A broker where everybody may do everything, as `feeder-hub broker --open` starts it."""
    refusals: list[Refusal] = []
    options = replace(OPEN_OPTIONS, port=0, ws_port=0)
    async with EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), refusals.append) as broker:
        place = Place(broker, refusals)
        yield place
        for peer in place.peers:
            peer.drop()


@pytest.fixture
async def place(start_broker: StartBroker) -> Place:
    return await start_broker()
