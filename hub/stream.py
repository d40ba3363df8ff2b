"""The live stream: what happens, in one Redis stream that every hub process writes and reads.

One reader per process hands the entries to its listeners, while there are any; a listener that comes back with the last
id it saw is first given what it missed. Where that is not to be had any more it is told so, by an entry of kind `gap`:

- `not_kept`: what came after its id has left the stream meanwhile, which keeps about `keep_events`;
- `begun_anew`: its id is of another epoch. Redis was emptied or replaced, so the stream began again;
- `lost`: a hub process could not tell something, as Redis was away or the process was killed.

After a gap follows what is kept. Ids are `epoch-ms-n`; the epoch lives beside the stream, and a new one begins where
either is missing. A listener that falls behind is let go, and comes back.
"""

import asyncio
import functools
import re
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from pydantic_core import from_json, to_json
from redis.exceptions import RedisError

from hub.models import JsonObject
from hub.quiet_log import QuietLines
from hub.store import Store, StoreUnreachable
from hub.tasks import GoingOn

STREAM_KEY: Final = "{fh}:stream"
EPOCH_KEY: Final = "{fh}:stream-epoch"
WRITERS_KEY: Final = "{fh}:stream-writers"
GAP: Final = "gap"
LISTENER_BACKLOG: Final = 1000
LISTENER_BACKLOG_BYTES: Final = 1_048_576
_READ_BLOCK_MS: Final = 1000
_READ_COUNT: Final = 500
_PAUSE_AFTER_FAULT_S: Final = 0.5
_ID: Final = re.compile(r"(?:([0-9a-z]{1,32})-)?([0-9]{1,20})-([0-9]{1,20})")
_NO_ENTRYS_NUMBER: Final = 2**64 - 1
"""Two numbers of 64 bits, the highest of which no entry has."""
_HANDED_AT_A_TIME: Final = 50
_ROUND_S_PER_LISTENER: Final = 50e-6
_LONGEST_ROUND_S: Final = 0.025
"""What comes between two rounds of telling is told together: so many listeners cost a share of the process's time that
does not grow with how much happens."""

# KEYS: stream, epoch, writers. Begins an epoch where there is none; what is left of another one goes.
_BEGIN: Final = """
local epoch = redis.call('GET', KEYS[2])
if not epoch or redis.call('EXISTS', KEYS[1]) == 0 then
  local time = redis.call('TIME')
  epoch = string.format('%x%05x', time[1], time[2])
  redis.call('UNLINK', KEYS[1])
  redis.call('SET', KEYS[2], epoch)
  redis.call('XADD', KEYS[1], '*', 'kind', 'gap', 'site', '', 'data', '{"site":null,"reason":"begun_anew"}',
    'epoch', epoch)
end
"""

# ARGV: about how many are kept, kind, site, data, and who writes ('': nobody that could be found missing).
_PUBLISH: Final = (
    _BEGIN
    + """
if ARGV[5] ~= '' then redis.call('SADD', KEYS[3], ARGV[5]) end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'kind', ARGV[2], 'site', ARGV[3], 'data', ARGV[4])
"""
)

# ARGV: an entry's id or ''. Replies: the epoch, the newest id, whether that entry is kept (then so is all after it).
_LOOK: Final = (
    _BEGIN
    + """
local kept = ARGV[1] ~= '' and #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
return {epoch, redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1], kept or 0}
"""
)

# KEYS: stream, epoch. ARGV: the epoch that has to end, if no other process has ended it yet.
_END_EPOCH: Final = "if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('UNLINK', KEYS[1], KEYS[2]) end"


class StreamEnded(Exception):
    """The hub is stopping, or the listener fell behind too far; it may come back with its last id."""


