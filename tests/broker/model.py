"""What MQTT 3.1.1 asks of a server, in its own order and words: small, slow, without I/O. The tests' second opinion.

What clients do goes in (`connect`, `receive`, `lose`), each packet that the broker sends is shown to `sent`, and `due`
is what it must send yet. Where the standard leaves the server a choice, the broker's is:

- A message of QoS 0 that comes while its client is away is not kept for it (3.1.2.4: optional).
- A QoS 2 message goes on when its PUBLISH comes (4.3.3: method B).
- A message that several filters of a session match is delivered once (3.3.5).
- At most `window` messages of QoS 1 and 2 are in flight to one client (4.4, 4.6: non-normative).
- Topics that begin with '$' are the server's: what clients publish there reaches nobody (4.7.2).
- An acknowledgement of the wrong kind is a violation (4.8); one of an unknown message is not.
- A connection that a client ends by a mistake is closed after the answers to what came before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hub.protocol.packets import (
    Connack,
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
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)


def matches(topic_filter: str, topic: str) -> bool:
    """Section 4.7.1: '#' stands for its parent and all below it, '+' for one level."""

    def match(wanted: list[str], found: list[str]) -> bool:
        if wanted == ["#"] or not wanted or not found:
            return wanted == ["#"] or wanted == found
        return wanted[0] in ("+", found[0]) and match(wanted[1:], found[1:])

    if topic[0] == "$" and topic_filter[0] in "+#":  # [MQTT-4.7.2-1]
        return False
    return match(topic_filter.split("/"), topic.split("/"))


class Violation(Exception):
    """What a client may not send, or not now [MQTT-4.8.0-1]."""


@dataclass
class Session:
    """Section 3.1.2.4: the session state in the server.

    owed: messages not sent yet, in the order they came in.
    in_flight: by packet id, what was sent last and waits for its acknowledgement, in the order sent.
    unreleased: QoS 2 packet ids from the client whose PUBREL has not come.
    """

    clean: bool
    subscriptions: dict[str, int] = field(default_factory=dict)
    owed: list[Publish] = field(default_factory=list)
    in_flight: dict[int, Publish | Pubrel] = field(default_factory=dict)
    unreleased: set[int] = field(default_factory=set)


@dataclass
class Link:
    """A network connection: its will, and what the server must send for it alone."""

    will: Will | None
    answers: list[Packet]
    again: list[Publish | Pubrel]


class Server:
    """All the state there is; clients are named by their client ids."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.sessions: dict[str, Session] = {}
        self.links: dict[str, Link] = {}
        self.retained: dict[str, Publish] = {}

    # --- what clients do ------------------------------------------------------------------------------------

    def connect(self, connect: Connect) -> None:
        client_id = connect.client_id
        if client_id in self.links:
            self.lose(client_id)  # [MQTT-3.1.4-2], and its will [MQTT-3.1.2-8]
        if connect.clean_session:
            self.sessions.pop(client_id, None)  # [MQTT-3.1.2-6]
        present = client_id in self.sessions
        session = self.sessions.setdefault(client_id, Session(connect.clean_session))
        again = [replace(sent, dup=True) if isinstance(sent, Publish) else sent for sent in session.in_flight.values()]
        # [MQTT-3.2.2-1, -2, -3], [MQTT-4.4.0-1], [MQTT-3.3.1-1]
        self.links[client_id] = Link(connect.will, [Connack(session_present=present)], again)

    def lose(self, client_id: str) -> None:
        """The network connection ends: by the client's silence or mistake, by the network, by a take-over."""
        link = self.links.pop(client_id)
        if self.sessions[client_id].clean:
            del self.sessions[client_id]  # section 3.1.2.4
        self._publish_will(link)

    def restart(self) -> None:
        """The server ends and comes back with what is stored; then it publishes the wills (3.1.2.5), in any order."""
        links, self.links = self.links, {}
        self.sessions = {name: session for name, session in self.sessions.items() if not session.clean}
        for session in self.sessions.values():
            session.owed = [message for message in session.owed if message.qos]
        self.retained = {topic: message for topic, message in self.retained.items() if topic[0] != "$"}
        for link in links.values():
            self._publish_will(link)

    def _publish_will(self, link: Link) -> None:
        will = link.will
        if will is not None:  # [MQTT-3.1.2-8, -16, -17]
            self.publish(Publish(will.topic, will.payload, will.qos, will.retain))

    def receive(self, client_id: str, packet: Packet) -> None:
        """A packet that is not the first. Raises Violation if the server must close the connection instead."""
        session, link = self.sessions[client_id], self.links[client_id]
        match packet:
            case Publish(qos=2) if packet.packet_id in session.unreleased:  # [MQTT-4.3.3-2]
                link.answers.append(Pubrec(packet.packet_id))
            case Publish():
                if packet.topic[0] != "$":
                    self.publish(packet)
                if packet.qos == 1:
                    link.answers.append(Puback(packet.packet_id))  # [MQTT-4.3.2-2]
                elif packet.qos == 2:
                    session.unreleased.add(packet.packet_id)
                    link.answers.append(Pubrec(packet.packet_id))
            case Pubrel(packet_id):
                session.unreleased.discard(packet_id)
                link.answers.append(Pubcomp(packet_id))
            case Puback() | Pubrec() | Pubcomp():
                self._acknowledge(client_id, packet)
            case Subscribe(packet_id, filters):
                link.answers.append(Suback(packet_id, tuple(qos for _, qos in filters)))  # [MQTT-3.8.4-1, -2, -5, -6]
                for topic_filter, qos in filters:  # as a sequence of SUBSCRIBEs [MQTT-3.8.4-4]
                    session.subscriptions[topic_filter] = qos  # [MQTT-3.8.4-3]
                    for message in self.retained.values():
                        if matches(topic_filter, message.topic):
                            self._owe(client_id, message, qos, retain=True)  # [MQTT-3.3.1-6, -8]
            case Unsubscribe(packet_id, filters):
                for topic_filter in filters:
                    session.subscriptions.pop(topic_filter, None)  # [MQTT-3.10.4-1, -2]
                link.answers.append(Unsuback(packet_id))  # [MQTT-3.10.4-4, -5, -6]
            case Pingreq():
                link.answers.append(Pingresp())  # [MQTT-3.12.4-1]
            case Disconnect():
                link.will = None  # [MQTT-3.14.4-3]
                self.lose(client_id)
            case _:
                raise Violation(packet)

    def _acknowledge(self, client_id: str, packet: Puback | Pubrec | Pubcomp) -> None:
        in_flight = self.sessions[client_id].in_flight
        match in_flight.get(packet.packet_id), packet:
            case (Publish(qos=1), Puback()) | (Pubrel(), Pubcomp()):
                del in_flight[packet.packet_id]
            case (Publish(qos=2), Pubrec(packet_id)):
                del in_flight[packet_id]  # from now on its place is among the releases [MQTT-4.6.0-4]
                in_flight[packet_id] = Pubrel(packet_id)  # and never PUBLISH again [MQTT-4.3.3-1]
                self.links[client_id].answers.append(Pubrel(packet_id))
            case (None | Pubrel(), Pubrec(packet_id)):
                self.links[client_id].answers.append(Pubrel(packet_id))
            case (None, Puback() | Pubcomp()):
                pass
            case _:
                raise Violation(packet)

    def publish(self, message: Publish) -> None:
        """A message comes in, from a client, from its will, or from the server itself."""
        if message.retain:
            self.retained.pop(message.topic, None)  # [MQTT-3.3.1-5, -7]
            if message.payload:  # [MQTT-3.3.1-10, -11]
                self.retained[message.topic] = message
        for client_id, session in self.sessions.items():
            matching = [qos for name, qos in session.subscriptions.items() if matches(name, message.topic)]
            if matching:
                self._owe(client_id, message, max(matching), retain=False)  # [MQTT-3.3.5-1], [MQTT-3.3.1-9]

    def _owe(self, client_id: str, message: Publish, granted: int, *, retain: bool) -> None:
        qos = min(message.qos, granted)  # [MQTT-3.8.4-6]
        if qos or client_id in self.links:
            self.sessions[client_id].owed.append(Publish(message.topic, message.payload, qos, retain))

    # --- what the server sends ------------------------------------------------------------------------------

    def sent(self, client_id: str, packet: Packet) -> None:
        """The broker sent this. Raises AssertionError if it may not, now."""
        session, link = self.sessions[client_id], self.links[client_id]
        if link.answers and isinstance(link.answers[0], Connack):
            assert packet == link.answers.pop(0), f"{packet} to {client_id}, not its CONNACK [MQTT-3.2.0-1]"
        elif due := _first(sent for sent in link.again if type(sent) is type(packet)):
            assert packet == due, f"{packet} to {client_id}, not again {due} [MQTT-4.4.0-1, 4.6.0-1, -4]"
            link.again.remove(due)
        elif not isinstance(packet, Publish):
            due = _first(answer for answer in link.answers if type(answer) is type(packet))
            assert packet == due, f"{packet} to {client_id}, not {due} [MQTT-4.6.0-2, -3, -4]"
            link.answers.remove(packet)
        else:
            due = _first(owed for owed in session.owed if (owed.topic, owed.qos) == (packet.topic, packet.qos))
            assert due is not None, f"{packet} to {client_id}, to whom it is not owed"
            assert packet == replace(due, packet_id=packet.packet_id), (
                f"{packet} to {client_id}, not {due} [MQTT-4.6.0-6]"
            )
            session.owed.remove(due)
            if packet.qos:
                assert packet.packet_id not in session.in_flight, f"{packet} to {client_id}: id in use [MQTT-2.3.1-4]"
                session.in_flight[packet.packet_id] = packet
                assert len(session.in_flight) <= self.window, f"{packet} to {client_id}: past the window"

    def answers_due(self, client_id: str) -> list[Packet]:
        """What the broker must still send in answer to what the client sent, or again."""
        link = self.links[client_id]
        return [*link.answers, *link.again]

    def due(self, client_id: str) -> list[Packet]:
        """All that the broker must still send before it may be quiet."""
        session = self.sessions[client_id]
        full = len(session.in_flight) == self.window
        return self.answers_due(client_id) + [owed for owed in session.owed if owed.qos == 0 or not full]


def _first(packets: Iterable[Packet]) -> Packet | None:
    return next(iter(packets), None)
