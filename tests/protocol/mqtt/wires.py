"""Network connections for the cases: a stream of bytes over TCP, or over WebSocket."""

import asyncio
import socket
import struct
import time
from abc import ABC, abstractmethod
from typing import Final, Self

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

WAIT_S: Final = 5.0
"""Longest wait for anything that must come."""


class Wire(ABC):
    """A connection to the broker. `port` is the one to connect to."""

    transport: asyncio.WriteTransport

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected = False
        """A CONNACK of 0 has come."""
        self.sent_at = time.monotonic()
        """When the last bytes began to be sent."""
        self.unread = b""
        """What has come and was not taken yet."""

    @abstractmethod
    async def open(self) -> Self: ...

    async def send(self, *pieces: bytes) -> None:
        """Send each piece by itself."""
        self.sent_at = time.monotonic()
        for piece in pieces:
            await self._write(piece)

    async def take(self, count: int) -> bytes:
        """The next bytes: as many as asked for, or fewer if the connection ends before."""
        async with asyncio.timeout(WAIT_S):
            while len(self.unread) < count and (data := await self._read()):
                self.unread += data
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def finish(self) -> None:
        """Send no more, and say so to the other side."""
        self.transport.write_eof()

    def reset(self) -> None:
        """End the connection as a failure of the network does."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()

    @abstractmethod
    async def _write(self, piece: bytes) -> None: ...

    @abstractmethod
    async def _read(self) -> bytes:
        """At least one byte, or b"" when the broker has ended the connection."""


class TcpWire(Wire):
    """Pieces are segments, as far as a stream has any."""

    async def open(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.transport = self._writer.transport
        return self

    async def _write(self, piece: bytes) -> None:
        self.transport.write(piece)
        await asyncio.sleep(0)  # the broker may read it before the next one is there

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(65_536)
        except ConnectionError:
            return b""


class WebSocketWire(Wire):
    """Pieces are binary frames."""

    async def open(self) -> Self:
        self._connection = await connect(f"ws://127.0.0.1:{self.port}/mqtt", subprotocols=["mqtt"], max_size=None)
        self.transport = self._connection.transport
        assert self._connection.subprotocol == "mqtt"
        return self

    async def send_text(self, data: bytes) -> None:
        """Send a frame that is not binary."""
        await self._connection.send(data.decode())

    async def send_fragments(self, pieces: list[bytes]) -> None:
        """Send one message in as many frames."""
        await self._connection.send(pieces)

    async def _write(self, piece: bytes) -> None:
        await self._connection.send(piece)

    async def _read(self) -> bytes:
        try:
            frame = await self._connection.recv()
        except ConnectionClosed:
            return b""
        assert isinstance(frame, bytes), "MQTT comes in binary frames"
        return frame
