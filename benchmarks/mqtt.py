"""A lean MQTT client on the product's codec, so that what is measured is the broker and not a client library."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Self, cast

from hub.protocol.packets import (
    FAILURE,
    MAX_PACKET_ID,
    Connack,
    Connect,
    Decoder,
    Packet,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
)

HOST: Final = "127.0.0.1"
_SET_UP_WITHIN_S: Final = 5.0


class MqttClient(asyncio.Protocol):
    """One connection, which publishes at QoS 1. `lost` is set when it ends."""

    def __init__(self, on_message: Callable[[Publish], None]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._decoder = Decoder()
        self._last_id = 0
        self._answer: asyncio.Future[Packet] | None = None

    @classmethod
    async def open(cls, port: int, connect: Connect, on_message: Callable[[Publish], None] = lambda _: None) -> Self:
        """Connected. Raises ConnectionError, TimeoutError."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(partial(cls, on_message), HOST, port)
        await client.connect(connect)
        return client

    async def connect(self, connect: Connect) -> None:
        """Raises ConnectionError, TimeoutError."""
        accepted = await self._ask(connect)
        if not isinstance(accepted, Connack) or accepted.code:
            raise ConnectionRefusedError(f"the broker refuses {connect.client_id}: {accepted}")

    async def subscribe(self, *filters: str, qos: int = 1) -> None:
        """Raises ConnectionError, TimeoutError."""
        granted = await self._ask(Subscribe(self._next_id(), tuple((name, qos) for name in filters)))
        if not isinstance(granted, Suback) or FAILURE in granted.codes:
            raise ConnectionRefusedError(f"the broker refuses a subscription to {', '.join(filters)}: {granted}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._transport.write(encode(Publish(topic, payload, 1, retain, packet_id=self._next_id())))

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let another protocol read from now on; returns what it writes to."""
        self._transport.set_protocol(protocol)
        return self._transport

    def close(self) -> None:
        self._transport.close()

    def _next_id(self) -> int:
        self._last_id = self._last_id % MAX_PACKET_ID + 1
        return self._last_id

    async def _ask(self, packet: Packet) -> Packet:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(encode(packet))
        return await asyncio.wait_for(self._answer, _SET_UP_WITHIN_S)

    # --- asyncio's protocol ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass

    def data_received(self, data: bytes) -> None:
        for packet in self._decoder.feed(data):
            match packet:
                case Publish(qos=1):
                    self._transport.write(encode(Puback(packet.packet_id)))
                    self._on_message(packet)
                case Publish():
                    self._on_message(packet)
                case Connack() | Suback() if self._answer is not None:
                    self._answer.set_result(packet)
                case _:
                    pass  # a PUBACK: nothing is sent again on this one connection

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(f"the broker closed the connection: {error}"))
        if not self.lost.done():
            self.lost.set_result(None)
