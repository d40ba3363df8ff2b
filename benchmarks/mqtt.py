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
    """One connection, QoS 1 both ways. `lost` is set when it ends."""

    def __init__(self, on_message: Callable[[Publish], None]) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._decoder = Decoder()
        self._last_id = 0
        self._answer: asyncio.Future[Packet] | None = None

    @classmethod
    async def open(
        cls, port: int, connect: Connect, filters: tuple[str, ...], on_message: Callable[[Publish], None]
    ) -> Self:
        """Connected and subscribed. Raises ConnectionError, TimeoutError."""
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(partial(cls, on_message), HOST, port)
        await client.log_in(connect, filters)
        return client

    async def log_in(self, connect: Connect, filters: tuple[str, ...]) -> None:
        accepted = await self._ask(connect)
        if not isinstance(accepted, Connack) or accepted.code:
            raise ConnectionRefusedError(f"the broker refuses {connect.client_id}: {accepted}")
        granted = await self._ask(Subscribe(self._next_id(), tuple((name, 1) for name in filters)))
        if not isinstance(granted, Suback) or FAILURE in granted.codes:
            raise ConnectionRefusedError(f"the broker refuses a subscription of {connect.client_id}: {granted}")

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._transport.write(encode(Publish(topic, payload, 1, retain, packet_id=self._next_id())))

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
