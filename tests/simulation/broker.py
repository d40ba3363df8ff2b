"""The MQTT broker and the network around it: what the hub and the desktop may count on, and nothing more.

A connection keeps the order of what goes over it. It is cut at once for both ends, or falls silent: then nothing passes
any more, and each end notices for itself, sooner or later. A last will goes out when the broker notices, or when the
same client comes back before that. A stored session keeps what is not acknowledged, and hands it over again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from hub.protocol.topics import Topics
from tests.simulation.clock import VirtualLoop, exponential

NOTICED_WITHIN_S = 30.0
"""By then both ends of a silent connection have noticed (keep-alive and a half)."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way to a subscriber. `number` counts in a stored session; 0: QoS 0, or nobody keeps it."""

    topic: str
    payload: bytes
    retained: bool = False
    number: int = 0


@dataclass
class Network:
    """How the network is: the mean of a message's delay, and how often the broker says something twice."""

    random: Random
    delay_s: float
    longest_delay_s: float
    twice: float

    def delay(self) -> float:
        return 0.0005 + exponential(self.random, self.delay_s, self.longest_delay_s)


class Connection:
    """One client's connection, seen from both ends."""

    def __init__(
        self,
        loop: VirtualLoop,
        network: Network,
        client: str,
        receive: Callable[[Letter], None],
        lost: Callable[[], None],
        gone: Callable[["Connection"], None],
    ) -> None:
        self.client = client
        self.will: tuple[str, bytes] | None = None
        self.up_here = self.up_at_broker = True
        self.silent = False
        self._loop = loop
        self._network = network
        self._receive = receive
        self._lost = lost
        self._gone = gone
        self._last_s = {"up": 0.0, "down": 0.0}

    def to_broker(self, act: Callable[[], None]) -> None:
        self._carry("up", lambda: self.up_at_broker, act)

    def to_client(self, letter: Letter) -> None:
        self._carry("down", lambda: self.up_here, lambda: self._receive(letter))
        if letter.number and self._network.random.random() < self._network.twice:
            later_s = exponential(self._network.random, 2.0, 30.0)
            self._loop.after(later_s, lambda: self._carry("down", lambda: self.up_here, lambda: self._receive(letter)))

    def _carry(self, way: str, is_there: Callable[[], bool], act: Callable[[], None]) -> None:
        if self.silent or not (self.up_here and self.up_at_broker):
            return
        arrives_s = max(self._last_s[way], self._loop.now_s + self._network.delay())
        self._last_s[way] = arrives_s + 1e-6

        def arrive() -> None:
            if is_there() and not self.silent:
                act()

        self._loop.at(arrives_s, arrive)

    def cut(self, *, silently: bool) -> None:
        """The network breaks it."""
        random = self._network.random
        if not silently:
            self.drop_here()
            self.drop_at_broker()
            return
        self.silent = True
        self._loop.after(random.uniform(0, NOTICED_WITHIN_S), self.drop_here)
        self._loop.after(random.uniform(0, NOTICED_WITHIN_S), self.drop_at_broker)

    def abandon(self) -> None:
        """The client is dead or does not want it any more; the broker is told by the network, if that is up."""
        self.up_here = False
        self._loop.after(self._network.delay(), lambda: self.silent or self.drop_at_broker())

    def drop_here(self) -> None:
        if self.up_here:
            self.up_here = False
            self._lost()

    def drop_at_broker(self) -> None:
        if self.up_at_broker:
            self.up_at_broker = False
            self._gone(self)
            if not self.silent:
                self._loop.after(self._network.delay(), self.drop_here)


@dataclass
class Stored:
    """A client's session at the broker: its filters, and what it has not acknowledged."""

    wants: Callable[[str], int | None]
    unacknowledged: dict[int, Letter] = field(default_factory=dict)


class Broker:
    """`wants(topic)` says with which QoS a client has subscribed to it, or None."""

    def __init__(self, loop: VirtualLoop, network: Network, topics: Topics, will_late_s: float) -> None:
        self._loop = loop
        self._network = network
        self._topics = topics
        self._will_late_s = will_late_s
        self._numbers = count(1)
        self.connections: dict[str, Connection] = {}
        self.sessions: dict[str, Stored] = {}
        self._clean: dict[str, Callable[[str], int | None]] = {}
        self.retained: dict[str, bytes] = {}
        self.overheard: Callable[[str, bytes], None] = lambda _topic, _payload: None

    def connect(
        self,
        client: str,
        wants: Callable[[str], int | None],
        receive: Callable[[Letter], None],
        lost: Callable[[], None],
        granted: Callable[[Connection], None],
        *,
        stored: bool,
        will: tuple[str, bytes] | None = None,
    ) -> Connection:
        """Open a connection, log in and subscribe; `granted` is called when all that was answered."""
        connection = Connection(self._loop, self._network, client, receive, lost, self._gone)
        connection.up_at_broker = True

        def log_in() -> None:
            connection.will = will
            if (older := self.connections.get(client)) is not None:
                older.drop_at_broker()
            self.connections[client] = connection
            if stored:
                self.sessions.setdefault(client, Stored(wants))
            else:
                self._clean[client] = wants
            connection._carry("down", lambda: connection.up_here, lambda: granted(connection))
            if stored:
                for letter in list(self.sessions[client].unacknowledged.values()):
                    connection.to_client(letter)
            for topic, payload in list(self.retained.items()):
                if (qos := wants(topic)) is not None:
                    self._deliver(client, Letter(topic, payload, retained=True), qos)

        connection.to_broker(log_in)
        return connection

    def acknowledge(self, client: str, letter: Letter) -> None:
        session = self.sessions.get(client)
        if session is not None:
            session.unacknowledged.pop(letter.number, None)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        if retain:
            self.retained[topic] = payload
        self.overheard(topic, payload)
        for client, session in list(self.sessions.items()):
            if (qos := session.wants(topic)) is not None:
                self._deliver(client, Letter(topic, payload), qos)
        for client, wants in list(self._clean.items()):
            if client in self.connections and wants(topic) is not None:
                self._deliver(client, Letter(topic, payload), 1)

    def _deliver(self, client: str, letter: Letter, qos: int) -> None:
        session = self.sessions.get(client)
        if qos:
            letter = Letter(letter.topic, letter.payload, letter.retained, next(self._numbers))
            if session is not None:
                session.unacknowledged[letter.number] = letter
        connection = self.connections.get(client)
        if connection is not None:
            connection.to_client(letter)

    def restart(self, *, empty: bool) -> None:
        """Killed, and there again at once: no will goes out; `empty`: it has kept nothing."""
        for connection in list(self.connections.values()):
            connection.will = None
            connection.drop_at_broker()
        if empty:
            self.sessions.clear()
            self.retained.clear()

    def _gone(self, connection: Connection) -> None:
        if self.connections.get(connection.client) is connection:
            del self.connections[connection.client]
            self._clean.pop(connection.client, None)
        if (will := connection.will) is not None:
            connection.will = None
            late_s = self._network.random.uniform(0, self._will_late_s)
            self._loop.after(late_s, lambda: self.publish(*will, retain=True))
