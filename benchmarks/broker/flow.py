"""The generator of a flow: one publisher, one subscriber, a window of messages on their way, as fast as they go.

Publisher and subscriber are two connections of this process, which needs less than a core for them (see frames.py).
A message is on its way until it has arrived and, at QoS 1, its publisher has its acknowledgement too.
Each line on stdin is a `FlowOrder`, each line on stdout a `Measured`.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.broker.frames import PUBACK_BYTES, Arrivals, Unexpected, pubacks, publishes
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds
from benchmarks.mqtt import MqttClient
from hub.protocol.packets import Connect

TOPIC: Final = "bench/flow"
PAYLOAD: Final = b"p" * 100
WINDOW: Final = 100
_WOKEN_BY_FRAMES: Final = 10
"""A read begins when so many packets are there. mosquitto writes each packet by itself; woken by each, this process
would give it little at a time, and with 10 it passes on a third more than with 1. More than half of the 20 messages
that a broker has in flight could keep one waiting."""


@dataclass(frozen=True, slots=True)
class FlowOrder:
    port: int
    qos: int
    seconds: float


class Wire(asyncio.Protocol):
    """A connection's bytes as they come; an exception and the connection's end are told alike."""

    def __init__(self, take: Callable[[bytes], None], fail: Callable[[str], None]) -> None:
        self._take = take
        self._fail = fail

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except Unexpected as unexpected:
            self._fail(str(unexpected))

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"connection lost: {error}")


class Flow:
    """The messages of one round. `done` is set when the last one is through, or when something is wrong."""

    def __init__(self, tally: Tally, qos: int, publisher: MqttClient, subscriber: MqttClient) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._outgoing = publishes(TOPIC, PAYLOAD, qos, WINDOW)
        self._arriving = Arrivals(TOPIC, PAYLOAD)
        self._due = pubacks(WINDOW) if qos else publishes(TOPIC, PAYLOAD, 0, WINDOW)
        self._ending = False
        self._sent = self._arrived = self._acknowledged = 0
        take = self._take_qos_1 if qos else self._take_qos_0
        self._subscriber = subscriber.hand_over(Wire(take, self._fail))
        self._publisher = publisher.hand_over(Wire(self._take_acknowledgements, self._fail))
        wake_at(self._subscriber, _WOKEN_BY_FRAMES * self._outgoing.frame_bytes)
        wake_at(self._publisher, _WOKEN_BY_FRAMES * PUBACK_BYTES)

    def go_on(self) -> None:
        """Fill the window."""
        on_the_way = self._sent - min(self._arrived, self._acknowledged)
        if self._tally.goes_on():
            self._publisher.write(self._outgoing.take(WINDOW - on_the_way))
            self._sent += WINDOW - on_the_way
            return
        if not self._ending:
            self._ending = True
            wake_at(self._subscriber, 1)
            wake_at(self._publisher, 1)
        if not on_the_way and not self.done.done():
            self.done.set_result(None)

    def _take_qos_0(self, data: bytes) -> None:
        arrived = self._due.expect(data)
        self._arrived += arrived
        self._acknowledged += arrived
        self._tally.add(arrived)
        self.go_on()

    def _take_qos_1(self, data: bytes) -> None:
        arrived, answer = self._arriving.take(data)
        self._subscriber.write(answer)
        self._arrived += arrived
        self._tally.add(arrived)
        self.go_on()

    def _take_acknowledgements(self, data: bytes) -> None:
        self._acknowledged += self._due.expect(data)
        self.go_on()

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self._tally.failed(why)
            self.done.set_result(None)

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._publisher.close()
        self._subscriber.close()


def wake_at(transport: asyncio.Transport, count: int) -> None:
    """Have the transport read when so many bytes are there."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)


async def measure(order: FlowOrder) -> Measured:
    tally = Tally(order.seconds)
    subscriber = await MqttClient.open(order.port, Connect("bench-subscriber"))
    await subscriber.subscribe(TOPIC, qos=order.qos)
    publisher = await MqttClient.open(order.port, Connect("bench-publisher"))
    flow = Flow(tally, order.qos, publisher, subscriber)
    tally.begin()
    flow.go_on()
    await asyncio.wait({flow.done}, timeout=order.seconds + LAST_ANSWERS_WITHIN_S)
    if not flow.done.done():
        tally.failed("not every message has arrived")
    flow.end()
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(FlowOrder, measure)
