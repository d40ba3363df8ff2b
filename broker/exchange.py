"""Where messages meet subscribers: sessions, subscriptions, retained messages and take-over, in one place.

Everything here runs to its end without awaiting, so nothing can happen in between: a message is either for
the session as it was before a change, or as it is after.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from broker.guard import IDENTIFIER_REJECTED, SERVER_UNAVAILABLE, Client, Guard, NotAdmitted, Refusal
from broker.journal import Journal, RetainedRow, StoredSession, WillRow
from broker.pace import Paces
from broker.router import Retained, Subscriptions
from broker.session import NO_LIMITS, Limits, Session
from broker.sys_topics import SYS
from hub.protocol.packets import FAILURE, Packet, Publish, Suback, Subscribe, Unsuback, Unsubscribe, Will


class Outlet(Protocol):
    """The way to a client that is there."""

    @property
    def paused(self) -> bool:
        """The client does not keep up: what can wait is kept back until `Exchange.send_ready` is called."""
        ...

    def send(self, packet: Packet, after: int = 0) -> None:
        """Send it, in order with the others, once the journal's batch `after` is on disk."""
        ...

    def end(self, reason: str) -> None:
        """Close it abnormally, at once: `Exchange.leave` and the will are done when it returns."""
        ...

    def end_soon(self, reason: str) -> None:
        """The same, but not from within the routing of a message."""
        ...


@dataclass(eq=False, slots=True)
class Subscriber:
    """A client as the exchange knows it.

    temporary: its session ends with its connection.
    outlet: None while a stored session's client is away.
    paces: for the hub: where what it has of each user is counted, until it says that it is done with a message.
    """

    client: Client
    session: Session
    temporary: bool
    outlet: Outlet | None
    paces: Paces | None = None


@dataclass(frozen=True, slots=True)
class RetainedLimits:
    """How many retained messages one user may have, and of how many payload bytes in all."""

    messages: int = 1_000
    payload_bytes: int = 8 * 1024 * 1024


