"""The broker on TCP against a small model of the standard: any clients, doing anything, in any order.

Hypothesis makes up the steps and cuts a failure down to the fewest. After each step every client sends a PINGREQ:
what the broker sent before the PINGRESP is all that it had to say, and the model judges it.
A long run: `pytest --hypothesis-profile=long tests/broker/test_model.py`.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import uvloop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from broker.open import OPEN_OPTIONS, EverybodyMayDoEverything, let_everybody_in
from broker.server import EmbeddedBroker
from hub.protocol.packets import (
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    Unsubscribe,
    Will,
    encode,
)
from tests.broker.conftest import WAIT_S, Peer
from tests.broker.model import Server, Violation

pytestmark = pytest.mark.timeout(0)  # a long run, and the search for a short failure, take their time

WINDOW: Final = 3
MAX_PACKET_ID: Final = 7
"""Instead of 65,535: ids go round and meet those in flight."""
TURN_BYTES: Final = 40
"""Instead of 256 KiB: some messages are too many for one turn."""
CLIENT_IDS: Final = ("a", "b", "c")
TOPICS: Final = ("t", "t/u", "t/u/v", "/t", "$x/t")
FILTERS: Final = ("t", "t/u", "t/#", "t/+", "t/+/#", "+", "+/u", "+/+", "/+", "+/t", "#", "$x/#", "$x/t")
MISTAKES: Final = {
    "a packet type that there is not": b"\xf0\0",
    "QoS 3": b"\x36\5\0\1t\0\1",
    "a topic with a wildcard": b"\x30\3\0\1#",
    "a packet only a server sends": encode(Pingresp()),
    "a second CONNECT": encode(Connect("a")),
}

QOS = st.sampled_from([0, 1, 1, 2, 2])
PAYLOADS = st.sampled_from([b"x", b"x", b"x", b""])  # x: a payload that no other message has
MESSAGES = st.builds(Publish, st.sampled_from(TOPICS), PAYLOADS, QOS, st.booleans(), packet_id=st.integers(1, 2))
WILLS = st.builds(Will, st.just("a topic of the client's own"), PAYLOADS, QOS, st.booleans())
SUBSCRIBES = st.builds(
    Subscribe,
    st.integers(1, 2),
    st.lists(st.tuples(st.sampled_from(FILTERS), QOS), min_size=1, max_size=3).map(tuple),
)
UNSUBSCRIBES = st.builds(
    Unsubscribe, st.integers(1, 2), st.lists(st.sampled_from(FILTERS), min_size=1, max_size=3).map(tuple)
)
BURSTS = st.lists(MESSAGES | MESSAGES | SUBSCRIBES | UNSUBSCRIBES | st.builds(Pubrel, st.integers(1, 2)), max_size=7)
CONNECTED = st.runner().flatmap(lambda clients: st.sampled_from(sorted(clients.peers)))
ASKED = st.runner().flatmap(lambda clients: st.sampled_from(clients.asked()))  # to acknowledge something

Step = Callable[..., Awaitable[None]]


def step(**arguments: st.SearchStrategy[Any]) -> Callable[[Step], Any]:
    """A rule that is a coroutine."""

    def make_rule(coroutine: Step) -> Any:
        @functools.wraps(coroutine)
        def run(clients: "Clients", **values: Any) -> None:
            clients.runner.run(coroutine(clients, **values))

        return rule(**arguments)(run)

    return make_rule


def step_of_one_connected(**arguments: st.SearchStrategy[Any]) -> Callable[[Step], Any]:
    """A rule for one of the clients that are connected."""
    is_possible = precondition(lambda clients: clients.peers)
    return lambda coroutine: is_possible(step(client_id=CONNECTED, **arguments)(coroutine))


def step_of_one_asked(**arguments: st.SearchStrategy[Any]) -> Callable[[Step], Any]:
    """A rule for one of the clients that have something to acknowledge."""
    is_possible = precondition(lambda clients: clients.asked())
    return lambda coroutine: is_possible(step(client_id=ASKED, **arguments)(coroutine))


class Clients(RuleBasedStateMachine):
    """All clients and the broker, and the model beside it."""

    def __init__(self, store: Path | None = None) -> None:
        super().__init__()
        self.store = store
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.peers: dict[str, Peer] = {}
        self.opened: list[Peer] = []
        self.model = Server(WINDOW)
        self.last_payload = 0
        self.runner.run(self.start())

    async def start(self) -> None:
        options = replace(OPEN_OPTIONS, port=0, max_in_flight=WINDOW, store=self.store, sys_interval_s=0)
        self.broker = EmbeddedBroker(options, let_everybody_in, EverybodyMayDoEverything(), lambda _: None)
        await self.broker.__aenter__()

    async def stop(self) -> None:
        await self.broker.__aexit__(None, None, None)

    def teardown(self) -> None:
        for peer in self.opened:
            peer.drop()
        with self.runner:
            self.runner.run(self.stop())

    # --- what clients do ------------------------------------------------------------------------------------

    @step(client_id=st.sampled_from(CLIENT_IDS), clean=st.booleans(), will=st.none() | WILLS, burst=BURSTS)
    async def connect(self, client_id: str, clean: bool, will: Will | None, burst: list[Packet]) -> None:
        """With everything else in the same write, and over an old connection if there is one."""
        old = self.peers.pop(client_id, None)
        peer = self.peers[client_id] = await Peer(self.broker.port).open()
        self.opened.append(peer)
        if will is not None:  # no two clients' wills on one topic: after a restart they come in any order
            will = replace(will, topic=TOPICS[CLIENT_IDS.index(client_id)], payload=self.payload(will))
        connect = Connect(client_id, clean, will=will)
        burst = [self.stamped(packet) for packet in burst]
        peer.send(connect, *burst)
        self.model.connect(connect)
        for packet in burst:
            self.model.receive(client_id, packet)
        await self.settle(client_id)
        assert old is None or await old.closed() == []  # [MQTT-3.1.4-2]

    @step_of_one_connected(burst=BURSTS)
    async def send_something(self, client_id: str, burst: list[Packet]) -> None:
        await self.send(client_id, burst)

    @step_of_one_asked(at=st.integers(0, WINDOW - 1), burst=BURSTS)
    async def acknowledge(self, client_id: str, at: int, burst: list[Packet]) -> None:
        """One message, which need not be the oldest, by one step of its protocol."""
        in_flight = list(self.model.sessions[client_id].in_flight.items())
        await self.send(client_id, [acknowledgement(*in_flight[at % len(in_flight)]), *burst])

    @step_of_one_asked()
    async def acknowledge_everything(self, client_id: str) -> None:
        while in_flight := self.model.sessions[client_id].in_flight:
            await self.send(client_id, [acknowledgement(*sent) for sent in in_flight.items()])

    @step_of_one_asked(kind=st.sampled_from([Puback, Pubrec, Pubcomp]), at=st.integers(0, WINDOW))
    async def acknowledge_anyhow(self, client_id: str, kind: Callable[[int], Packet], at: int) -> None:
        """In turn or out of turn; unknown messages too."""
        packet_ids = [*self.model.sessions[client_id].in_flight, MAX_PACKET_ID + 1]
        packet = kind(packet_ids[at % len(packet_ids)])
        try:
            self.model.receive(client_id, packet)
        except Violation:
            await self.end_with(client_id, [], encode(packet))
            self.model.lose(client_id)
            await self.settle()
        else:
            self.peers[client_id].send(packet)
            await self.settle(client_id)

    # --- how connections end --------------------------------------------------------------------------------

    @step_of_one_connected(burst=BURSTS)
    async def disconnect(self, client_id: str, burst: list[Packet]) -> None:
        await self.end_with(client_id, burst, encode(Disconnect()))
        self.model.receive(client_id, Disconnect())
        await self.settle()

    @step_of_one_connected(burst=BURSTS, mistake=st.sampled_from(sorted(MISTAKES)))
    async def make_a_mistake(self, client_id: str, burst: list[Packet], mistake: str) -> None:
        await self.end_with(client_id, burst, MISTAKES[mistake])
        self.model.lose(client_id)  # [MQTT-4.8.0-1]
        await self.settle()

    @step_of_one_connected(reset=st.booleans())
    async def vanish(self, client_id: str, reset: bool) -> None:
        """Without a DISCONNECT; the network says so (RST) or says goodbye for it (FIN)."""
        peer = self.peers.pop(client_id)
        if reset:
            peer.drop()
        else:
            peer.writer.close()
        self.model.lose(client_id)
        async with asyncio.timeout(WAIT_S):
            while self.broker.counters["clients_connected"] > len(self.peers):
                await asyncio.sleep(0)
        await self.settle()

    # --- what the server does itself ------------------------------------------------------------------------

    @rule(topic=st.sampled_from(["$SYS/t", "$x/t"]), qos=QOS, retain=st.booleans())
    def publish_below_dollar(self, topic: str, qos: int, retain: bool) -> None:
        message = Publish(topic, self.payload(Publish(topic, b"x")), qos, retain)
        self.runner.run(self.publish_from_inside(message))

    async def publish_from_inside(self, message: Publish) -> None:
        self.broker._exchange.publish(message, "")
        self.model.publish(message)
        await self.settle()

    @invariant()
    def the_broker_holds_no_more_and_no_less_than_the_model(self) -> None:
        counters, model = self.broker.counters, self.model
        assert counters["clients_connected"] == len(model.links)
        assert counters["sessions"] == len(model.sessions)
        assert counters["retained"] == len(model.retained)
        assert counters["messages_queued"] == sum(len(session.owed) for session in model.sessions.values())
        assert "ended_failed" not in counters

    # --- the parts of a step --------------------------------------------------------------------------------

    def asked(self) -> list[str]:
        """Who is connected and has something to acknowledge."""
        return [client_id for client_id in sorted(self.peers) if self.model.sessions[client_id].in_flight]

    def payload(self, message: Publish | Will) -> bytes:
        self.last_payload += 1
        return b"%d" % self.last_payload if message.payload else b""

    def stamped(self, packet: Packet) -> Packet:
        if isinstance(packet, Publish):
            return replace(packet, payload=self.payload(packet), packet_id=packet.packet_id if packet.qos else 0)
        return packet

    async def send(self, client_id: str, packets: Iterable[Packet]) -> None:
        """In one write."""
        packets = [self.stamped(packet) for packet in packets]
        self.peers[client_id].send(*packets)
        for packet in packets:
            self.model.receive(client_id, packet)
        await self.settle(client_id)

    async def end_with(self, client_id: str, burst: list[Packet], end: bytes) -> None:
        """All in one write, with something that makes the broker close and, behind it, what it must not look at."""
        peer = self.peers.pop(client_id)
        packets = [self.stamped(packet) for packet in burst]
        peer.writer.write(b"".join(map(encode, packets)) + end + encode(Pingreq()))
        for packet in packets:
            self.model.receive(client_id, packet)
        with suppress(EOFError):
            while True:
                self.model.sent(client_id, await peer.receive())
        assert not self.model.answers_due(client_id)

    async def settle(self, actor: str | None = None) -> None:
        """Let the model judge all that the broker has to say: first to the client that acted, then to the others."""
        for client_id in sorted(self.peers, key=lambda name: name != actor):
            while await self.hear(client_id) and self.model.due(client_id):
                pass  # what was too much for one turn of the broker's comes in the next
            due = self.model.due(client_id)
            assert not due, f"the broker does not send {client_id} {due}"

    async def hear(self, client_id: str) -> int:
        """What the broker has sent a client so far; how many packets there were."""
        peer, count = self.peers[client_id], 0
        peer.send(Pingreq())
        self.model.receive(client_id, Pingreq())
        while (packet := await peer.receive()) != Pingresp():
            self.model.sent(client_id, packet)
            count += 1
        self.model.sent(client_id, packet)
        return count


def acknowledgement(packet_id: int, sent: Publish | Pubrel) -> Packet:
    """The next step of the message's protocol."""
    if isinstance(sent, Pubrel):
        return Pubcomp(packet_id)
    return Puback(packet_id) if sent.qos == 1 else Pubrec(packet_id)


