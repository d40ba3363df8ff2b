"""The hub's place inside the broker: a client with a stored session like any other, without a socket."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from broker.exchange import Exchange, Subscriber
from broker.guard import Client, Guard
from broker.pace import Paces
from broker.session import Limits
from hub.protocol.link import Message, NotConnected, Receive
from hub.protocol.packets import FAILURE, Packet, Publish, Suback, Subscribe

_log = logging.getLogger(__name__)

LIMITS: Final = Limits(in_flight=1_000, queued_messages=100_000, queued_bytes=64 * 1024 * 1024)
"""More than a desktop's: every site speaks to the hub, which acknowledges what its database has committed."""


class EmbeddedLink:
    """`async with link.running(receive)`: the broker's messages for these filters, QoS 0 and 1.

    A message of QoS 1 is kept until it is acknowledged, also while the process restarts; what was handed over and
    not acknowledged comes again at the next start.
    """

    def __init__(
        self, exchange: Exchange, guard: Guard, paces: Paces, client: Client, topic_filters: tuple[tuple[str, int], ...]
    ) -> None:
        self.last_fault: str | None = None
        self._exchange = exchange
        self._guard = guard
        self._paces = paces
        self._client = client
        self._filters = topic_filters
        self._receive: Receive | None = None
        self._subscriber: Subscriber | None = None
        self._run = 0  # counts the times that it entered: what was handed over in an earlier one comes again
        self._unacknowledged = 0  # messages of this run that the hub has not done with, of any QoS
        self._arrived: deque[tuple[Publish, float]] = deque()

    @asynccontextmanager
    async def running(self, receive: Receive) -> AsyncIterator[Self]:
        """In the broker from here to the end of the block; `receive` is called in the event loop, in order."""
        self._receive = receive
        self._enter()
        try:
            yield self
        finally:
            self._receive = None
            if self._subscriber is not None:
                self._leave(self._subscriber)

    def _leave(self, subscriber: Subscriber) -> None:
        self._subscriber = None
        self._arrived.clear()
        self._exchange.leave(subscriber)
        self._paces.count_anew(())

    def _enter(self) -> None:
        self._run += 1
        self._unacknowledged = 0
        subscriber, _ = self._exchange.enter(self._client, self, clean=False, limits=LIMITS)
        self._paces.count_anew(subscriber.session.messages())
        subscriber.paces = self._paces
        self._subscriber = subscriber
        self._exchange.resume(subscriber)
        self._exchange.subscribe(subscriber, Subscribe(1, self._filters))

    @property
    def connected(self) -> bool:
        return self._subscriber is not None and self.last_fault is None

    async def wait_connected(self, timeout_s: float) -> bool:  # noqa: ARG002 - it is, or never will be
        return self.connected

    def publish(self, topic: str, payload: bytes) -> None:
        if not self.connected:
            raise NotConnected
        if self._guard.may_publish(self._client, topic, retain=False):
            self._exchange.publish(Publish(topic, payload, 1), self._client.identity.name)

    # --- the broker's side: broker.exchange.Outlet -------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """So many are with the hub that more wait in the session, whose bounds hold for QoS 0 too."""
        return self._unacknowledged >= LIMITS.in_flight

    def send(self, packet: Packet, after: int = 0) -> None:  # noqa: ARG002 - a QoS 1 message need not wait for the disk
        match packet:
            case Publish():
                # Not from within the routing: whoever receives may publish in turn.
                if not self._arrived:
                    asyncio.get_running_loop().call_soon(self._hand_over)
                self._unacknowledged += 1
                self._arrived.append((packet, time.monotonic()))
            case Suback(codes=codes) if FAILURE in codes:
                refused = [name for (name, _), code in zip(self._filters, codes, strict=True) if code == FAILURE]
                self.last_fault = f"subscription refused: {', '.join(refused)}"
                _log.error("the broker does not let %s subscribe to %s", self._client.client_id, refused)

    def end(self, reason: str) -> None:
        """It was put out, as nobody else has this client id only for a fault; it does not come again."""
        if self._subscriber is not None:
            _log.error("the hub is put out of its broker: %s", reason)
            self.last_fault = f"put out: {reason}"
            self._leave(self._subscriber)

    def end_soon(self, reason: str) -> None:
        """Its session overflowed. It comes again at once, as a client would, and finds a new one."""
        full = self._subscriber

        def begin_anew() -> None:
            if full is not None and full is self._subscriber:
                _log.error("the hub begins anew in its broker, and has lost messages: %s", reason)
                self._leave(full)
                self._enter()

        asyncio.get_running_loop().call_soon(begin_anew)

    # --- the hub's side ----------------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        while self._arrived and self._receive is not None:
            packet, arrived_at_s = self._arrived.popleft()
            acknowledge = partial(self._acknowledge, self._run, packet)
            try:
                self._receive(Message(packet.topic, packet.payload, packet.retain, arrived_at_s, acknowledge))
            except Exception:  # noqa: BLE001 - it is logged; the messages behind it are not at fault
                _log.exception("a message on %s could not be handed over", packet.topic)
                if not packet.qos:  # one of QoS 1 stays for the next start
                    acknowledge()

    def _acknowledge(self, run: int, packet: Publish) -> None:
        subscriber = self._subscriber
        if subscriber is not None and run == self._run:
            self._unacknowledged -= 1
            self._paces.discount([packet])
            if packet.qos:
                subscriber.session.puback(packet.packet_id)
            self._exchange.send_ready(subscriber)