class Exchange:
    """The heart of the broker; connections and whatever else publishes or subscribes stand around it."""

    def __init__(
        self,
        guard: Guard,
        limits: Limits,
        retained: RetainedLimits,
        max_sessions: int,
        counters: Counter[str],
        journal: Journal | None,
    ) -> None:
        """`journal`: None if nothing is to survive."""
        self._guard = guard
        self._limits = limits
        self._max_sessions = max_sessions
        self._retained_limits = retained
        self._counters = counters
        self._journal = journal
        self._subscribers: dict[str, Subscriber] = {}  # by client id
        self._subscriptions: Subscriptions[Subscriber] = Subscriptions()
        self._retained = Retained()

    def restore(
        self, sessions: dict[str, StoredSession], retained: dict[str, RetainedRow], wills: dict[str, WillRow]
    ) -> None:
        """Begin with what the journal kept. What a session's owner may not have any more is left out, for good.

        wills: of clients that were connected when the broker ended, and are not now: they are published, as
        section 3.1.2.5 allows, or a retained "online" would outlive its client.
        """
        journal = self._journal
        assert journal is not None
        for topic, row in retained.items():
            self._retained.store(Publish(topic, row.payload, row.qos, retain=True), row.owner)
        for client_id, state in sessions.items():
            client = Client(state.identity, client_id, "away")
            messages = []
            for number, message in state.messages:
                if message.released or self._guard.may_receive(client, message.topic):
                    messages.append((number, message))
                else:
                    journal.remove_message(number)
            session = Session.restored(client_id, NO_LIMITS, journal, state.subscriptions, messages, state.received)
            for topic_filter in [f for f in session.subscriptions if not self._guard.may_subscribe(client, f)]:
                session.unsubscribe(topic_filter)
            subscriber = Subscriber(client, session, temporary=False, outlet=None)
            self._subscribers[client_id] = subscriber
            for topic_filter, qos in session.subscriptions.items():
                self._subscriptions.add(topic_filter, subscriber, qos)

        for client_id, will in wills.items():  # [MQTT-3.1.2-8, -16, -17]
            self.drop_will(client_id)
            if self._guard.may_publish(Client(will.identity, client_id, "away"), will.topic, will.retain):
                self.publish(Publish(will.topic, will.payload, will.qos, will.retain), will.identity.name)
        for subscriber in self._subscribers.values():  # only now, or a will could be what is too much for one
            subscriber.session.limits = self._limits

    # --- clients come and go --------------------------------------------------------------------------------

    def enter(
        self, client: Client, outlet: Outlet, *, clean: bool, limits: Limits | None = None
    ) -> tuple[Subscriber, bool]:
        """Let an admitted client in, and whether its session was there already [MQTT-3.2.2-2].

        A connection that has the client id is ended first [MQTT-3.1.4-2], and its will is published before
        this returns: whatever the newcomer publishes comes after it. Raises NotAdmitted if the session is
        another identity's, which then stays as it was. `limits`: of a new session, if not the usual ones.
        """
        client_id = client.client_id
        known = self._subscribers.get(client_id)  # [MQTT-3.1.3-2]
        if known is not None and known.client.identity != client.identity:
            reason = "client-id-of-another"
            self._guard.refuse(Refusal("connect", client.identity.name, client_id, None, reason, client.address))
            raise NotAdmitted(IDENTIFIER_REJECTED, reason)
        if known is not None and known.outlet is not None:
            known.outlet.end("taken-over")
        if known is not None and clean:
            self._forget(known)  # [MQTT-3.1.2-6]
        subscriber = self._subscribers.get(client_id)
        if subscriber is not None:  # [MQTT-3.1.2-4]
            subscriber.client, subscriber.outlet = client, outlet
            subscriber.session.limits = limits or self._limits
            return subscriber, True
        if len(self._subscribers) >= self._max_sessions and client.identity.kind != "hub":
            reason = "too-many-sessions"
            self._guard.refuse(Refusal("connect", client.identity.name, client_id, None, reason, client.address))
            raise NotAdmitted(SERVER_UNAVAILABLE, reason)
        journal = None if clean else self._journal
        if journal is not None:
            journal.open_session(client_id, client.identity)
        session = Session(client_id, limits or self._limits, journal)  # [MQTT-3.1.2-4]
        subscriber = Subscriber(client, session, temporary=clean, outlet=outlet)
        self._subscribers[client_id] = subscriber
        return subscriber, False  # [MQTT-3.2.2-1, -3]

    def resume(self, subscriber: Subscriber) -> None:
        """Send what the session still holds for its client: after the CONNACK [MQTT-4.4.0-1]."""
        if subscriber.outlet is not None:
            for packet in subscriber.session.resend():
                subscriber.outlet.send(packet)
            self.send_ready(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """The client is gone; its session stays as it is if it is a stored one [MQTT-3.1.2-4] [MQTT-4.1.0-1]."""
        subscriber.outlet = None
        if subscriber.temporary:  # and not before [MQTT-4.1.0-2]
            self._forget(subscriber)

    def keep_will(self, client: Client, will: Will) -> None:
        """Have it published at the next start, should the broker end before the client does."""
        if self._journal is not None:
            row = WillRow(client.identity, will.topic, will.payload, will.qos, will.retain)
            self._journal.set_will(client.client_id, row)

    def drop_will(self, client_id: str) -> None:
        """It was published, or is not to be."""
        if self._journal is not None:
            self._journal.remove_will(client_id)

    def _forget(self, subscriber: Subscriber) -> None:
        """End a session; retained messages are no part of it [MQTT-3.1.2-7]."""
        client_id = subscriber.client.client_id
        if self._subscribers.get(client_id) is subscriber:
            del self._subscribers[client_id]
            for topic_filter in subscriber.session.subscriptions:
                self._subscriptions.remove(topic_filter, subscriber)
            subscriber.session.end()

    def forget_user(self, name: str) -> None:
        """Drop the sessions and the retained messages of a user, and who is connected with one."""
        for subscriber in [each for each in self._subscribers.values() if each.client.identity.name == name]:
            if subscriber.outlet is not None:
                subscriber.outlet.end("removed")
            self._forget(subscriber)
        for topic in self._retained.topics_of(name):
            self._clear_retained(topic)

    # --- messages -------------------------------------------------------------------------------------------

    @property
    def last_change(self) -> int:
        """The journal's batch that holds the last change of any stored session; 0 without a journal."""
        return 0 if self._journal is None else self._journal.last_change

    def publish(self, message: Publish, owner: str) -> int:
        """Deliver a message that its sender may publish, now or later, to everybody whom it concerns.

        Messages go on in the order in which they come, on every topic [MQTT-4.6.0-5].
        `owner`: the sender's user name. Returns the journal's batch that must be on disk before the message may
        be acknowledged, 0 if there is none.
        """
        journal = self._journal
        changes = 0 if journal is None else journal.changes
        if message.retain:  # [MQTT-3.3.1-12]
            self.retain(message, owner)
        for subscriber, granted in self._subscriptions.match(message.topic).items():
            self._deliver(subscriber, message, granted, retain=False)  # [MQTT-3.3.1-9]
        return 0 if journal is None or journal.changes == changes else journal.gathering

    def retain(self, message: Publish, owner: str) -> None:
        """Keep it as its topic's message, and deliver it to nobody yet."""
        topic = message.topic
        if not message.payload:  # [MQTT-3.3.1-10, -11]
            self._clear_retained(topic)
            return
        self._retained.store(message, owner)
        if topic[0] == "$":  # the broker's own: a few, and they say what is now
            return
        held, limits = self._retained.held_by(owner), self._retained_limits
        if held.messages > limits.messages or held.payload_bytes > limits.payload_bytes:
            self._guard.refuse(Refusal("publish", owner, None, topic, "too-much-retained", "unknown"))
            self._clear_retained(topic)  # none is better than the one before, which is not true any more
        elif self._journal is not None:
            self._journal.retain(message, owner)

    def _clear_retained(self, topic: str) -> None:
        if self._retained.clear(topic) and self._journal is not None:
            self._journal.clear_retained(topic)

    def subscribe(self, subscriber: Subscriber, packet: Subscribe) -> None:
        """Grant what may be granted, answer, and send the retained messages [MQTT-3.8.4-1, -3, -4, -5]."""
        outlet, session = subscriber.outlet, subscriber.session
        if outlet is None:
            return
        codes = []
        granted: list[tuple[str, int]] = []
        for topic_filter, qos in packet.filters:  # a code for each, in their order [MQTT-3.9.3-1]
            if self._grant(subscriber, topic_filter, qos):
                granted.append((topic_filter, qos))
                codes.append(qos)
            else:
                codes.append(FAILURE)  # 0x80, or the QoS asked for [MQTT-3.9.3-2]
        # With the packet id of the SUBSCRIBE [MQTT-2.3.1-7] [MQTT-3.8.4-2].
        outlet.send(Suback(packet.packet_id, tuple(codes)), self.last_change if session.stored else 0)
        # Each filter as if it came alone [MQTT-3.8.4-4]. All that they match may come at once, past the session's
        # bounds, but not again for a filter that comes again, or without an acknowledgement of what waits.
        self._make_room(subscriber)
        found = {topic_filter: self._retained.match(topic_filter) for topic_filter in dict(granted)}
        most_waiting = -1 if session.full else session.waiting + sum(map(len, found.values()))
        for topic_filter, qos in granted:
            if session.full and session.waiting > most_waiting:
                self._overflow(subscriber)  # [MQTT-4.8.0-2]
                return
            for message in found[topic_filter]:
                self._deliver(subscriber, message, qos, retain=True)  # [MQTT-3.3.1-6, -8]

    def _grant(self, subscriber: Subscriber, topic_filter: str, qos: int) -> bool:
        if not self._guard.may_subscribe(subscriber.client, topic_filter):
            return False
        subscriptions = subscriber.session.subscriptions
        if topic_filter not in subscriptions and len(subscriptions) >= subscriber.session.limits.subscriptions:
            client = subscriber.client
            name, reason = client.identity.name, "too-many-subscriptions"
            self._guard.refuse(Refusal("subscribe", name, client.client_id, topic_filter, reason, client.address))
            return False
        self._subscriptions.add(topic_filter, subscriber, qos)
        subscriber.session.subscribe(topic_filter, qos)
        return True

    def unsubscribe(self, subscriber: Subscriber, packet: Unsubscribe) -> None:
        """Take filters back, compared letter by letter, and answer always [MQTT-3.10.4-1, -4, -5]."""
        for topic_filter in packet.filters:  # [MQTT-3.10.4-6]
            if subscriber.session.unsubscribe(topic_filter):
                self._subscriptions.remove(topic_filter, subscriber)
        if subscriber.outlet is not None:  # once, with the packet id of the UNSUBSCRIBE [MQTT-2.3.1-7]
            subscriber.outlet.send(Unsuback(packet.packet_id), self.last_change if subscriber.session.stored else 0)

    def send_ready(self, subscriber: Subscriber) -> None:
        """Send what waited for a place in flight or for the client to read."""
        outlet = subscriber.outlet
        if outlet is not None and subscriber.session.waiting:
            ready = subscriber.session.ready()
            while not outlet.paused and (message := next(ready, None)) is not None:
                self._send(subscriber, outlet, message)

    def _send(self, subscriber: Subscriber, outlet: Outlet, message: Publish) -> None:
        # A QoS 2 message goes out when its packet id is on disk, or after a crash it would come under another.
        outlet.send(message, self.last_change if message.qos == 2 and subscriber.session.stored else 0)

    def _deliver(self, subscriber: Subscriber, message: Publish, granted: int, *, retain: bool) -> None:
        if not self._guard.may_receive(subscriber.client, message.topic):
            return
        outlet, session = subscriber.outlet, subscriber.session
        qos = min(message.qos, granted)  # [MQTT-3.8.4-6]
        if qos == 0 and outlet is None:
            return
        if subscriber.paces is not None:
            subscriber.paces.count([message])
        if outlet is not None and not outlet.paused:  # then no earlier one of QoS 0 waits [MQTT-4.6.0-6]
            if qos == 0:
                outlet.send(Publish(message.topic, message.payload, 0, retain))  # no DUP [MQTT-3.3.1-3] [MQTT-4.3.1-1]
                return
            sent = session.send_now(message.topic, message.payload, qos, retain)
            if sent is not None:
                self._send(subscriber, outlet, sent)
                return
        if session.full and not retain:  # retained messages share their payloads with the store: see `subscribe`
            self._make_room(subscriber)
            if session.full:
                if qos == 0:
                    self._drop(subscriber, [message])
                else:
                    self._overflow(subscriber)
                return
        session.enqueue(Publish(message.topic, message.payload, qos, retain))  # also for who is away [MQTT-3.1.2-5]

    def _make_room(self, subscriber: Subscriber) -> None:
        self._drop(subscriber, subscriber.session.make_room())

    def _drop(self, subscriber: Subscriber, messages: list[Publish]) -> None:
        self._counters["dropped_qos_0"] += len(messages)
        if subscriber.paces is not None:
            subscriber.paces.discount(messages)

    def _overflow(self, subscriber: Subscriber) -> None:
        """End a session that is full, and its connection: a gap that its client would not know of is worse.

        The client finds no session when it comes again [MQTT-3.2.2-3], and knows.
        """
        self._counters["dropped_queue_full"] += 1
        if subscriber.outlet is None:
            self._counters["sessions_overflowed"] += 1
            self._forget(subscriber)
        else:
            subscriber.temporary = True
            subscriber.outlet.end_soon("queue-full")

    def gauges(self) -> dict[str, int]:
        """How much there is now."""
        sessions = [subscriber.session for subscriber in self._subscribers.values()]
        retained = self._retained.held_by_others(SYS)
        return {
            "clients_connected": sum(subscriber.outlet is not None for subscriber in self._subscribers.values()),
            "sessions": len(sessions),
            "subscriptions": sum(len(session.subscriptions) for session in sessions),
            "messages_queued": sum(session.waiting for session in sessions),
            "queued_bytes": sum(session.waiting_bytes for session in sessions),
            "retained": retained.messages,
            "retained_bytes": retained.payload_bytes,
        }