class Place(NamedTuple):
    """A place in the stream: after the entry with that id. 0-0 is the beginning of what is kept."""

    epoch: str
    ms: int
    n: int

    @property
    def entry_id(self) -> str:
        """As Redis has it."""
        return f"{self.ms}-{self.n}"

    def __str__(self) -> str:
        return f"{self.epoch}-{self.ms}-{self.n}"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """Something that happened, or a gap (site "": for everybody). kind: liveness, command, state, event, ...

    json: `data` as text, with the site in it.
    """

    place: Place
    kind: str
    site: str
    json: str

    @property
    def id(self) -> str:
        return str(self.place)

    @property
    def data(self) -> JsonObject:
        found: JsonObject = from_json(self.json)
        return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a look at the stream found."""

    epoch: str
    newest: Place
    kept: bool


@dataclass(eq=False, slots=True)
class Listener:
    """Somebody who follows. Its place moves with what it has taken."""

    _stream: "LiveStream"
    place: Place | None
    _missed: bool = True
    """Whether it has to be given first what came before it was there."""
    _backlog: deque[Entry] = field(default_factory=deque)
    _backlog_bytes: int = 0
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def take(self) -> list[Entry]:
        """What came next; nothing if it was only woken, or has just found its place.

        Raises StreamEnded, or StoreUnreachable where what was missed cannot be read now.
        """
        if self._missed:
            if not self._stream.is_reading:  # what comes from then on is handed over; only then ask what was missed
                await self._wait()
                return []
            return await self._next_missed()
        if not self._backlog:
            await self._wait()
        waiting, self._backlog, self._backlog_bytes = self._backlog, deque(), 0
        return [entry for entry in waiting if self._moves_on(entry)]

    def wake(self) -> None:
        self._woken.set()

    def hand(self, entry: Entry) -> bool:
        """False: it has too much waiting already."""
        self._backlog.append(entry)
        self._backlog_bytes += len(entry.json)
        self._woken.set()
        return len(self._backlog) <= LISTENER_BACKLOG and self._backlog_bytes <= LISTENER_BACKLOG_BYTES

    async def _wait(self) -> None:
        if self.ended:
            raise StreamEnded
        self._woken.clear()
        await self._woken.wait()

    async def _next_missed(self) -> list[Entry]:
        """A page of it, empty when all was given. Moves the place."""
        if self.place is None:
            self.place, self._missed = (await self._stream.look()).newest, False
            return []
        page, seen = await self._stream.page(self.place)
        is_whole = seen.epoch == self.place.epoch and seen.kept
        if not is_whole:
            reason = "not_kept" if seen.epoch == self.place.epoch else "begun_anew"
            self.place = Place(seen.epoch, 0, 0)
            page, again = await self._stream.page(self.place)
            if again.epoch != seen.epoch:
                return await self._next_missed()
            if not begins_with_gap(page):
                page.insert(0, _gap(self.place, reason))
        self._missed = len(page) >= _READ_COUNT
        if page:
            self.place = page[-1].place
        return page

    def _moves_on(self, entry: Entry) -> bool:
        """Whether it is news: not given as missed before, nor left over from an epoch that has ended."""
        place, new = self.place, entry.place
        if place is not None and new.epoch == place.epoch:
            if place >= new and (new.ms, new.n) != (0, 0):
                return False
        elif place is not None and entry.kind != GAP:
            return False
        self.place = new
        return True


class LiveStream:
    """`async with LiveStream(store, keep_events, hub_id) as stream`.

    keep_events: about how many entries Redis keeps. writer: a lasting name of this process, by which its successor
    finds out that it was killed, and perhaps had something to tell.
    """

    def __init__(self, store: Store, keep_events: int, writer: str = "") -> None:
        self._store = store
        self._keep_events = keep_events
        self._writer = writer
        self._listeners: set[Listener] = set()
        self._lines = QuietLines()
        self._reading_on = GoingOn(self._read, "live-stream")
        self._telling_losses = GoingOn(self._tell_losses, "live-stream-losses")
        self._reader: asyncio.Task[None] | None = None
        self.is_reading = False
        self._wanted = asyncio.Event()
        self._lost = asyncio.Event()
        self._predecessor: asyncio.Future[int] | None = None

    async def __aenter__(self) -> Self:
        await self._lines.__aenter__()
        if self._writer:  # before anything is told, which makes it one
            self._predecessor = self._store.call("SISMEMBER", WRITERS_KEY, self._writer)
        await self._telling_losses.__aenter__()
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
        await self._telling_losses.__aexit__(kind, error, trace)
        if self._writer and not self._lost.is_set():
            left = self._store.call("SREM", WRITERS_KEY, self._writer)  # behind all that it has told
            await asyncio.wait({left})
            left.exception()  # if it could not be said the next start says that something may be lost

    def end_listeners(self) -> None:
        """Let every listener go: the hub stops."""
        for listener in list(self._listeners):
            self._let_go(listener)

    # --- telling ---------------------------------------------------------------------------------------------

    def publish(self, kind: str, site: str, data: JsonObject) -> None:
        """Tell every listener of every hub process. While Redis is away nobody can be told; when it is back, that."""
        told = self._told(kind, site, to_json({"site": site, **data}))
        told.add_done_callback(functools.partial(self._note_loss, kind, site))

    def _told(self, kind: str, site: str, json: bytes) -> asyncio.Future[Any]:
        keys = (3, STREAM_KEY, EPOCH_KEY, WRITERS_KEY)
        return self._store.call("EVAL", _PUBLISH, *keys, self._keep_events, kind, site, json, self._writer)

    def _note_loss(self, kind: str, site: str, told: asyncio.Future[Any]) -> None:
        if not told.cancelled() and (error := told.exception()) is not None:
            self._lines.warning("live stream entry lost", site, kind=kind, site=site, reason=str(error))
            self._lost.set()

    async def _tell_losses(self) -> None:
        """For as long as the process is there: that something was lost, as soon as anything can be told again."""
        if self._predecessor is not None and await self._was_killed(self._predecessor):
            self._lost.set()
        while True:
            await self._lost.wait()
            self._lost.clear()
            try:
                await self._told(GAP, "", b'{"site":null,"reason":"lost"}')
            except StoreUnreachable:
                self._lost.set()
                await asyncio.sleep(_PAUSE_AFTER_FAULT_S)

    @staticmethod
    async def _was_killed(predecessor: asyncio.Future[int]) -> bool:
        """Whether it may have been: while Redis is away it is not known."""
        try:
            return bool(await predecessor)
        except StoreUnreachable:
            return True

    # --- listening -------------------------------------------------------------------------------------------

    def listen(self, after: Place | None = None) -> Listener:
        """From now on; first what came after that place. Whoever listens says at last that it does `leave`."""
        listener = Listener(self, after)
        self._listeners.add(listener)
        self._wanted.set()
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    async def follow(self, after: str | None = None) -> AsyncGenerator[Entry, None]:
        """Entries as they come; first those after the given id, if it is one. Raises what `Listener.take` does."""
        listener = self.listen(None if after is None else place_of(after))
        try:
            while True:
                for entry in await listener.take():
                    yield entry
        finally:
            self.leave(listener)

    async def look(self, at: Place | None = None) -> _Seen:
        return _seen(await self._store.call(*_look(at)))

    async def page(self, after: Place) -> tuple[list[Entry], _Seen]:
        """The next entries after a place of this epoch, and the look that says whether they are what came next."""
        # In this order: if the place is still kept afterwards nothing has left the stream between it and them.
        reply, seen = await self._store.calls(
            ("XRANGE", STREAM_KEY, f"({after.entry_id}", "+", "COUNT", _READ_COUNT), _look(after)
        )
        return [_entry(item, after.epoch) for item in reply], _seen(seen)

    # --- the reader ------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        last: Place | None = None
        lost_sight = True
        while True:
            if not self._listeners:
                self.is_reading, last, lost_sight = False, None, True
                self._wanted.clear()
                await self._wanted.wait()
            try:
                if last is None or lost_sight:
                    last = await self._where_to_go_on(last)
                    self.is_reading = True
                    self._wake_all()
                reply = await self._store.redis.xread({STREAM_KEY: last.entry_id}, _READ_COUNT, _READ_BLOCK_MS)
            except (StoreUnreachable, RedisError, OSError):
                lost_sight = True
                await asyncio.sleep(_PAUSE_AFTER_FAULT_S)
                continue
            arrived = _arrived(reply)
            lost_sight = not arrived  # in a stream with older ids nothing would ever arrive
            entries = []
            for item in arrived:
                entries.append(_entry(item, last.epoch))
                last = entries[-1].place
            await self._hand(entries)
            if arrived:
                await asyncio.sleep(min(_LONGEST_ROUND_S, _ROUND_S_PER_LISTENER * len(self._listeners)))

    async def _where_to_go_on(self, last: Place | None) -> Place:
        """After the newest entry at first; later after the last one seen, and if that cannot be, after a gap."""
        # In the order of this process's calls, so that what it publishes from now on comes after it.
        seen = await self.look(last)
        if last is None:
            return seen.newest
        if seen.epoch == last.epoch and last > seen.newest:  # a Redis that has lost its newest entries
            await self._store.call("EVAL", _END_EPOCH, 2, STREAM_KEY, EPOCH_KEY, last.epoch)
            seen = await self.look()
        if seen.epoch == last.epoch and (seen.kept or last[1:] == (0, 0)):
            return last
        begin = Place(seen.epoch, 0, 0)
        if not begins_with_gap((await self.page(begin))[0]):
            await self._hand([_gap(begin, "not_kept" if seen.epoch == last.epoch else "begun_anew")])
        return begin

    async def _hand(self, entries: list[Entry]) -> None:
        """To everybody; between so many and the next ones everything else has a turn."""
        for n, listener in enumerate(list(self._listeners), 1):
            if not all(listener.hand(entry) for entry in entries):
                self._let_go(listener)
            if n % _HANDED_AT_A_TIME == 0:
                await asyncio.sleep(0)

    def _wake_all(self) -> None:
        for listener in self._listeners:
            listener.wake()

    def _let_go(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        listener.ended = True
        listener.wake()


def place_of(entry_id: str) -> Place | None:
    """The place after an entry; what has no epoch, as ids once had none, is of none that there is. None: no id."""
    if (found := _ID.fullmatch(entry_id)) is None:
        return None
    place = Place(found[1] or "", int(found[2]), int(found[3]))
    return place if max(place.ms, place.n) < _NO_ENTRYS_NUMBER else None


def _look(at: Place | None) -> tuple[Any, ...]:
    return ("EVAL", _LOOK, 3, STREAM_KEY, EPOCH_KEY, WRITERS_KEY, "" if at is None else at.entry_id)


def _seen(reply: Any) -> _Seen:
    epoch, newest_id, kept = reply
    return _Seen(epoch, _place(epoch, newest_id), bool(kept))


def _place(epoch: str, entry_id: str) -> Place:
    ms, _, n = entry_id.partition("-")
    return Place(epoch, int(ms), int(n))


def begins_with_gap(entries: list[Entry]) -> bool:
    return bool(entries) and entries[0].kind == GAP


def _gap(place: Place, reason: str) -> Entry:
    return Entry(place, GAP, "", f'{{"site":null,"reason":"{reason}"}}')


def _arrived(reply: Any) -> list[Any]:
    """XREAD answers [[stream, entries]], or nothing within its time."""
    return list(reply[0][1]) if reply else []


def _entry(item: Any, epoch: str) -> Entry:
    """epoch: of the entry before it; the first one of another epoch says so."""
    entry_id, fields = item
    return Entry(_place(fields.get("epoch", epoch), entry_id), fields["kind"], fields["site"], fields["data"])
