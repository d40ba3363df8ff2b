"""What the broker keeps of one client while it is away and while it is there: the MQTT session. No I/O.

Subscriptions, messages sent and not yet acknowledged, messages that wait, and the ids of QoS 2 messages
received and not yet released. Packets go in, the packets to send come out; whoever holds the connection sends
them in that order.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hub.protocol.packets import MAX_PACKET_ID, MalformedPacket, Publish, Pubrel


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one session may hold.

    in_flight: QoS 1 and 2 messages sent and not yet acknowledged.
    queued_messages, queued_bytes: those that wait for a place in flight or for the client.
    """

    in_flight: int = 20
    queued_messages: int = 10_000
    queued_bytes: int = 16 * 1024 * 1024


class Session:
    """One client's session state, as section 3.1.2.4 lists it for the server."""

    __slots__ = (
        "_in_flight",
        "_last_id",
        "_limits",
        "_queue",
        "_queued_bytes",
        "_receiving",
        "subscriptions",
    )

    def __init__(self, limits: Limits) -> None:
        self.subscriptions: dict[str, int] = {}
        """Topic filters, and the QoS granted."""
        self._limits = limits
        self._last_id = 0
        self._in_flight: dict[int, Publish | None] = {}  # in the order sent; None: released, PUBCOMP awaited
        self._queue: deque[Publish] = deque()
        self._queued_bytes = 0
        self._receiving: set[int] = set()

    # --- to the client --------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """No message may join those that wait."""
        return len(self._queue) >= self._limits.queued_messages or self._queued_bytes >= self._limits.queued_bytes

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def enqueue(self, message: Publish) -> None:
        """Take a QoS 1 or 2 message for the client; `ready` gives it out when there is a place in flight."""
        self._queue.append(message)
        self._queued_bytes += len(message.payload)

    def ready(self) -> Iterator[Publish]:
        """The waiting messages that may be sent now, with their packet ids."""
        while self._queue and len(self._in_flight) < self._limits.in_flight:
            message = self._queue.popleft()
            self._queued_bytes -= len(message.payload)
            packet_id = self._unused_id()
            publish = Publish(message.topic, message.payload, message.qos, message.retain, packet_id=packet_id)
            self._in_flight[packet_id] = publish
            yield publish

    def _unused_id(self) -> int:
        """The next id that no message in flight has [MQTT-2.3.1-2, -4]."""
        packet_id = self._last_id % MAX_PACKET_ID + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._last_id = packet_id
        return packet_id

    def resend(self) -> Iterator[Publish | Pubrel]:
        """What was in flight when the connection ended, again: in order, same ids, DUP set [MQTT-4.4.0-1]."""
        for packet_id, message in self._in_flight.items():
            yield Pubrel(packet_id) if message is None else replace(message, dup=True)

    def puback(self, packet_id: int) -> None:
        """A QoS 1 message is delivered. Unknown ids are left alone: they may be from before a clean start."""
        self._expect(packet_id, 1, "PUBACK")
        self._in_flight.pop(packet_id, None)

    def pubrec(self, packet_id: int) -> Pubrel:
        """A QoS 2 message has arrived; it is not sent again, its release is [MQTT-4.3.3-1]."""
        self._expect(packet_id, 2, "PUBREC")
        if packet_id in self._in_flight:
            self._in_flight[packet_id] = None
        return Pubrel(packet_id)

    def pubcomp(self, packet_id: int) -> None:
        """A QoS 2 message is delivered."""
        if self._in_flight.get(packet_id) is not None:
            raise MalformedPacket("MQTT-4.8.0-1", f"PUBCOMP for message {packet_id} that was not released")
        self._in_flight.pop(packet_id, None)

    def _expect(self, packet_id: int, qos: int, name: str) -> None:
        message = self._in_flight.get(packet_id)
        if message is not None and message.qos != qos:
            raise MalformedPacket("MQTT-4.8.0-1", f"{name} for message {packet_id} of QoS {message.qos}")

    # --- from the client ------------------------------------------------------------------------------------

    def receive(self, packet_id: int) -> bool:
        """Whether a QoS 2 message is new, so that it goes on; the same id again before its release is not."""
        if packet_id in self._receiving:
            return False
        self._receiving.add(packet_id)
        return True

    def release(self, packet_id: int) -> None:
        """A PUBREL came: the id may name a new message [MQTT-4.3.3-2]."""
        self._receiving.discard(packet_id)
