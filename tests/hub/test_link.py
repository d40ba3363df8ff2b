"""The links to a broker, against a real one: connected when all is granted, redelivery, and clear faults.

The hub's two links, over the network and the place inside the embedded broker, must be the same to the hub.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, TypeVar

import pytest
import structlog

from broker.guard import Credentials, Refusal
from broker.link import EmbeddedLink
from broker.server import BrokerOptions, EmbeddedBroker
from broker.session import Limits
from hub.link import BadBrokerUrl, BrokerAddress, NetworkLink
from hub.protocol import packets
from hub.protocol.link import Message, NotConnected, Receive
from hub.protocol.topics import Identity
from tests.hub.conftest import SITE, TOPICS, until

SECRET = "right"
P = TypeVar("P", bound=packets.Packet)
HEARTBEAT = TOPICS.heartbeat(SITE)


async def authenticate(shown: Credentials) -> Identity | None:
    user = shown.username or ""
    return Identity("hub" if user == "hub" else "site", user) if shown.password == SECRET.encode() else None


class End:
    """One end of a link, with what it received. `keep`: messages are not acknowledged."""

    def __init__(self, link: NetworkLink | EmbeddedLink, *, keep: bool = False) -> None:
        self.link = link
        self.received: list[Message] = []
        self._keep = keep

    def receive(self, message: Message) -> None:
        self.received.append(message)
        if not self._keep:
            message.acknowledge()

    async def payloads(self, count: int) -> list[bytes]:
        async def enough() -> bool:
            return len(self.received) >= count

        await until(enough, within_s=10)
        return [message.payload for message in self.received]


Connect = Callable[..., Awaitable[End]]


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker(BrokerOptions(port=0), authenticate, TOPICS, lambda refusal: None) as broker:
        yield broker


HUB_FILTERS = tuple(topic_filter for topic_filter, _qos in TOPICS.hub_filters("h1"))


def link_to(port: int, user: str, *filters: str, secret: str = SECRET) -> NetworkLink:
    address = BrokerAddress("127.0.0.1", port, tls=False, username=user, password=secret)
    return NetworkLink(address, user, tuple((wanted, 1) for wanted in filters), stored_session=user == "hub")


def hub_link(kind: str, broker: EmbeddedBroker) -> NetworkLink | EmbeddedLink:
    """The hub's link of that kind, to everything that the hub hears."""
    if kind == "network":
        return link_to(broker.port, "hub", *HUB_FILTERS)
    return broker.link(Identity("hub", "hub"), "hub", tuple((wanted, 1) for wanted in HUB_FILTERS))


both_kinds = pytest.mark.parametrize("kind", ["network", "embedded"])


@pytest.fixture
async def connect(broker: EmbeddedBroker) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def connect(user: str, *filters: str, keep: bool = False, kind: str = "network") -> End:
            link = hub_link(kind, broker) if user == "hub" else link_to(broker.port, user, *filters)
            end = End(link, keep=keep)
            await stack.enter_async_context(end.link.running(end.receive))
            assert await end.link.wait_connected(5)
            return end

        yield connect


@both_kinds
async def test_what_one_end_publishes_the_other_receives_in_order(connect: Connect, kind: str) -> None:
    hub = await connect("hub", kind=kind)
    site = await connect(SITE, *TOPICS.desktop_filters(SITE))
    for n in range(200):
        site.link.publish(TOPICS.state(SITE, "f1"), str(n).encode())
    assert await hub.payloads(200) == [str(n).encode() for n in range(200)]
    hub.link.publish(TOPICS.commands(SITE, "f1"), b"command")
    assert await site.payloads(1) == [b"command"]
    assert site.received[0].topic == TOPICS.commands(SITE, "f1")
    assert not site.received[0].retained