class ClientsOfABrokerThatKeeps(Clients):
    """The same with a store, and a broker that ends and comes back."""

    def __init__(self) -> None:
        self.directory = TemporaryDirectory(prefix="feeder-hub-")
        super().__init__(Path(self.directory.name, "broker.db"))

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()

    @step(crash=st.booleans())
    async def restart(self, crash: bool) -> None:
        """In order, or with what is on the disk at this moment."""
        if crash:
            await self.broker._store.flush()
            on_disk = {path.name: path.read_bytes() for path in self.store.parent.iterdir()}
        await self.stop()
        for peer in self.peers.values():
            assert await peer.closed() == []
        self.peers.clear()
        if crash:
            for name, content in on_disk.items():
                self.store.with_name(name).write_bytes(content)
        self.model.restart()
        await self.start()


BOUNDS: Final = settings(stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr("broker.session.MAX_PACKET_ID", MAX_PACKET_ID)
    monkeypatch.setattr("broker.connection.TURN_BYTES", TURN_BYTES)
    monkeypatch.setattr("broker.store.GATHERING_S", 0)


def test_the_broker_sends_what_the_standard_asks_for_and_nothing_else():
    run_state_machine_as_test(Clients, settings=BOUNDS)


def test_a_broker_that_comes_back_goes_on_where_it_was():
    run_state_machine_as_test(ClientsOfABrokerThatKeeps, settings=BOUNDS)
