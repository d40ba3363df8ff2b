"""What the broker keeps of one client while it is away and while it is there: the MQTT session. No I/O.

Subscriptions, messages sent and not yet acknowledged, messages that wait, and the ids of QoS 2 messages
received and not yet released. Packets go in, the packets to send come out; whoever holds the connection sends
them in that order. What a stored session changes goes into the journal as well.
"""

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

from broker.journal import Journal, MessageRow
from hub.protocol.packets import MAX_PACKET_ID, MalformedPacket, Publish, Pubrel


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one session may hold.

    in_flight: QoS 1 and 2 messages sent and not yet acknowledged.
    queued_messages, queued_bytes: those that wait for a place in flight or for the client.
    unreleased: QoS 2 messages received whose PUBREL has not come.
    subscriptions: topic filters.
    """

    in_flight: int = 20
    queued_messages: int = 1_000
    queued_bytes: int = 4 * 1024 * 1024
    unreleased: int = 1_000
    subscriptions: int = 100


NO_LIMITS: Final = Limits(queued_messages=sys.maxsize, queued_bytes=sys.maxsize)


class TooManyUnreleased(Exception):
    """A client sends QoS 2 messages and never releases them."""


@dataclass(slots=True)
class _Kept:
    """A message that waits or is in flight. `number`: its place in the journal, 0 if it is in none."""

    number: int
    message: Publish


class _Released(NamedTuple):
    """A QoS 2 message in flight that has arrived; its PUBCOMP is awaited."""

    number: int


class Session:
    """One client's session state, as section 3.1.2.4 lists it for the server."""

    __slots__ = (
        "_client_id",
        "_in_flight",
        "_journal",
        "_last_id",
        "_queue",
        "_queued_bytes",
        "_unreleased",
        "_waiting_qos_0",
        "limits",
        "subscriptions",
    )

    def __init__(self, client_id: str, limits: Limits, journal: Journal | None) -> None:
        """`journal`: None for a session that need not outlive its broker."""
        self.subscriptions: dict[str, int] = {}
        """Topic filters, and the QoS granted."""
        self._client_id = client_id
        self.limits = limits
        self._journal = journal
        self._last_id = 0
        self._in_flight: dict[int, _Kept | _Released] = {}  # in the order sent, released ones as their PUBRECs came
        self._queue: deque[_Kept] | None = None  # made when needed: an empty deque takes 600 bytes
        self._waiting_qos_0: deque[Publish] | None = None
        self._queued_bytes = 0
        self._unreleased: set[int] | None = None

    @classmethod
    def restored(
        cls,
        client_id: str,
        limits: Limits,
        journal: Journal,
        subscriptions: dict[str, int],
        messages: list[tuple[int, MessageRow]],
        unreleased: set[int],
    ) -> Self:
        """The session as the journal had it; `messages` by their numbers, which is the order they came in."""
        session = cls(client_id, limits, journal)
        session.subscriptions.update(subscriptions)
        session._unreleased = unreleased or None
        for number, row in messages:
            message = Publish(row.topic, row.payload, row.qos, row.retain, packet_id=row.packet_id)
            if row.released:
                session._in_flight[row.packet_id] = _Released(number)
            elif row.packet_id:
                session._in_flight[row.packet_id] = _Kept(number, message)
            else:
                session._put_in_queue(_Kept(number, message))
        return session

    @property
    def stored(self) -> bool:
        """Whether what changes is kept on disk."""
        return self._journal is not None

    def end(self) -> None:
        """Take all of it out of the journal: nobody will come for it."""
        journal = self._journal
        if journal is None:
            return
        for topic_filter in self.subscriptions:
            journal.unsubscribe(self._client_id, topic_filter)
        for kept in (*self._in_flight.values(), *(self._queue or ())):
            journal.remove_message(kept.number)
        for packet_id in self._unreleased or ():
            journal.release(self._client_id, packet_id)
        journal.close_session(self._client_id)

    def subscribe(self, topic_filter: str, qos: int) -> None:
        self.subscriptions[topic_filter] = qos
        if self._journal is not None:
            self._journal.subscribe(self._client_id, topic_filter, qos)

    def unsubscribe(self, topic_filter: str) -> bool:
        """Whether there was such a subscription; what is in flight or waits stays there [MQTT-3.10.4-3]."""
        if self.subscriptions.pop(topic_filter, None) is None:
            return False
        if self._journal is not None:
            self._journal.unsubscribe(self._client_id, topic_filter)
        return True

    # --- to the client --------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._queue or ()) + len(self._waiting_qos_0 or ())

    @property
    def waiting_bytes(self) -> int:
        """Their payloads."""
        return self._queued_bytes

    @property
    def full(self) -> bool:
        """No message may join those that wait."""
        return self.waiting >= self.limits.queued_messages or self._queued_bytes >= self.limits.queued_bytes

    def make_room(self) -> list[Publish]:
        """Drop the oldest messages of QoS 0 that wait until it is not full; returns them."""
        dropped = []
        while self._waiting_qos_0 and self.full:
            message = self._waiting_qos_0.popleft()
            self._queued_bytes -= len(message.payload)
            dropped.append(message)
        return dropped

    def messages(self) -> Iterator[Publish]:
        """All that wait or are in flight."""
        yield from self._waiting_qos_0 or ()
        for kept in (*self._in_flight.values(), *(self._queue or ())):
            if isinstance(kept, _Kept):
                yield kept.message

    def enqueue(self, message: Publish) -> None:
        """Take a message that cannot be sent now; `ready` gives it out."""
        if message.qos:
            number = 0 if self._journal is None else self._journal.add_message(self._client_id, message)
            self._put_in_queue(_Kept(number, message))
            return
        if self._waiting_qos_0 is None:
            self._waiting_qos_0 = deque()
        self._waiting_qos_0.append(message)
        self._queued_bytes += len(message.payload)

    def _put_in_queue(self, kept: _Kept) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(kept)
        self._queued_bytes += len(kept.message.payload)

    def send_now(self, topic: str, payload: bytes, qos: int, retain: bool) -> Publish | None:
        """A QoS 1 or 2 message with its packet id, in flight from now on; None if it must wait instead."""
        if self._queue or len(self._in_flight) >= self.limits.in_flight:  # behind the earlier ones [MQTT-4.6.0-6]
            return None
        packet_id = self._unused_id()
        message = Publish(topic, payload, qos, retain, packet_id=packet_id)  # no DUP [MQTT-3.3.1-3]
        number = 0 if self._journal is None else self._journal.add_message(self._client_id, message)
        self._in_flight[packet_id] = _Kept(number, message)  # unacknowledged [MQTT-4.3.2-1] [MQTT-4.3.3-1]
        return message

    def ready(self) -> Iterator[Publish]:
        """The waiting messages that may be sent now, one by one, for as long as the caller goes on."""
        while self._waiting_qos_0:
            message = self._waiting_qos_0.popleft()
            self._queued_bytes -= len(message.payload)
            yield message
        while self._queue and len(self._in_flight) < self.limits.in_flight:
            kept = self._queue.popleft()
            waiting = kept.message
            self._queued_bytes -= len(waiting.payload)
            packet_id = self._unused_id()
            kept.message = message = Publish(
                waiting.topic, waiting.payload, waiting.qos, waiting.retain, packet_id=packet_id
            )
            self._in_flight[packet_id] = kept  # unacknowledged [MQTT-4.3.2-1] [MQTT-4.3.3-1]
            if self._journal is not None:
                self._journal.set_message(kept.number, self._client_id, message)
            yield message

    def _unused_id(self) -> int:
        """The next id that no message in flight has [MQTT-2.3.1-2, -4]."""
        packet_id = self._last_id % MAX_PACKET_ID + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % MAX_PACKET_ID + 1
        self._last_id = packet_id
        return packet_id

    def resend(self) -> Iterator[Publish | Pubrel]:
        """What was in flight when the connection ended, again: in order, same ids, DUP set [MQTT-4.4.0-1]."""
        for packet_id, kept in self._in_flight.items():  # in order [MQTT-4.6.0-1, -4], with DUP [MQTT-3.3.1-1]
            yield Pubrel(packet_id) if isinstance(kept, _Released) else replace(kept.message, dup=True)

    def puback(self, packet_id: int) -> None:
        """A QoS 1 message is delivered. Unknown ids are left alone: they may be from before a clean start."""
        self._expect(packet_id, 1, "PUBACK")
        self._delivered(packet_id)

    def pubrec(self, packet_id: int) -> Pubrel:
        """A QoS 2 message has arrived; it is not sent again, its release is [MQTT-4.3.3-1]."""
        self._expect(packet_id, 2, "PUBREC")
        kept = self._in_flight.get(packet_id)
        if isinstance(kept, _Kept):
            # Releases go in the order of the PUBRECs, also when they are sent again [MQTT-4.6.0-4].
            del self._in_flight[packet_id]
            number = kept.number
            if self._journal is not None:
                number = self._journal.release_message(number, self._client_id, packet_id)
            self._in_flight[packet_id] = _Released(number)
        return Pubrel(packet_id)  # [MQTT-2.3.1-6]

    def pubcomp(self, packet_id: int) -> None:
        """A QoS 2 message is delivered."""
        if isinstance(self._in_flight.get(packet_id), _Kept):
            raise MalformedPacket("MQTT-4.8.0-1", f"PUBCOMP for message {packet_id} that was not released")
        self._delivered(packet_id)

    def _delivered(self, packet_id: int) -> None:
        kept = self._in_flight.pop(packet_id, None)
        if kept is not None and self._journal is not None:
            self._journal.remove_message(kept.number)

    def _expect(self, packet_id: int, qos: int, name: str) -> None:
        kept = self._in_flight.get(packet_id)
        actual = 2 if isinstance(kept, _Released) else qos if kept is None else kept.message.qos
        if actual != qos:
            raise MalformedPacket("MQTT-4.8.0-1", f"{name} for message {packet_id} of QoS {actual}")

    # --- from the client ------------------------------------------------------------------------------------

    def receive(self, packet_id: int) -> bool:
        """Whether a QoS 2 message is new, so that it goes on; the same id again before its release is not.

        Raises TooManyUnreleased.
        """
        if self._unreleased is None:
            self._unreleased = set()
        if packet_id in self._unreleased:
            return False
        if len(self._unreleased) >= self.limits.unreleased:
            raise TooManyUnreleased
        self._unreleased.add(packet_id)
        if self._journal is not None:
            self._journal.receive(self._client_id, packet_id)
        return True

    def release(self, packet_id: int) -> None:
        """A PUBREL came: the id may name a new message [MQTT-4.3.3-2]."""
        if self._unreleased is not None and packet_id in self._unreleased:
            self._unreleased.discard(packet_id)
            if self._journal is not None:
                self._journal.release(self._client_id, packet_id)