async def test_it_is_connected_only_when_every_subscription_is_granted(broker: EmbeddedBroker) -> None:
    end = End(link_to(broker.port, SITE, TOPICS.commands(SITE), TOPICS.commands("pond8")))
    async with end.link.running(end.receive):
        assert not await end.link.wait_connected(0.5)
        assert not end.link.connected
        assert TOPICS.commands("pond8") in (end.link.last_fault or "")
        with pytest.raises(NotConnected):
            end.link.publish(HEARTBEAT, b"x")


async def test_a_refused_login_is_told(broker: EmbeddedBroker) -> None:
    end = End(link_to(broker.port, "hub", secret="wrong"))
    async with end.link.running(end.receive):
        assert not await end.link.wait_connected(0.5)
        assert "login refused" in (end.link.last_fault or "")


async def test_a_broker_that_is_not_there_is_told_and_nothing_can_be_published() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    end = End(link_to(port, "hub"))
    async with end.link.running(end.receive):
        assert not await end.link.wait_connected(0.3)
        assert "cannot be reached" in (end.link.last_fault or "")
        with pytest.raises(NotConnected):
            end.link.publish(TOPICS.commands(SITE), b"x")


@both_kinds
async def test_before_it_runs_and_after_that_nothing_can_be_published(broker: EmbeddedBroker, kind: str) -> None:
    link = hub_link(kind, broker)
    with pytest.raises(NotConnected):
        link.publish(TOPICS.commands(SITE), b"x")
    async with link.running(lambda message: None):
        assert await link.wait_connected(5)
        link.publish(TOPICS.commands(SITE), b"x")
    with pytest.raises(NotConnected):
        link.publish(TOPICS.commands(SITE), b"x")


@both_kinds
async def test_what_was_not_acknowledged_comes_again_in_order_and_is_not_retained(
    broker: EmbeddedBroker, connect: Connect, kind: str
) -> None:
    site = await connect(SITE)
    link = hub_link(kind, broker)
    first = End(link, keep=True)
    async with link.running(first.receive):
        assert await link.wait_connected(5)
        for payload in (b"one", b"two", b"three"):
            site.link.publish(TOPICS.events(SITE, "f1"), payload)
        assert await first.payloads(3) == [b"one", b"two", b"three"]
        first.received[1].acknowledge()
        await acknowledged_at(broker, 2)
    first.received[0].acknowledge()  # too late: the link has left
    second = await connect("hub", kind=kind)
    assert await second.payloads(2) == [b"one", b"three"]
    assert not any(message.retained for message in second.received)


@both_kinds
async def test_a_retained_message_is_told_from_a_live_one(connect: Connect, kind: str, broker: EmbeddedBroker) -> None:
    with socket.create_connection(("127.0.0.1", broker.port)) as site:
        connecting = packets.Connect(SITE, username=SITE, password=SECRET.encode())
        state = packets.Publish(TOPICS.state(SITE, "f1"), b"replayed", 1, retain=True, packet_id=1)
        site.sendall(packets.encode(connecting) + packets.encode(state))
        await retained_at(broker, 1)
        hub = await connect("hub", kind=kind)
        assert await hub.payloads(1) == [b"replayed"]
        site.sendall(packets.encode(packets.Publish(TOPICS.state(SITE, "f1"), b"live", 1, retain=True, packet_id=2)))
        assert await hub.payloads(2) == [b"replayed", b"live"]
    assert [message.retained for message in hub.received] == [True, False]


async def acknowledged_at(broker: EmbeddedBroker, in_flight: int) -> None:
    """Wait until the hub's session has so many messages in flight."""

    async def so_many() -> bool:
        return len(broker._exchange._subscribers["hub"].session._in_flight) == in_flight

    await until(so_many)


async def retained_at(broker: EmbeddedBroker, messages: int) -> None:
    async def so_many() -> bool:
        return broker.counters["retained"] == messages

    await until(so_many)


