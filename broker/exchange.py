"""Where messages meet subscribers: sessions, subscriptions, retained messages and take-over, in one place.

Everything here runs to its end without awaiting, so nothing can happen in between: a message is either for
the session as it was before a change, or as it is after.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from broker.guard import IDENTIFIER_REJECTED, Client, Guard, NotAdmitted, Refusal
from broker.router import Retained, Subscriptions
from broker.session import Limits, Session
from hub.protocol.packets import FAILURE, Packet, Publish, Suback, Subscribe, Unsuback, Unsubscribe


class Outlet(Protocol):
    """The way to a client that is there."""

    @property
    def congested(self) -> bool:
        """The client does not keep up: what may be lost is not sent."""
        ...

    def send(self, packet: Packet) -> None: ...

    def end(self, reason: str) -> None:
        """Close it abnormally, at once: `Exchange.leave` and the will are done when it returns."""
        ...

    def end_soon(self, reason: str) -> None:
        """The same, but not from within the routing of a message."""
        ...


@dataclass(eq=False, slots=True)
class Subscriber:
    """A client as the exchange knows it. `outlet` is None while a stored session's client is away."""

    client: Client
    session: Session
    clean: bool
    outlet: Outlet | None


class Exchange:
    """The heart of the broker; connections and whatever else publishes or subscribes stand around it."""

    def __init__(self, guard: Guard, limits: Limits, counters: Counter[str]) -> None:
        self._guard = guard
        self._limits = limits
        self._counters = counters
        self._subscribers: dict[str, Subscriber] = {}  # by client id
        self._subscriptions: Subscriptions[Subscriber] = Subscriptions()
        self._retained = Retained()

    def enter(self, client: Client, outlet: Outlet, *, clean: bool) -> tuple[Subscriber, bool]:
        """Let an admitted client in, and whether its session was there already [MQTT-3.2.2-2].

        A connection that has the client id is ended first [MQTT-3.1.4-2], and its will is published before
        this returns: whatever the newcomer publishes comes after it. Raises NotAdmitted if the session is
        another identity's, which then stays as it was.
        """
        client_id = client.client_id
        known = self._subscribers.get(client_id)
        if known is not None and known.client.identity != client.identity:
            reason = "client-id-of-another"
            self._guard.refuse(Refusal("connect", client.identity.name, client_id, None, reason, client.address))
            raise NotAdmitted(IDENTIFIER_REJECTED, reason)
        if known is not None and known.outlet is not None:
            known.outlet.end("taken-over")
        if clean:
            self._forget(client_id)  # [MQTT-3.1.2-6]
        subscriber = self._subscribers.get(client_id)
        present = subscriber is not None
        if subscriber is None:
            subscriber = Subscriber(client, Session(self._limits), clean, outlet)
            self._subscribers[client_id] = subscriber
        else:
            subscriber.client, subscriber.outlet = client, outlet
        return subscriber, present

    def resume(self, subscriber: Subscriber) -> None:
        """Send what the session still holds for its client: after the CONNACK [MQTT-4.4.0-1]."""
        if subscriber.outlet is not None:
            for packet in subscriber.session.resend():
                subscriber.outlet.send(packet)
            self.send_ready(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """The client is gone; its session stays if it is a stored one [MQTT-3.1.2-4]."""
        subscriber.outlet = None
        if subscriber.clean:
            self._forget(subscriber.client.client_id)

    def _forget(self, client_id: str) -> None:
        subscriber = self._subscribers.pop(client_id, None)
        if subscriber is not None:
            for topic_filter in subscriber.session.subscriptions:
                self._subscriptions.remove(topic_filter, subscriber)

    def outlet(self, client_id: str) -> Outlet | None:
        """The way to that client, if it is there."""
        subscriber = self._subscribers.get(client_id)
        return None if subscriber is None else subscriber.outlet

    def publish(self, message: Publish) -> None:
        """Deliver a message that its sender may publish, now or later, to everybody whom it concerns."""
        if message.retain:
            self._retained.store(message)
        for subscriber, granted in self._subscriptions.match(message.topic).items():
            self._deliver(subscriber, message, granted, retain=False)  # [MQTT-3.3.1-9]

    def subscribe(self, subscriber: Subscriber, packet: Subscribe) -> None:
        """Grant what may be granted, answer, and send the retained messages [MQTT-3.8.4-1, -3, -4, -5]."""
        outlet = subscriber.outlet
        if outlet is None:
            return
        granted = [(name, qos) for name, qos in packet.filters if self._guard.may_subscribe(subscriber.client, name)]
        for topic_filter, qos in granted:
            self._subscriptions.add(topic_filter, subscriber, qos)
            subscriber.session.subscriptions[topic_filter] = qos
        allowed = {name for name, _ in granted}
        outlet.send(Suback(packet.packet_id, tuple(q if name in allowed else FAILURE for name, q in packet.filters)))
        if subscriber.session.full:  # or SUBSCRIBEs without acknowledgements would fill it without end
            outlet.end_soon("queue-full")
            return
        for topic_filter, qos in granted:
            for message in self._retained.match(topic_filter):
                self._deliver(subscriber, message, qos, retain=True)  # [MQTT-3.3.1-6, -8]

    def unsubscribe(self, subscriber: Subscriber, packet: Unsubscribe) -> None:
        """Take filters back, compared letter by letter, and answer always [MQTT-3.10.4-1, -4, -5]."""
        for topic_filter in packet.filters:
            if subscriber.session.subscriptions.pop(topic_filter, None) is not None:
                self._subscriptions.remove(topic_filter, subscriber)
        if subscriber.outlet is not None:
            subscriber.outlet.send(Unsuback(packet.packet_id))

    def send_ready(self, subscriber: Subscriber) -> None:
        """Send what waited for a place in flight."""
        if subscriber.outlet is not None:
            for message in subscriber.session.ready():
                subscriber.outlet.send(message)

    def _deliver(self, subscriber: Subscriber, message: Publish, granted: int, *, retain: bool) -> None:
        if not self._guard.may_receive(subscriber.client, message.topic):
            return
        qos = min(message.qos, granted)  # section 3.8.4
        if qos == 0:
            if subscriber.outlet is not None:
                if subscriber.outlet.congested:
                    self._counters["dropped_qos_0"] += 1
                else:
                    subscriber.outlet.send(Publish(message.topic, message.payload, 0, retain))
            return
        # Retained messages of one SUBSCRIBE may pass the bound: they share their payloads with the store.
        if subscriber.session.full and not retain:
            self._counters["dropped_queue_full"] += 1
            if subscriber.outlet is not None:
                subscriber.outlet.end_soon("queue-full")  # a gap that the client would not know of is worse
            return
        subscriber.session.enqueue(Publish(message.topic, message.payload, qos, retain))
        self.send_ready(subscriber)

    def gauges(self) -> dict[str, int]:
        """How much there is now."""
        subscribers = self._subscribers.values()
        return {
            "clients_connected": sum(subscriber.outlet is not None for subscriber in subscribers),
            "sessions": len(subscribers),
            "messages_queued": sum(subscriber.session.waiting for subscriber in subscribers),
            "retained": len(self._retained),
        }
