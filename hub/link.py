"""The link to an MQTT broker over the network: a client with a stored session, in the event loop, on our own codec.

Messages are acknowledged by whoever took them in, after they are stored; as the session at the broker is a stored one,
what comes while this process restarts is kept for it, and what was not acknowledged comes again.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, cast
from urllib.parse import unquote, urlsplit

import structlog

from hub.errors import HubError
from hub.protocol.link import Message, NotConnected, Receive
from hub.protocol.packets import (
    FAILURE,
    MAX_PACKET_ID,
    Connack,
    Connect,
    Decoder,
    Disconnect,
    MalformedPacket,
    Packet,
    Pingreq,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
)

KEEP_ALIVE_S: Final = 20
PING_EVERY_S: Final = 10.0
"""A broker from which nothing came from one ping to the next is given up."""
FIRST_RECONNECT_PAUSE_S: Final = 0.25
LONGEST_RECONNECT_PAUSE_S: Final = 5.0
LEAVES_WITHIN_S: Final = 1.0
MOST_UNCONFIRMED: Final = 10_000
"""A broker that has not confirmed so many messages takes none in: it is as good as away."""
MOST_UNFINISHED: Final = 10_000
"""While so many messages wait for their store no more are read; the broker, or TCP, holds them back."""

_REFUSALS: Final = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not accept this client id",
    3: "it does not serve now",
    4: "bad user name or password",
    5: "not authorized",
}  # the standard, table 3.1

log = structlog.get_logger()


class BadBrokerUrl(HubError):
    """The address of the broker cannot be understood; says what is expected."""


class _Refused(Exception):
    """The broker was reached and does not let us work; the text says what it refused."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are there."""

    host: str
    port: int
    tls: bool
    username: str
    password: str

    @classmethod
    def parse(cls, url: str, username: str, password: str) -> Self:
        """`mqtt://[user:password@]host[:1883]` or `mqtts://…[:8883]`; user and password given here are the default."""
        expected = "mqtt.url must look like mqtt://host:1883 or mqtts://user:password@host:8883"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadBrokerUrl(f"{expected}: {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise BadBrokerUrl(expected)
        tls = parts.scheme == "mqtts"
        return cls(
            parts.hostname,
            port or (8883 if tls else 1883),
            tls,
            unquote(parts.username) if parts.username else username,
            unquote(parts.password) if parts.password else password,
        )


class NetworkLink:
    """`async with link.running(receive)`: connects in the background, and again whenever the connection is lost."""

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        topic_filters: tuple[tuple[str, int], ...],
        *,
        stored_session: bool = True,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.last_fault: str | None = None
        self._address = address
        self._filters = topic_filters
        self._connect = Connect(
            client_id, not stored_session, KEEP_ALIVE_S, None, address.username, address.password.encode()
        )
        self._connect_timeout_s = connect_timeout_s
        self._receive: Receive | None = None
        self._wire: _Wire | None = None
        self._ready = asyncio.Event()
        self._last_id = 0
        self._unconfirmed: dict[int, Publish] = {}  # in the order in which they were published

    @asynccontextmanager
    async def running(self, receive: Receive) -> AsyncIterator[Self]:
        """Connected as far as the broker can be reached; `receive` is called for each message."""
        self._receive = receive
        connecting = asyncio.create_task(self._stay_connected(), name="mqtt-link")
        try:
            yield self
        finally:
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await connecting

    @property
    def connected(self) -> bool:
        return self._ready.is_set()

    async def wait_connected(self, timeout_s: float) -> bool:
        """Whether the broker has accepted us and granted every subscription within that time."""
        try:
            await asyncio.wait_for(self._ready.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def publish(self, topic: str, payload: bytes) -> None:
        wire = self._wire
        if wire is None or not self.connected or len(self._unconfirmed) >= MOST_UNCONFIRMED:
            raise NotConnected
        packet = Publish(topic, payload, 1, packet_id=self._next_id())
        wire.send(packet)
        self._unconfirmed[packet.packet_id] = packet

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % MAX_PACKET_ID + 1
            if self._last_id not in self._unconfirmed:
                return self._last_id

    # --- the connection ----------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        pause_s = FIRST_RECONNECT_PAUSE_S
        while True:
            try:
                async with self._connection() as wire:
                    pause_s = FIRST_RECONNECT_PAUSE_S
                    await self._until_lost(wire)
            except (OSError, TimeoutError, _Refused) as error:
                self._say_once(error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RECONNECT_PAUSE_S)

    @asynccontextmanager
    async def _connection(self) -> "AsyncIterator[_Wire]":
        """Let in, everything subscribed. Raises OSError, TimeoutError or _Refused."""
        loop, address = asyncio.get_running_loop(), self._address
        wire: _Wire | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, wire = await loop.create_connection(
                    lambda: _Wire(self._take),
                    address.host,
                    address.port,
                    ssl=ssl.create_default_context() if address.tls else None,
                )
                self._wire = wire
                await self._enter(wire)
            self.last_fault = None
            self._ready.set()
            log.info("connected to the MQTT broker", host=address.host, port=address.port)
            yield wire
        finally:
            self._ready.clear()
            self._wire = None
            if wire is not None:
                await wire.leave()

    async def _enter(self, wire: "_Wire") -> None:
        accepted = await wire.ask(self._connect)
        if not isinstance(accepted, Connack) or accepted.code:
            reason = _REFUSALS.get(accepted.code) if isinstance(accepted, Connack) else None
            raise _Refused(f"login refused: {reason or accepted}")
        for packet in self._unconfirmed.values():  # in the order in which they were first sent [MQTT-4.6.0-1]
            wire.send(Publish(packet.topic, packet.payload, 1, dup=True, packet_id=packet.packet_id))
        if not self._filters:
            return
        granted = await wire.ask(Subscribe(self._next_id(), self._filters))
        codes = granted.codes if isinstance(granted, Suback) else ()
        refused = [name for (name, _), code in zip(self._filters, codes, strict=True) if code == FAILURE]
        if refused:
            raise _Refused(f"subscription refused: {', '.join(refused)}; check the hub's rights there")

    async def _until_lost(self, wire: "_Wire") -> None:
        while not wire.lost.done():
            heard = wire.heard
            wire.send(Pingreq())
            await asyncio.wait({wire.lost}, timeout=PING_EVERY_S)
            if wire.heard == heard and not wire.holds_back and not wire.lost.done():
                wire.lose("it does not answer any more")
        log.warning("connection to the MQTT broker lost", host=self._address.host, reason=wire.lost.result())

    def _say_once(self, error: Exception) -> None:
        """Why there is no connection: once, not at every try."""
        why = str(error) or "no answer in time"
        fault = why if isinstance(error, _Refused) else f"it cannot be reached: {why}"
        if fault != self.last_fault:
            log.error("no connection to the MQTT broker; the hub goes on trying", host=self._address.host, reason=fault)
        self.last_fault = fault

    # --- what comes --------------------------------------------------------------------------------------------

    def _take(self, wire: "_Wire", packet: Publish | Puback) -> None:
        if isinstance(packet, Puback):
            self._unconfirmed.pop(packet.packet_id, None)
            return
        assert self._receive is not None
        acknowledge = partial(wire.finish, packet)
        try:
            self._receive(Message(packet.topic, packet.payload, packet.retain, wire.read_at_s, acknowledge))
        except Exception:
            log.exception("a message could not be handed over", topic=packet.topic)
            if not packet.qos:  # one of QoS 1 comes again with the next connection
                acknowledge()


class _Wire(asyncio.Protocol):
    """One connection. What is sent within one turn of the event loop leaves in one write.

    lost: why it ended. heard: how often something was read, the last time at `read_at_s`.
    """

    def __init__(self, take: "Callable[[_Wire, Publish | Puback], None]") -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard = 0
        self.read_at_s = 0.0
        self.holds_back = False
        self._take = take
        self._decoder = Decoder()
        self._answer: asyncio.Future[Packet] | None = None
        self._out: list[bytes] = []
        self._unfinished = 0

    async def ask(self, packet: Connect | Subscribe) -> Packet:
        """The answer. Raises ConnectionResetError if the connection ends instead."""
        self._answer = asyncio.get_running_loop().create_future()
        self.send(packet)
        ends: set[asyncio.Future[Any]] = {self._answer, self.lost}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise ConnectionResetError(self.lost.result())
        return self._answer.result()

    def send(self, packet: Packet) -> None:
        data = encode(packet)
        if not self._out:
            asyncio.get_running_loop().call_soon(self._write)
        self._out.append(data)

    def _write(self) -> None:
        if self._out and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def finish(self, packet: Publish) -> None:
        """A message that came here was taken in."""
        self._unfinished -= 1
        if self.lost.done() or self._transport.is_closing():
            return  # the broker will send it again; over another connection this would answer nothing
        if packet.qos:
            self.send(Puback(packet.packet_id))
        if self.holds_back and self._unfinished <= MOST_UNFINISHED // 2:
            self.holds_back = False
            self._transport.resume_reading()

    def lose(self, reason: str) -> None:
        """Give the connection up."""
        if not self.lost.done():
            self.lost.set_result(reason)
        self._transport.abort()

    async def leave(self) -> None:
        """Say goodbye, if there is still somebody to say it to."""
        if not self.lost.done():
            self.send(Disconnect())
            self._write()
            self._transport.close()
            await asyncio.wait({self.lost}, timeout=LEAVES_WITHIN_S)
        self._transport.abort()

    # --- asyncio's protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass

    def data_received(self, data: bytes) -> None:
        self.heard += 1
        self.read_at_s = time.monotonic()
        try:
            packets = self._decoder.feed(data)
        except MalformedPacket as malformed:
            self.lose(f"it does not speak MQTT 3.1.1: {malformed}")
            return
        for packet in packets:
            self._receive(packet)

    def _receive(self, packet: Packet) -> None:
        match packet:
            case Publish(qos=0 | 1):
                self._unfinished += 1
                if self._unfinished >= MOST_UNFINISHED and not self.holds_back:
                    self.holds_back = True
                    self._transport.pause_reading()
                self._take(self, packet)
            case Puback():
                self._take(self, packet)
            case Connack() | Suback() if self._answer is not None and not self._answer.done():
                self._answer.set_result(packet)
            case Publish():
                self.lose("it sends at QoS 2, which nobody subscribed to")
            case _:
                pass  # a PINGRESP: that something was heard is all that counts

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(str(error) if error is not None else "it was closed")
