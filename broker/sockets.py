"""One client's way in and out: what a connection may ask of it, the TCP socket, and what layers on it share.

A reader gives bytes when it is asked; a writer takes them without waiting. amqtt's adapters are their bases.
"""

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, cast

from amqtt.adapters import ReaderAdapter, WriterAdapter

from broker.admission import Entry

CLOSING_S: Final = 1.0
"""Seconds that a peer has to take the last bytes of a connection that is being closed."""
CHUNK_BYTES: Final = 16_384
"""Bytes given out at a time: between two chunks everybody else has a turn."""
MOST_UNREAD_BYTES: Final = 65_536
"""Bytes received and not yet read; past it the peer has to wait."""
HIGH_WATER_BYTES: Final = 65_536


class Reader(ReaderAdapter):
    """Gives bytes as they come."""

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """The peer sends nothing more, or is gone; there may be bytes to read still."""

    @abstractmethod
    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        """At least one byte and, where the network gives no larger piece, at most n; b"" at the end.

        Raises OSError, and MalformedPacket for what no MQTT may come in.
        """

    def feed_eof(self) -> None:
        """amqtt's; the network tells the end itself."""


class Writer(WriterAdapter):
    """Takes bytes without waiting; whoever writes watches `paused` and `buffered_bytes`."""

    entry: Entry
    """The connection's place among all."""

    @property
    @abstractmethod
    def buffered_bytes(self) -> int:
        """Bytes that the peer's side of the network has not taken yet."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """More is buffered than the high-water mark; what can wait should, until it is writable again."""

    @abstractmethod
    def on_writable(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from the loop, each time `paused` ends. There is one: a later one replaces it."""

    @abstractmethod
    def finish(self) -> None:
        """Close when what is buffered has been sent; no reading any more."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once, whatever is buffered."""

    async def drain(self) -> None:
        """amqtt's; nobody waits for a peer here."""


class Socket(asyncio.Protocol, Reader, Writer):
    """A TCP connection.

    opened: called with it, and must not wait, as soon as it is there; nothing has been read yet.
    high_water_bytes: what may be buffered for the peer before `paused`; it ends at a quarter of that.
    """

    __slots__ = (
        "_closed",
        "_fault",
        "_high_water_bytes",
        "_loop",
        "_lost",
        "_more",
        "_on_writable",
        "_opened",
        "_over",
        "_paused",
        "_reading",
        "_received",
        "_transport",
        "entry",
    )

    def __init__(self, opened: Callable[["Socket"], None], high_water_bytes: int = HIGH_WATER_BYTES) -> None:
        self._opened = opened
        self._high_water_bytes = high_water_bytes
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = b""
        self._reading = True
        self._over = False  # the peer sends nothing more
        self._lost = False
        self._fault: Exception | None = None
        self._paused = False
        self._more: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] | None = None
        self._on_writable: Callable[[], None] | None = None

    # --- called by the loop ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._high_water_bytes)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        if self._reading and len(self._received) > MOST_UNREAD_BYTES:
            self._reading = False
            self._transport.pause_reading()
        _wake(self._more)

    def eof_received(self) -> bool:
        self._over = True
        _wake(self._more)
        return True  # it may still be waiting for answers

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = self._lost = True
        self._fault = exc
        self._on_writable = None
        _wake(self._more)
        _wake(self._closed)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._on_writable is not None:
            self._on_writable()

    # --- called by a connection -----------------------------------------------------------------------------

    async def read(self, n: int = CHUNK_BYTES) -> bytes:
        if self._received or self._over:
            await asyncio.sleep(0)  # a turn for everybody else, and for the answers to the chunk before
        else:
            self._more = self._loop.create_future()
            try:
                await self._more
            finally:
                self._more = None
        if not self._received:
            if self._fault is not None:
                raise self._fault
            return b""
        data, self._received = self._received[:n], self._received[n:]
        if not self._reading and not self._received and not self._lost:
            self._reading = True
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    @property
    def is_over(self) -> bool:
        return self._over

    @property
    def buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    @property
    def paused(self) -> bool:
        return self._paused

    def on_writable(self, callback: Callable[[], None]) -> None:
        self._on_writable = callback

    def finish(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    async def close(self) -> None:
        self._transport.close()
        if not self._lost:
            self._closed = self._loop.create_future()
            await self._closed

    def get_peer_info(self) -> tuple[str, int] | None:
        peer = self._transport.get_extra_info("peername")
        return None if peer is None else (peer[0], peer[1])

    def get_ssl_info(self) -> ssl.SSLObject | None:
        return None


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


class NotOpened(Exception):
    """The peer failed a layer's opening handshake, and was told so. `reason` is for counters."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Layer(Reader, Writer):
    """What speaks a protocol of its own over another reader and writer, once it is open."""

    def __init__(self, below: "Socket | Layer") -> None:
        self._below = below
        self.entry = below.entry

    @abstractmethod
    async def open(self) -> None:
        """The opening handshake. Raises NotOpened; EOFError and OSError if the peer is gone."""

    @property
    def is_over(self) -> bool:
        return self._below.is_over

    @property
    def buffered_bytes(self) -> int:
        return self._below.buffered_bytes

    @property
    def paused(self) -> bool:
        return self._below.paused

    def on_writable(self, callback: Callable[[], None]) -> None:
        self._below.on_writable(callback)

    def abort(self) -> None:
        self._below.abort()

    def get_peer_info(self) -> tuple[str, int] | None:
        return self._below.get_peer_info()

    def get_ssl_info(self) -> ssl.SSLObject | None:
        return self._below.get_ssl_info()
