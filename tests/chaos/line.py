"""A line between two parts that can be cut, slowed down, or made to swallow what is sent: a small TCP proxy."""

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Final, Protocol, Self

_CHUNK_BYTES: Final = 65536
_MOST_WAITING: Final = 1000
_CONNECT_WITHIN_S: Final = 2.0


class Way(StrEnum):
    """`UP` is from who connected to who listens."""

    UP = "up"
    DOWN = "down"


class Tap(Protocol):
    """Sees what one connection carries in one direction, when it is handed on, and its end."""

    def feed(self, data: bytes) -> None: ...

    def ended(self) -> None: ...


class Line:
    """`async with Line(port) as line`: listens on `line.port` and carries everything to that port, until it is told.

    tap: called with the way for each connection; what it returns sees what goes that way.
    """

    def __init__(self, to_port: Callable[[], int], tap: Callable[[Way], Tap | None] = lambda _: None) -> None:
        self.port = 0
        self.is_cut = False
        self.delay_s = 0.0
        self.swallows: frozenset[Way] = frozenset()
        self._to_port = to_port
        self._tap = tap
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def cut(self) -> None:
        """End every connection, and refuse new ones until `heal`."""
        self.is_cut = True
        for connection in list(self._connections):
            connection.abort()

    def slow(self, delay_s: float) -> None:
        """Carry everything so much later, in both directions, until `heal`."""
        self.delay_s = delay_s

    def swallow(self, *ways: Way) -> None:
        """Take what comes that way and hand on nothing of it, as a dead router does, until `heal`."""
        self.swallows = frozenset(ways)

    def heal(self) -> None:
        """Carry everything at once again. A connection that lost something of its stream is of no use any more."""
        self.is_cut, self.delay_s, self.swallows = False, 0.0, frozenset()
        for connection in list(self._connections):
            if connection.is_torn:
                connection.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        finally:
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            async with asyncio.timeout(_CONNECT_WITHIN_S):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port())
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        seen = {way: self._tap(way) for way in Way}
        connection = _Connection([tap for tap in seen.values() if tap is not None], writer, far_writer)
        self._connections.add(connection)
        try:
            ways = ((Way.UP, reader, far_writer), (Way.DOWN, far_reader, writer))
            flows = [asyncio.ensure_future(_Flow(self, connection, *way).run(seen[way[0]])) for way in ways]
            # When either side hangs up, what the other still says goes nowhere.
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            for flow in flows:
                flow.cancel()
            await asyncio.wait(flows)
        finally:
            self._connections.discard(connection)
            connection.abort()


class _Connection:
    """is_torn: something of it was swallowed."""

    def __init__(self, taps: list[Tap], *writers: asyncio.StreamWriter) -> None:
        self.is_torn = False
        self._taps = taps
        self._writers = writers

    def abort(self) -> None:
        for tap in self._taps:  # before either side can act on it
            tap.ended()
        for writer in self._writers:
            writer.transport.abort()


class _Flow:
    """One direction of a connection: read at once, handed on in order when it is due."""

    def __init__(
        self, line: Line, connection: _Connection, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        self._line, self._connection, self._way = line, connection, way
        self._source, self._sink = source, sink
        self._waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_WAITING)

    async def run(self, tap: Tap | None) -> None:
        reading = asyncio.ensure_future(self._read())
        try:
            with contextlib.suppress(OSError):
                await self._hand_on(tap)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data = b"."
        while data:
            try:
                data = await self._source.read(_CHUNK_BYTES)
            except OSError:
                data = b""
            await self._waiting.put((loop.time() + self._line.delay_s, data))

    async def _hand_on(self, tap: Tap | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await self._waiting.get()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if self._way in self._line.swallows:
                self._connection.is_torn = True  # its end too: the other side hears nothing of it
                if not data:
                    await loop.create_future()  # until `heal` aborts the connection
                continue
            if not data or self._sink.is_closing():
                return
            self._sink.write(data)
            await self._sink.drain()
            if tap is not None:
                tap.feed(data)
