"""A whole MQTT 3.1.1 client on the product's codec: QoS 0 to 2, sessions that outlive their connections."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self, cast

from benchmarks.mqtt import HOST
from hub.protocol.packets import (
    FAILURE,
    MAX_PACKET_ID,
    Connack,
    Connect,
    Decoder,
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
    Will,
    encode,
)

ANSWER_WITHIN_S: Final = 15.0
"""How long a broker under load may take with an answer."""


class Refused(Exception):
    """The broker said no."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """`packet`: what is sent again, the PUBLISH or its PUBREL. `acknowledged`: called when the broker has it."""

    packet: Publish | Pubrel
    acknowledged: Callable[[], None]


class Session:
    """A client's own session state (section 4.1). No I/O: packets in, answers out."""

    def __init__(self, client_id: str, *, clean: bool = True) -> None:
        self.client_id = client_id
        self.clean = clean
        self.begun = False
        """It was accepted once, so that the broker must know it from now on."""
        self._sent: dict[int, _Sent] = {}  # in the order sent
        self._received: set[int] = set()  # QoS 2 messages that are not released
        self._last_id = 0

    @property
    def unacknowledged(self) -> int:
        return len(self._sent)

    def next_id(self) -> int:
        self._last_id = self._last_id % MAX_PACKET_ID + 1
        while self._last_id in self._sent:
            self._last_id = self._last_id % MAX_PACKET_ID + 1
        return self._last_id

    def accepted(self, *, present: bool) -> list[Packet]:
        """The connection is there; returns what to send again [MQTT-4.4.0-1]."""
        self.begun = True
        if not present:  # section 3.2.2.2: the client discards its own
            self._sent.clear()
            self._received.clear()
        return [
            replace(sent.packet, dup=True) if isinstance(sent.packet, Publish) else sent.packet
            for sent in self._sent.values()
        ]

    def publish(self, message: Publish, acknowledged: Callable[[], None]) -> Publish:
        """The packet to send for a message of QoS 1 or 2."""
        packet = replace(message, packet_id=self.next_id())
        self._sent[packet.packet_id] = _Sent(packet, acknowledged)
        return packet

    def take(self, packet: Packet, on_message: Callable[[Publish], None]) -> Packet | None:
        """Hand on a message, once if it is of QoS 2; returns the answer to a packet."""
        match packet:
            case Publish(qos=0):
                on_message(packet)
            case Publish(qos=1):
                on_message(packet)
                return Puback(packet.packet_id)
            case Publish():
                if packet.packet_id not in self._received:
                    self._received.add(packet.packet_id)
                    on_message(packet)
                return Pubrec(packet.packet_id)
            case Pubrel():
                self._received.discard(packet.packet_id)
                return Pubcomp(packet.packet_id)
            case Puback() | Pubcomp():
                sent = self._sent.pop(packet.packet_id, None)
                if sent is not None and isinstance(packet, Puback):
                    sent.acknowledged()
            case Pubrec():
                sent = self._sent.get(packet.packet_id)
                if sent is not None and isinstance(sent.packet, Publish):
                    sent.acknowledged()
                    self._sent[packet.packet_id] = replace(sent, packet=Pubrel(packet.packet_id))
                return Pubrel(packet.packet_id)
        return None


class Client(asyncio.Protocol):
    """One connection of a session. `lost` is set when it ends, whoever ended it."""

    def __init__(self, session: Session, on_message: Callable[[Publish], None]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.session_present = False
        self.resent: list[Publish] = []
        """What was sent again at its beginning."""
        self._session = session
        self._on_message = on_message
        self._decoder = Decoder()
        self._answers: asyncio.Queue[Packet | None] = asyncio.Queue()  # to what is asked one at a time

    @classmethod
    async def open(
        cls,
        port: int,
        session: Session,
        on_message: Callable[[Publish], None] = lambda _: None,
        *,
        will: Will | None = None,
        keep_alive: int = 60,
    ) -> Self:
        """Connected, and what the session still has to say said again. Raises OSError, TimeoutError, Refused."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ANSWER_WITHIN_S):
            _, client = await loop.create_connection(partial(cls, session, on_message), HOST, port)
            try:
                answer = await client.ask(Connect(session.client_id, session.clean, keep_alive, will))
            except BaseException:
                client.abort()
                raise
        if not isinstance(answer, Connack) or answer.code:
            client.abort()
            raise Refused(f"{answer} for {session.client_id}")
        client.session_present = answer.session_present
        for packet in session.accepted(present=answer.session_present):
            client.send(packet)
            if isinstance(packet, Publish):
                client.resent.append(packet)
        return client

    async def subscribe(self, *filters: tuple[str, int]) -> None:
        """Raises ConnectionError, TimeoutError, Refused."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            answer = await self.ask(Subscribe(self._session.next_id(), filters))
        if not isinstance(answer, Suback) or FAILURE in answer.codes:
            raise Refused(f"{answer} for {filters}")

    async def ping(self) -> None:
        """Returns when the broker has dealt with all that was sent before. Raises ConnectionError, TimeoutError."""
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await self.ask(Pingreq())

    def publish(self, message: Publish, acknowledged: Callable[[], None] = lambda: None) -> None:
        self.send(self._session.publish(message, acknowledged) if message.qos else message)

    def send(self, packet: Packet) -> None:
        """On a connection that has ended it is lost, as on any."""
        if not self.transport.is_closing():
            self.transport.write(encode(packet))

    def disconnect(self) -> None:
        """Say goodbye."""
        self.send(Disconnect())
        self.transport.close()

    def abort(self) -> None:
        """Vanish."""
        self.transport.abort()

    async def ask(self, packet: Packet) -> Packet:
        """The answer to a CONNECT, a SUBSCRIBE or a PINGREQ, one at a time. Raises ConnectionError."""
        if self.lost.done():
            raise ConnectionResetError("the connection has ended")
        self.send(packet)
        answer = await self._answers.get()
        if answer is None:
            raise ConnectionResetError("the broker closed the connection")
        return answer

    # --- asyncio's protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass

    def data_received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            if isinstance(packet, Connack | Suback | Pingresp):
                self._answers.put_nowait(packet)
            elif (answer := self._session.take(packet, self._on_message)) is not None:
                self.send(answer)

    def connection_lost(self, _: Exception | None) -> None:
        self._answers.put_nowait(None)
        if not self.lost.done():
            self.lost.set_result(None)
