"""The generator of a crowd: clients that connect as fast as they go, each with a filter of its own, and stay.

The first line on stdin is a `CrowdOrder`. The generator leaves a retained message for everybody and says "ready"; told
to go on by any second line, it lets everybody in and says a `Measured` of connections. They stay until it is ended.
"""

import asyncio
import json
import ssl
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, cast

import uvloop

from benchmarks.load import LAST_ANSWERS_WITHIN_S, Tally
from benchmarks.mqtt import HOST, MqttClient
from hub.protocol.packets import Connack, Connect, Publish, Suback, Subscribe, encode

AT_ONCE: Final = 100
"""Clients on their way in at one time: as many as mosquitto lets wait to be accepted."""
STATE: Final = b'{"online":true}'
_UPGRADE: Final = (
    b"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
_BINARY: Final = 0x82
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)


@dataclass(frozen=True, slots=True)
class CrowdOrder:
    """How many come, and where.

    port: where they come in. mqtt_port: plain MQTT of the same broker, for what is retained.
    certificate: a file with what TLS trusts, None for no TLS. web: over WebSocket.
    """

    clients: int
    port: int
    mqtt_port: int
    certificate: str | None = None
    web: bool = False


class Visitor(asyncio.Protocol):
    """A client on its way in; `inside` is set when it has its session, its subscription and its retained message."""

    def __init__(self, number: int) -> None:
        self.inside: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        topic = topic_of(number)
        granted, retained = encode(Suback(1, (0,))), encode(Publish(topic, STATE, retain=True))
        self._dialogue = [
            (encode(Connect(f"crowd-{number}")), (encode(Connack()),)),
            # A message may come before the SUBACK: section 3.8.4.
            (encode(Subscribe(1, ((topic, 0),))), (granted + retained, retained + granted)),
        ]
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass
        self.begin()

    def begin(self) -> None:
        self.write(self._dialogue[0][0])

    def write(self, packet: bytes) -> None:
        self.transport.write(packet)

    def data_received(self, data: bytes) -> None:
        self.take(data)

    def take(self, data: bytes) -> None:
        """Bytes of MQTT."""
        self._received += data
        _, answers = self._dialogue[0]
        if len(self._received) < len(answers[0]):
            return
        if self._received not in answers:
            self.fail(f"{self._received!r} instead of {answers[0]!r}")
            return
        self._received = b""
        del self._dialogue[0]
        if self._dialogue:
            self.begin()
        else:
            self.inside.set_result(None)

    def fail(self, why: str) -> None:
        if not self.inside.done():
            self.inside.set_exception(ConnectionError(why))

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(f"the broker closed the connection: {error}")


class WebVisitor(Visitor):
    """The same over WebSocket, as far as short frames go."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._upgraded = False
        self._raw = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(_UPGRADE)

    def write(self, packet: bytes) -> None:
        self.transport.write(bytes((_BINARY, _MASKED | len(packet))) + _NO_MASK + packet)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self._upgraded:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self.fail(head.decode(errors="replace"))
                return
            self._upgraded, self._raw = True, rest
            self.begin()
        while len(self._raw) > 1 and len(self._raw) >= (end_at := 2 + self._raw[1]):
            payload, self._raw = self._raw[2:end_at], self._raw[end_at:]
            self.take(payload)


def topic_of(number: int) -> str:
    return f"crowd/{number}/state"


async def leave_messages(port: int, clients: int) -> None:
    """Have a retained message kept for each."""
    client = await MqttClient.open(port, Connect("crowd-messages"))
    for number in range(clients):
        client.publish(topic_of(number), STATE, retain=True)
    await client.subscribe("crowd/none")  # answered when all before it is done [MQTT-4.6.0-2]
    client.close()


async def come_in(order: CrowdOrder, tally: Tally) -> list[Visitor]:
    """Everybody, `AT_ONCE` at one time."""
    context = None if order.certificate is None else ssl.create_default_context(cafile=order.certificate)
    visitors: list[Visitor] = []
    numbers = iter(range(order.clients))
    make = WebVisitor if order.web else Visitor

    async def let_in() -> None:
        loop = asyncio.get_running_loop()
        for number in numbers:
            began_at_s = loop.time()
            try:
                _, visitor = await loop.create_connection(partial(make, number), HOST, order.port, ssl=context)
                await asyncio.wait_for(visitor.inside, LAST_ANSWERS_WITHIN_S)
            except (OSError, TimeoutError) as error:
                tally.failed(f"client {number}: {error!r}")
                continue
            visitors.append(visitor)
            tally.answered(began_at_s)

    await asyncio.gather(*(let_in() for _ in range(AT_ONCE)))
    return visitors


async def stay(order: CrowdOrder) -> None:
    await leave_messages(order.mqtt_port, order.clients)
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    tally = Tally(0)
    visitors = await come_in(order, tally)
    print(json.dumps(asdict(tally.measured())), flush=True)
    await asyncio.Event().wait()
    visitors.clear()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stay(CrowdOrder(**json.loads(sys.stdin.readline()))))