async def test_a_message_that_was_not_acknowledged_comes_again_after_a_lost_connection(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    hub = await connect("hub", keep=True)
    site = await connect(SITE)
    for payload in (b"stored", b"not stored"):
        site.link.publish(TOPICS.events(SITE, "f1"), payload)
    assert await hub.payloads(2) == [b"stored", b"not stored"]
    hub.received[0].acknowledge()
    await acknowledged_at(broker, 1)
    await broker.disconnect_user("hub")
    assert await hub.payloads(3) == [b"stored", b"not stored", b"not stored"]


@both_kinds
async def test_what_comes_while_the_hub_is_away_is_kept_for_it(
    broker: EmbeddedBroker, connect: Connect, kind: str
) -> None:
    first = End(hub_link(kind, broker))
    async with first.link.running(first.receive):
        assert await first.link.wait_connected(5)
    site = await connect(SITE)
    site.link.publish(TOPICS.events(SITE, "f1"), b"meanwhile")

    async def waits() -> bool:
        return broker.counters["messages_queued"] == 1

    await until(waits)
    second = await connect("hub", kind=kind)
    assert await second.payloads(1) == [b"meanwhile"]


async def test_when_the_broker_goes_it_is_not_connected_and_nothing_can_be_published() -> None:
    async with AsyncExitStack() as stack:
        broker = EmbeddedBroker(BrokerOptions(port=0), authenticate, TOPICS, lambda refusal: None)
        await broker.start()
        end = End(link_to(broker.port, "hub"))
        await stack.enter_async_context(end.link.running(end.receive))
        assert await end.link.wait_connected(5)
        await broker.shutdown()

        async def lost() -> bool:
            return not end.link.connected

        await until(lost)
        with pytest.raises(NotConnected):
            end.link.publish(TOPICS.commands(SITE), b"x")


@both_kinds
async def test_a_receiver_that_fails_once_goes_on_hearing(
    connect: Connect, broker: EmbeddedBroker, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    end = End(hub_link(kind, broker))

    def receive(message: Message) -> None:
        end.receive(message)
        if message.payload == b"0":
            raise LookupError

    site = await connect(SITE)
    with structlog.testing.capture_logs() as logged:
        async with end.link.running(receive):
            assert await end.link.wait_connected(5)
            for n in range(21):
                site.link.publish(TOPICS.events(SITE, "f1"), str(n).encode())
            assert await end.payloads(21) == [str(n).encode() for n in range(21)]
    assert "could not be handed over" in caplog.text + str(logged)


async def test_a_subscription_that_the_embedded_broker_refuses_is_told(broker: EmbeddedBroker) -> None:
    link = broker.link(Identity("site", SITE), SITE, ((TOPICS.commands(SITE), 1), (TOPICS.commands("pond8"), 1)))
    async with link.running(lambda message: None):
        assert not await link.wait_connected(0.5)
        assert not link.connected
        assert TOPICS.commands("pond8") in (link.last_fault or "")
        with pytest.raises(NotConnected):
            link.publish(HEARTBEAT, b"x")


async def test_the_embedded_link_begins_anew_when_its_session_overflows(
    broker: EmbeddedBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.link.LIMITS", Limits(in_flight=2, queued_messages=3))
    hub = await connect("hub", kind="embedded", keep=True)
    first_session = broker._exchange._subscribers["hub"]
    site = await connect(SITE)
    for n in range(6):
        site.link.publish(TOPICS.events(SITE, "f1"), str(n).encode())

    async def again() -> bool:
        all_came = broker.counters.get("messages_received") == 6
        return all_came and broker._exchange._subscribers.get("hub") not in (None, first_session)

    await until(again)
    hub.received.clear()
    site.link.publish(TOPICS.events(SITE, "f1"), b"after the gap")
    assert await hub.payloads(1) == [b"after the gap"]


async def test_what_the_embedded_link_may_not_publish_reaches_nobody_and_is_recorded() -> None:
    refused: list[Refusal] = []
    async with EmbeddedBroker(BrokerOptions(port=0), authenticate, TOPICS, refused.append) as broker:
        link = broker.link(Identity("hub", "hub"), "hub", ())
        async with link.running(lambda message: None):
            link.publish(HEARTBEAT, b"x")
    assert [refusal.topic for refusal in refused] == [HEARTBEAT]


# --- the link over the network, with a broker that is played ---------------------------------------------------------


class PlayedBroker:
    """Accepts one connection after the other; says what the test wants, and answers nothing of its own accord."""

    def __init__(self) -> None:
        self.heard: list[packets.Packet] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.connections += 1
        decoder = packets.Decoder()
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while data := await reader.read(65536):
                self.heard += decoder.feed(data)

    def say(self, *said: packets.Packet) -> None:
        self.say_bytes(b"".join(map(packets.encode, said)))

    def say_bytes(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def cut(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def of(self, kind: type[P]) -> list[P]:
        return [packet for packet in self.heard if isinstance(packet, kind)]

    async def hears(self, kind: type[P], count: int = 1) -> list[P]:
        async def enough() -> bool:
            return len(self.of(kind)) >= count

        await until(enough, within_s=10)
        return self.of(kind)

    async def let_in(self, times: int = 1) -> None:
        """Accept the connection that comes for the so-manieth time."""
        await self.hears(packets.Connect, times)
        self.say(packets.Connack())


@pytest.fixture
async def played() -> AsyncIterator[PlayedBroker]:
    async with PlayedBroker() as broker:
        yield broker


@asynccontextmanager
async def played_link(played: PlayedBroker, receive: Receive = lambda _: None) -> AsyncIterator[NetworkLink]:
    link = link_to(played.port, "hub")
    async with link.running(receive):
        await played.let_in()
        assert await link.wait_connected(5)
        yield link


async def test_what_the_broker_did_not_confirm_is_sent_again_in_order_as_a_duplicate(played: PlayedBroker) -> None:
    async with played_link(played) as link:
        for payload in (b"one", b"two", b"three"):
            link.publish("t", payload)
        sent = await played.hears(packets.Publish, 3)
        played.say(packets.Puback(sent[1].packet_id))
        played.cut()
        await played.let_in(2)
        again = (await played.hears(packets.Publish, 5))[3:]
    assert [(packet.payload, packet.dup, packet.packet_id) for packet in again] == [
        (b"one", True, sent[0].packet_id),
        (b"three", True, sent[2].packet_id),
    ]


async def test_a_packet_id_is_not_given_twice_while_its_message_is_not_confirmed(
    played: PlayedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.link.MAX_PACKET_ID", 4)
    async with played_link(played) as link:
        link.publish("t", b"stays")
        for n in range(2, 12):
            link.publish("t", b"confirmed")
            sent = await played.hears(packets.Publish, n)
            assert sent[-1].packet_id != sent[0].packet_id
            played.say(packets.Puback(sent[-1].packet_id))

            async def confirmed() -> bool:
                return len(link._unconfirmed) == 1

            await until(confirmed)


async def test_a_broker_that_confirms_nothing_is_as_good_as_away(
    played: PlayedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.link.MOST_UNCONFIRMED", 3)
    async with played_link(played) as link:
        for _ in range(3):
            link.publish("t", b"x")
        with pytest.raises(NotConnected):
            link.publish("t", b"x")


async def test_a_broker_that_falls_silent_is_given_up_and_connected_to_again(
    played: PlayedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.link.PING_EVERY_S", 0.05)
    async with played_link(played) as link:
        await played.hears(packets.Pingreq)
        await played.hears(packets.Connect, 2)
        assert not link.connected
        await played.let_in(2)
        assert await link.wait_connected(5)


async def test_a_broker_that_answers_pings_is_kept(played: PlayedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.link.PING_EVERY_S", 0.05)
    async with played_link(played):
        for n in range(1, 5):
            await played.hears(packets.Pingreq, n)
            played.say(packets.Pingresp())
        assert played.connections == 1


@pytest.mark.parametrize(
    "nonsense", [b"\xff\xff", packets.encode(packets.Publish("t", b"x", qos=2, packet_id=1))], ids=["bytes", "QoS 2"]
)
async def test_a_broker_that_breaks_the_protocol_is_left_and_connected_to_again(
    played: PlayedBroker, nonsense: bytes
) -> None:
    async with played_link(played) as link:
        played.say_bytes(nonsense)
        await played.let_in(2)
        assert await link.wait_connected(5)


async def test_a_message_of_an_earlier_connection_is_not_acknowledged_over_the_next(played: PlayedBroker) -> None:
    received: list[Message] = []
    async with played_link(played, received.append):
        played.say(packets.Publish("t", b"first", 1, packet_id=7))

        async def came() -> bool:
            return bool(received)

        await until(came)
        played.cut()
        await played.let_in(2)
        received[0].acknowledge()
        played.say(packets.Publish("t", b"second", 1, packet_id=8))

        async def both_came() -> bool:
            return len(received) == 2

        await until(both_came)
        received[1].acknowledge()
        assert await played.hears(packets.Puback) == [packets.Puback(8)]


async def test_while_too_much_waits_for_its_store_no_more_is_read(
    played: PlayedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.link.MOST_UNFINISHED", 4)
    monkeypatch.setattr("hub.link.PING_EVERY_S", 0.05)
    received: list[Message] = []
    async with played_link(played, received.append):
        played.say(*(packets.Publish("t", str(n).encode(), 1, packet_id=n) for n in range(1, 5)))

        async def four() -> bool:
            return len(received) == 4

        await until(four)
        played.say(packets.Publish("t", b"5", 1, packet_id=5))
        await played.hears(packets.Pingreq, len(played.of(packets.Pingreq)) + 3)
        assert len(received) == 4
        assert played.connections == 1  # that nothing is heard is no wonder, and no reason to leave
        for message in received[:2]:
            message.acknowledge()

        async def five() -> bool:
            return len(received) == 5

        await until(five)


async def test_a_link_that_ends_says_goodbye(played: PlayedBroker) -> None:
    async with played_link(played):
        pass
    await played.hears(packets.Disconnect)


async def test_a_broker_that_never_answers_the_login_is_told(played: PlayedBroker) -> None:
    address = BrokerAddress("127.0.0.1", played.port, tls=False, username="hub", password=SECRET)
    link = NetworkLink(address, "hub", (), connect_timeout_s=0.1)
    async with link.running(lambda message: None):
        await played.hears(packets.Connect, 2)
        assert link.last_fault == "it cannot be reached: no answer in time"


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://h", BrokerAddress("h", 1883, tls=False, username="hub", password="s")),
        ("mqtts://h", BrokerAddress("h", 8883, tls=True, username="hub", password="s")),
        ("mqtt://h:1884/", BrokerAddress("h", 1884, tls=False, username="hub", password="s")),
        ("mqtt://me:p%40ss@h", BrokerAddress("h", 1883, tls=False, username="me", password="p@ss")),
        ("mqtt://[::1]:1883", BrokerAddress("::1", 1883, tls=False, username="hub", password="s")),
    ],
)
def test_a_brokers_address_is_read(url: str, address: BrokerAddress) -> None:
    assert BrokerAddress.parse(url, "hub", "s") == address


@pytest.mark.parametrize(
    "url", ["", "h:1883", "http://h", "mqtt://", "mqtt://h/path", "mqtt://h:port", "mqtt://h:99999"]
)
def test_an_address_that_is_none_is_refused_with_what_is_expected(url: str) -> None:
    with pytest.raises(BadBrokerUrl, match="mqtt://host:1883"):
        BrokerAddress.parse(url, "hub", "s")
