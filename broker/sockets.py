"""amqtt's adapters for TCP and WebSocket, made to read what is there, to write at once and to end at once."""

import asyncio
import socket
from abc import abstractmethod
from contextlib import suppress
from typing import Final

from amqtt.adapters import (
    ReaderAdapter,
    StreamReaderAdapter,
    StreamWriterAdapter,
    WebSocketsReader,
    WebSocketsWriter,
    WriterAdapter,
)
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from hub.protocol.packets import MalformedPacket

CHUNK_BYTES: Final = 65_536


class Reader(ReaderAdapter):
    """Gives bytes as they come."""

    @abstractmethod
    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        """Between 1 and n bytes (a WebSocket: one frame, however long); b"" at the end. Raises OSError."""


class Writer(WriterAdapter):
    """Takes bytes without waiting; whoever writes watches `buffered_bytes`."""

    @property
    @abstractmethod
    def buffered_bytes(self) -> int:
        """Bytes that the peer's side of the network has not taken yet."""

    @abstractmethod
    def finish(self) -> None:
        """Close when what is buffered has been sent; no reading any more."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, whatever is buffered."""


class TcpReader(StreamReaderAdapter, Reader):
    """A stream's bytes; TLS too."""

    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        return await self._reader.read(n)


class TcpWriter(StreamWriterAdapter, Writer):
    """A stream's transport; TLS too."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._transport = writer.transport
        # Small packets go out at once, not when the last one is acknowledged (40 ms later).
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    @property
    def buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def finish(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    async def close(self) -> None:
        self._transport.close()
        with suppress(OSError):  # how the peer went is told by the reader
            await self._writer.wait_closed()


class WsReader(WebSocketsReader, Reader):
    """The bytes of binary frames, which need not be cut where packets are [MQTT-6.0.0-2]."""

    async def read(self, n: int = CHUNK_BYTES) -> bytes:  # noqa: ARG002 - a frame comes whole
        try:
            while True:
                frame = await self._protocol.recv()
                if isinstance(frame, str):
                    raise MalformedPacket("MQTT-6.0.0-1", "a WebSocket frame that is not binary")
                if frame:  # an empty one is allowed, and says nothing
                    return frame
        except ConnectionClosed:
            return b""


class WsWriter(WebSocketsWriter, Writer):
    """Binary frames, one for each write."""

    def __init__(self, connection: ServerConnection) -> None:
        super().__init__(connection)
        self._connection = connection

    def write(self, data: bytes) -> None:
        if self._connection.protocol.state is State.OPEN:
            self._connection.protocol.send_binary(data)
            self._connection.send_data()

    @property
    def buffered_bytes(self) -> int:
        return self._connection.transport.get_write_buffer_size()

    def finish(self) -> None:
        if self._connection.protocol.state is State.OPEN:
            self._connection.protocol.send_close()
            self._connection.send_data()

    def abort(self) -> None:
        self._connection.transport.abort()
