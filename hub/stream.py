"""The live stream: what happens, in one Redis stream that every hub process writes and reads.

One reader per process hands the entries to its listeners, while there are any; a listener that comes back with the last
id it saw is first given what it missed, as far as the stream still holds it. A listener that falls behind is let go,
and comes back.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from pydantic_core import from_json, to_json
from redis.exceptions import RedisError

from hub.models import JsonObject
from hub.quiet_log import QuietLines
from hub.store import Store, StoreUnreachable
from hub.tasks import GoingOn

STREAM_KEY: Final = "{fh}:stream"
LISTENER_BACKLOG: Final = 1000
_READ_BLOCK_MS: Final = 1000
_READ_COUNT: Final = 500
_PAUSE_AFTER_FAULT_S: Final = 0.5


class StreamEnded(Exception):
    """The hub is stopping, or the listener fell behind too far; it may come back with its last id."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened. kind: liveness, command, state, event, two-desktops, rollout."""

    id: str
    kind: str
    site: str
    data: JsonObject


@dataclass(eq=False, slots=True)
class _Listener:
    backlog: deque[Entry] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def woken(self) -> None:
        """Wait until something was handed over. Raises StreamEnded once it was let go."""
        if self.ended:
            raise StreamEnded
        self.arrived.clear()
        await self.arrived.wait()


class LiveStream:
    """`async with LiveStream(store, keep_events) as stream`. `keep_events`: about how many entries Redis keeps."""

    def __init__(self, store: Store, keep_events: int) -> None:
        self._store = store
        self._keep_events = keep_events
        self._listeners: set[_Listener] = set()
        self._lines = QuietLines()
        self._reading_on = GoingOn(self._read, "live-stream")
        self._reader: asyncio.Task[None] | None = None
        self._reading = False
        self._wanted = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._lines.__aenter__()
        self._reader = await self._reading_on.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lines.__aexit__(kind, error, trace)
        self.end_listeners()
        # redis-py now and then loses a cancellation in the middle of a blocking read.
        while self._reader is not None and not self._reader.done():
            self._reader.cancel()
            await asyncio.wait({self._reader}, timeout=0.1)
        await self._reading_on.__aexit__(kind, error, trace)

    def end_listeners(self) -> None:
        """Let every listener go: the hub stops."""
        for listener in list(self._listeners):
            self._let_go(listener)

    def publish(self, kind: str, site: str, data: JsonObject) -> None:
        """Tell every listener of every hub process. While Redis is away nobody can be told; that is logged."""
        told = self._store.call(
            *("XADD", STREAM_KEY, "MAXLEN", "~", self._keep_events, "*"),
            *("kind", kind, "site", site, "data", to_json(data)),
        )
        told.add_done_callback(functools.partial(self._log_loss, kind, site))

    def _log_loss(self, kind: str, site: str, told: asyncio.Future[Any]) -> None:
        if not told.cancelled() and (error := told.exception()) is not None:
            self._lines.warning("live stream entry lost", site, kind=kind, site=site, reason=str(error))

    async def follow(self, after: str | None = None) -> AsyncGenerator[Entry, None]:
        """Entries as they come; first those after the given id that are still kept.

        Raises StreamEnded, or StoreUnreachable where what was missed cannot be read now.
        """
        listener = _Listener()
        self._listeners.add(listener)
        self._wanted.set()
        last = after
        try:
            while not self._reading:  # what comes after the first read is handed over; only then ask what was missed
                await listener.woken()
            if after is not None:
                for entry in await self._missed(after):
                    last = entry.id
                    yield entry
            while True:
                while listener.backlog:
                    entry = listener.backlog.popleft()
                    if last is None or _order(entry.id) > _order(last):
                        yield entry
                await listener.woken()
        finally:
            self._listeners.discard(listener)

    async def _missed(self, after: str) -> list[Entry]:
        reply = await self._store.call("XRANGE", STREAM_KEY, f"({after}", "+")
        return [_entry(item) for item in reply]

    async def _read(self) -> None:
        last: str | None = None
        lost_sight = True
        while True:
            if not self._listeners:
                self._reading, last, lost_sight = False, None, True
                self._wanted.clear()
                await self._wanted.wait()
            try:
                if lost_sight:
                    last = await self._where_to_go_on(last)
                    lost_sight = False
                    self._reading = True
                    self._wake_all()
                assert last is not None
                reply = await self._store.redis.xread({STREAM_KEY: last}, _READ_COUNT, _READ_BLOCK_MS)
            except (StoreUnreachable, RedisError, OSError):
                lost_sight = True
                await asyncio.sleep(_PAUSE_AFTER_FAULT_S)
                continue
            for item in _arrived(reply):
                entry = _entry(item)
                last = entry.id
                for listener in list(self._listeners):
                    self._hand(listener, entry)

    async def _where_to_go_on(self, last: str | None) -> str:
        """After the newest entry at first; later after the last one seen, unless Redis came back with older ids."""
        # In the order of this process's calls, so that what it publishes from now on comes after it.
        newest = await self._store.call("XREVRANGE", STREAM_KEY, "+", "-", "COUNT", 1)
        newest_id = _entry(newest[0]).id if newest else "0-0"
        if last is None:
            return newest_id
        return last if _order(newest_id) >= _order(last) else "0-0"

    def _hand(self, listener: _Listener, entry: Entry) -> None:
        listener.backlog.append(entry)
        listener.arrived.set()
        if len(listener.backlog) > LISTENER_BACKLOG:
            self._let_go(listener)

    def _wake_all(self) -> None:
        for listener in self._listeners:
            listener.arrived.set()

    def _let_go(self, listener: _Listener) -> None:
        self._listeners.discard(listener)
        listener.ended = True
        listener.arrived.set()


def is_entry_id(text: str) -> bool:
    """Whether the text has the form of an entry's id: two numbers of 64 bits, the highest of which no entry has."""
    ms, dash, n = text.partition("-")
    is_form = bool(dash) and text.isascii() and ms.isdecimal() and n.isdecimal() and len(text) <= 41
    return is_form and max(_order(text)) < 2**64 - 1


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, n = entry_id.partition("-")
    return int(ms), int(n)


def _arrived(reply: Any) -> list[Any]:
    """XREAD answers [[stream, entries]], or nothing within its time."""
    return list(reply[0][1]) if reply else []


def _entry(item: Any) -> Entry:
    entry_id, fields = item
    return Entry(entry_id, fields["kind"], fields["site"], from_json(fields["data"]))
