"""One client's network connection, from its first byte to its end, in one coroutine.

The rules are elsewhere (packets, session, exchange, guard); this joins them to a socket. A connection ends
once, in `end`, which does all that follows from it in one step: the session is left, the will is published.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Final

from broker.certificates import name_shown
from broker.exchange import Exchange, Subscriber
from broker.guard import Client, Guard, NotAdmitted, Refusal
from broker.journal import Journal
from broker.pace import OTHER_PACKET, Pace, Paces
from broker.session import TooManyUnreleased
from broker.sockets import CLOSING_S, Reader, Writer
from hub.protocol.packets import (
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketTooLarge,
    Pingreq,
    Pingresp,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Subscribe,
    UnacceptableProtocol,
    Unsubscribe,
    Will,
    encode,
)

TURN_BYTES: Final = 256 * 1024
"""Bytes for one client in one turn of the loop; messages past it wait in its session."""
TURN_PACKETS: Final = 256
"""Packets of one client in one turn; the next ones after everybody else had a turn."""
_UNACCEPTABLE_PROTOCOL: Final = 0x01
_CONNECT: Final = 0x10
"""The first byte of every CONNECT."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take.

    packet_bytes: the longest packet read, with its header.
    buffered_bytes: bytes that wait for a peer that does not read. Messages for it wait in its session long
        before; it is acknowledgements and the like that are meant here, and past this the connection ends.
    """

    packet_bytes: int = 128 * 1024
    buffered_bytes: int = 4 * 1024 * 1024


@dataclass(slots=True)
class Traffic:
    """What went over all connections of a broker.

    packets: of any kind. messages: PUBLISH packets. payload_bytes: of those, without topic and header.
    """

    bytes_received: int = 0
    bytes_sent: int = 0
    packets_received: int = 0
    packets_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    payload_bytes_received: int = 0
    payload_bytes_sent: int = 0


class Connection:
    """A client's connection; the `Outlet` of its session while it lasts."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        address: str,
        exchange: Exchange,
        guard: Guard,
        bounds: Bounds,
        counters: Counter[str],
        traffic: Traffic,
        journal: Journal | None,
        paces: Paces,
    ) -> None:
        self.user: str | None = None
        """Its MQTT user name, once its password was found right."""
        self._reader = reader
        self._writer = writer
        self._address = address
        self._exchange = exchange
        self._guard = guard
        self._bounds = bounds
        self._counters = counters
        self._traffic = traffic
        self._journal = journal
        self._paces = paces
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(bounds.packet_bytes)
        self._malformed: MalformedPacket | None = None
        self._subscriber: Subscriber | None = None
        self._will: Will | None = None
        self._ended = False
        self._turn: asyncio.Event | None = None  # for the one that waits until it may send a message, or may none more
        self._outgoing: list[bytes] = []  # of this turn of the loop, written as one
        self._outgoing_bytes = 0
        self._held: deque[tuple[int, bytes, bool]] | None = None  # what waits for a batch of the journal, in order
        self._held_bytes = 0
        self._held_others = 0  # of the packets held, those that are not a PUBACK
        self._answered: asyncio.Event | None = None  # for the one that waits until nothing is held any more
        self._was_paused = False
        self._has_room = False  # some message was acknowledged: others may follow
        self._heard_at = 0.0
        self._silence_s = 0.0
        self._watch: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve the client until the connection ends, for whatever reason."""
        client: Client | None = None
        try:
            try:
                async with asyncio.timeout_at(self._writer.entry.deadline_s):
                    connect, rest = await self._first_packet()
                    certificate_name = name_shown(self._writer.get_ssl_info())
                    client = await self._guard.admit(connect, self._address, certificate_name)
                    self.user = client.identity.name
                    pace = self._paces.of(self.user)
                    await self._wait_for_its_turn(pace, a_message=connect.will is not None)
            except TimeoutError:
                self._turn_away("connect-timeout")
                return
            if self._ended:
                return
            pace.take(1 if connect.will is None else 2)
            subscriber, present = self._exchange.enter(client, self, clean=connect.clean_session)  # [MQTT-3.1.4-3]
            self._accept(connect, subscriber, present)
            await self._handle(subscriber, pace, rest)
            while not self._ended:
                await self._handle(subscriber, pace, await self._receive())
        except NotAdmitted as refused:  # nothing that came behind the CONNECT is handled [MQTT-3.1.4-5]
            self.send(Connack(code=refused.code))  # [MQTT-3.2.2-4]
            self.end("refused", gently=True)  # [MQTT-3.2.2-5]
        except UnacceptableProtocol as version:
            if self._subscriber is None:  # [MQTT-3.1.2-2]; a second CONNECT is answered by nothing [MQTT-3.1.0-2]
                self.send(Connack(code=_UNACCEPTABLE_PROTOCOL))  # [MQTT-3.2.2-4]
            self._turn_away("unacceptable-protocol", version)  # [MQTT-3.2.2-5]
        except PacketTooLarge as too_large:  # [MQTT-4.8.0-2]
            self._turn_away("packet-too-large", too_large)
        except MalformedPacket as malformed:  # [MQTT-4.8.0-1]; a CONNECT gets no CONNACK [MQTT-3.2.2-6]
            self._turn_away("malformed", malformed)
        except TooManyUnreleased:  # [MQTT-4.8.0-2]
            self._turn_away("too-many-unreleased")
        except (OSError, EOFError):
            self.end("lost")
        finally:
            self.end("failed")  # if none of the above did: a fault of the broker's [MQTT-4.8.0-2], or its cancellation
            if client is not None:
                self._guard.leave(client)
            if self._held:
                self._answered = asyncio.Event()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._answered.wait(), CLOSING_S)
            await self._writer.close()

    # --- reading --------------------------------------------------------------------------------------------

    async def _first_packet(self) -> tuple[Connect, list[Packet]]:
        data = await self._read()
        if data[0] != _CONNECT:  # at once: nothing of a stranger's is kept but what may become a CONNECT
            raise MalformedPacket("MQTT-3.1.0-1", f"the first byte is 0x{data[0]:02x}")
        packets = self._decode(data)
        while not packets:
            packets = await self._receive()
        connect = packets[0]
        if not isinstance(connect, Connect):
            raise MalformedPacket("MQTT-3.1.0-1", f"the first packet is a {type(connect).__name__}")
        return connect, packets[1:]

    async def _receive(self) -> list[Packet]:
        """The packets that arrived; what came whole before a malformed one still counts."""
        if self._malformed is not None:
            raise self._malformed
        return self._decode(await self._read())

    async def _read(self) -> bytes:
        data = await self._reader.read()
        if not data:
            raise EOFError
        self._traffic.bytes_received += len(data)
        return data

    def _decode(self, data: bytes) -> list[Packet]:
        try:
            packets = self._decoder.feed(data)
        except MalformedPacket as malformed:
            if not malformed.before:
                raise
            self._malformed = malformed
            packets = malformed.before
        if packets:
            self._hear()
            self._traffic.packets_received += len(packets)
        return packets

    def _accept(self, connect: Connect, subscriber: Subscriber, present: bool) -> None:
        self._subscriber = subscriber
        will = connect.will
        # One on a topic of the broker's own is dropped like any other message there; mosquitto's bridges bring one.
        if will is not None and self._guard.may_publish(subscriber.client, will.topic, will.retain):
            self._will = will
            self._exchange.keep_will(subscriber.client, will)
        self._counters["connects"] += 1
        self._writer.entry.accepted()
        self._writer.on_writable(self._continue)
        if connect.keep_alive:  # [MQTT-3.1.2-24]
            self._silence_s = 1.5 * connect.keep_alive
            self._watch = self._loop.call_later(self._silence_s, self._check_keep_alive)
        # The first packet [MQTT-3.2.0-1], code 0 [MQTT-3.1.4-4]. What is granted must still be there after a crash.
        self.send(Connack(session_present=present), self._exchange.last_change if subscriber.session.stored else 0)
        self._exchange.resume(subscriber)

    async def _wait_for_its_turn(self, pace: Pace, *, a_message: bool) -> None:
        """Read no further while its user is over its rate, or has its share of the hub; see `Pace`."""
        while (wait_s := pace.wait_s(self._loop.time(), a_message=a_message)) and not self._ended:
            if self._turn is None:
                self._counters["slowed_down"] += 1
            self._turn = turn = asyncio.Event()
            if pace.hub_is_behind:
                pace.when_caught_up(turn.set)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await turn.wait()
            finally:
                pace.forget(turn.set)
        if self._turn is not None:
            self._turn = None
            self._hear()

    def _hear(self) -> None:
        if not self._reader.is_over:  # or it would be alive for as long as it takes to read what it has left behind
            self._heard_at = self._loop.time()

    def _check_keep_alive(self) -> None:
        left = self._heard_at + self._silence_s - self._loop.time()
        if left <= 0 and self._turn is not None and not self._reader.is_over:
            left = self._silence_s  # it is not silent; it is we who do not listen
        if left > 0:
            self._watch = self._loop.call_later(left, self._check_keep_alive)
        else:
            self.end("keep-alive")

    async def _handle(self, subscriber: Subscriber, pace: Pace, packets: list[Packet]) -> None:
        pace.reckon(self._heard_at)
        for number, packet in enumerate(packets, 1):
            if self._has_room and not isinstance(packet, Puback | Pubcomp):
                self._send_ready(subscriber)
            a_message = type(packet) is Publish
            if pace.holds_back(a_message=a_message):
                await self._wait_for_its_turn(pace, a_message=a_message)
            if self._ended:  # nothing after DISCONNECT is looked at
                return
            handle = self._HANDLERS.get(type(packet))
            if handle is None:  # a second CONNECT [MQTT-3.1.0-2], or what only a server may send
                raise MalformedPacket("MQTT-4.8.0-1", f"an unexpected {type(packet).__name__}")
            handle(self, subscriber, packet)
            if a_message:
                pace.take(1)
            elif isinstance(packet, Subscribe | Unsubscribe):
                pace.take(len(packet.filters))
                await asyncio.sleep(0)  # its filters may have looked through all that is retained
            else:
                pace.take(OTHER_PACKET)
            if not number % TURN_PACKETS:
                await asyncio.sleep(0)
        if self._has_room:
            self._send_ready(subscriber)

    def _send_ready(self, subscriber: Subscriber) -> None:
        """Once for all the acknowledgements that came together."""
        self._has_room = False
        self._exchange.send_ready(subscriber)

    def _on_publish(self, subscriber: Subscriber, packet: Publish) -> None:
        self._traffic.messages_received += 1
        self._traffic.payload_bytes_received += len(packet.payload)
        after = 0
        is_new = packet.qos < 2 or subscriber.session.receive(packet.packet_id)  # of QoS 1 always [MQTT-4.3.2-2]
        if is_new and self._guard.may_publish(subscriber.client, packet.topic, packet.retain):
            after = self._exchange.publish(packet, subscriber.client.identity.name)
        if packet.qos == 1:  # and QoS 0 not at all [MQTT-3.3.4-1]
            self.send(Puback(packet.packet_id), after)  # [MQTT-2.3.1-6] [MQTT-4.3.2-2]
        elif packet.qos == 2:
            self.send(Pubrec(packet.packet_id), max(after, self._kept(subscriber)))  # [MQTT-2.3.1-6]

    def _on_pubrel(self, subscriber: Subscriber, packet: Pubrel) -> None:
        subscriber.session.release(packet.packet_id)
        self.send(Pubcomp(packet.packet_id), self._kept(subscriber))

    def _kept(self, subscriber: Subscriber) -> int:
        """The batch that holds the last change of a stored session: QoS 2 says nothing that a crash could undo."""
        return self._exchange.last_change if subscriber.session.stored else 0

    def _on_puback(self, subscriber: Subscriber, packet: Puback) -> None:
        subscriber.session.puback(packet.packet_id)
        self._has_room = True

    def _on_pubrec(self, subscriber: Subscriber, packet: Pubrec) -> None:
        self.send(subscriber.session.pubrec(packet.packet_id), self._kept(subscriber))

    def _on_pubcomp(self, subscriber: Subscriber, packet: Pubcomp) -> None:
        subscriber.session.pubcomp(packet.packet_id)
        self._has_room = True

    def _on_subscribe(self, subscriber: Subscriber, packet: Subscribe) -> None:
        self._exchange.subscribe(subscriber, packet)

    def _on_unsubscribe(self, subscriber: Subscriber, packet: Unsubscribe) -> None:
        self._exchange.unsubscribe(subscriber, packet)

    def _on_pingreq(self, _: Subscriber, __: Pingreq) -> None:
        self.send(Pingresp())  # [MQTT-3.12.4-1]

    def _on_disconnect(self, subscriber: Subscriber, _: Disconnect) -> None:
        if self._will is not None:  # [MQTT-3.14.4-3]
            self._will = None
            self._exchange.drop_will(subscriber.client.client_id)
        self.end("disconnected", gently=True)

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        Publish: _on_publish,
        Puback: _on_puback,
        Pubrec: _on_pubrec,
        Pubrel: _on_pubrel,
        Pubcomp: _on_pubcomp,
        Subscribe: _on_subscribe,
        Unsubscribe: _on_unsubscribe,
        Pingreq: _on_pingreq,
        Disconnect: _on_disconnect,
    }

    # --- writing --------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        if self._writer.paused or self._outgoing_bytes + self._held_bytes > TURN_BYTES:
            self._was_paused = True
            return True
        return False

    def send(self, packet: Packet, after: int = 0) -> None:
        """Send a packet with whatever else this turn of the loop brings, once that batch of the journal is kept.

        In order, but that a PUBLISH does not wait behind PUBACKs: these answer what the client sent.
        """
        if self._ended:
            return
        data = encode(packet)
        is_publish = type(packet) is Publish
        if type(packet) is Publish:
            self._traffic.messages_sent += 1
            self._traffic.payload_bytes_sent += len(packet.payload)
        waits = after and self._journal is not None and after > self._journal.committed
        if waits or (self._held and not (is_publish and not self._held_others)):
            self._hold(data, after, is_puback=type(packet) is Puback)
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)
        self._outgoing_bytes += len(data)

    def _hold(self, data: bytes, after: int, *, is_puback: bool) -> None:
        assert self._journal is not None
        if not self._held:
            self._held = deque()
            self._journal.when_committed(self._send_held)
        self._held.append((after, data, is_puback))
        self._held_bytes += len(data)
        self._held_others += not is_puback
        if self._held_bytes > self._bounds.buffered_bytes:
            self.end_soon("stalled")

    def _send_held(self) -> None:
        """A batch was committed: what waited for it goes out, up to the first that waits for a later one."""
        assert self._journal is not None
        while self._held and self._held[0][0] <= self._journal.committed:
            _, data, is_puback = self._held.popleft()
            self._held_bytes -= len(data)
            self._held_others -= not is_puback
            self._outgoing.append(data)
            self._outgoing_bytes += len(data)
        if self._held:
            self._journal.when_committed(self._send_held)
        elif self._ended:  # gently: what came before the DISCONNECT is answered, and that was the last of it
            if self._outgoing:
                self._write_outgoing()
            self._writer.finish()
            if self._answered is not None:
                self._answered.set()
        self._flush()

    def _flush(self) -> None:
        if self._outgoing:
            self._write_outgoing()
            if self._writer.buffered_bytes > self._bounds.buffered_bytes:
                self.end("stalled")
        self._continue()

    def _write_outgoing(self) -> None:
        data = b"".join(self._outgoing)
        self._traffic.bytes_sent += len(data)
        self._traffic.packets_sent += len(self._outgoing)
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._writer.write(data)

    def _continue(self) -> None:
        """Send what waited because the client did not read, if it does again."""
        if self._was_paused and not self._ended and self._subscriber is not None and not self._writer.paused:
            self._was_paused = False
            self._exchange.send_ready(self._subscriber)

    # --- the end --------------------------------------------------------------------------------------------

    def _turn_away(self, reason: str, error: MalformedPacket | None = None) -> None:
        client = None if self._subscriber is None else self._subscriber.client
        name, client_id = (None, None) if client is None else (client.identity.name, client.client_id)
        detail = None if error is None else str(error)
        self._guard.refuse(Refusal("connection", name, client_id, None, reason, self._address, detail))
        self.end(reason, gently=True)

    def end_soon(self, reason: str) -> None:
        """End it, abnormally, when this turn's routing is done; the first reason counts."""
        self._loop.call_soon(self.end, reason)

    def end(self, reason: str, *, gently: bool = False, with_will: bool = True) -> None:
        """End the connection, once: close the network, leave the session, publish the will, in this order.

        gently: what is buffered, or waits for the disk, may still go out, for `CLOSING_S`.
        with_will: False when it is the broker that goes, which says nothing about the client; a broker with a
            store publishes the will at its next start. After DISCONNECT there is none any more.
        """
        if self._ended:
            return
        self._ended = True
        if self._turn is not None:
            self._turn.set()
        self._counters[f"ended_{reason}"] += 1
        if self._watch is not None:
            self._watch.cancel()
        if gently:
            if self._outgoing:
                self._write_outgoing()
            if not self._held:  # or `_send_held` does it
                self._writer.finish()
            self._loop.call_later(CLOSING_S, self._writer.abort)
        else:
            self._writer.abort()
            self._held = None
        self._outgoing.clear()
        subscriber = self._subscriber
        if subscriber is None:
            return
        self._exchange.leave(subscriber)
        will, self._will = self._will, None  # [MQTT-3.1.2-10]
        if will is not None and with_will:  # [MQTT-3.1.2-8, -12], retained if it asks for that [MQTT-3.1.2-16, -17]
            client = subscriber.client
            self._exchange.drop_will(client.client_id)
            self._exchange.publish(Publish(will.topic, will.payload, will.qos, will.retain), client.identity.name)
