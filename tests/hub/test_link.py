"""The link to a broker, against a real one: connected when all is granted, redelivery, and clear faults."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import structlog

from broker.guard import Credentials
from broker.server import BrokerOptions, EmbeddedBroker
from hub.link import BadBrokerUrl, BrokerAddress, PahoLink
from hub.protocol.link import Message, NotConnected
from hub.protocol.topics import Identity
from tests.hub.conftest import SITE, TOPICS, until

SECRET = "right"
HEARTBEAT = TOPICS.heartbeat(SITE)


async def authenticate(shown: Credentials) -> Identity | None:
    user = shown.username or ""
    return Identity("hub" if user == "hub" else "site", user) if shown.password == SECRET.encode() else None


class End:
    """One end of a link, with what it received. `keep`: messages are not acknowledged."""

    def __init__(self, link: PahoLink, *, keep: bool = False) -> None:
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


def link_to(port: int, user: str, *filters: str, secret: str = SECRET, client_id: str | None = None) -> PahoLink:
    address = BrokerAddress("127.0.0.1", port, tls=False, username=user, password=secret)
    return PahoLink(address, client_id or user, tuple((wanted, 1) for wanted in filters), stored_session=user == "hub")


@pytest.fixture
async def connect(broker: EmbeddedBroker) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def connect(user: str, *filters: str, keep: bool = False) -> End:
            end = End(link_to(broker.port, user, *filters), keep=keep)
            await stack.enter_async_context(end.link.running(end.receive))
            assert await end.link.wait_connected(5)
            return end

        yield connect


async def test_what_one_end_publishes_the_other_receives_in_order(connect: Connect) -> None:
    hub = await connect("hub", *HUB_FILTERS)
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


async def test_before_it_runs_nothing_can_be_published(broker: EmbeddedBroker) -> None:
    with pytest.raises(NotConnected):
        link_to(broker.port, "hub").publish(TOPICS.commands(SITE), b"x")


async def test_a_message_that_was_not_acknowledged_comes_again_after_a_lost_connection(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    hub = await connect("hub", *HUB_FILTERS, keep=True)
    site = await connect(SITE)
    for payload in (b"stored", b"not stored"):
        site.link.publish(TOPICS.events(SITE, "f1"), payload)
    assert await hub.payloads(2) == [b"stored", b"not stored"]
    hub.received[0].acknowledge()
    await asyncio.sleep(0.1)
    await broker.disconnect_user("hub")
    assert await hub.payloads(3) == [b"stored", b"not stored", b"not stored"]


async def test_what_comes_while_the_hub_is_away_is_kept_for_it(broker: EmbeddedBroker, connect: Connect) -> None:
    first = End(link_to(broker.port, "hub", *HUB_FILTERS))
    async with first.link.running(first.receive):
        assert await first.link.wait_connected(5)
    site = await connect(SITE)
    site.link.publish(TOPICS.events(SITE, "f1"), b"meanwhile")
    await asyncio.sleep(0.1)
    second = await connect("hub", *HUB_FILTERS)
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


async def test_a_receiver_that_fails_once_goes_on_hearing(connect: Connect, broker: EmbeddedBroker) -> None:
    end = End(link_to(broker.port, "hub", *HUB_FILTERS))

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
    assert "a message could not be handed over" in [entry["event"] for entry in logged]


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
