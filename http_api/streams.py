"""The event streams that are open in this process: whose they are, whether they still may, and who is too slow.

Each event is made into bytes once, whoever hears it. Nobody waits for a slow client: what waits for it is bounded, in
the listener's backlog and in the transport; one that comes to a bound is cut off, and comes back with its last id.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hub.database import AWAY, Database
from hub.logins import current
from hub.protocol.times import utc_now
from hub.rights import Caller
from hub.store import StoreUnreachable
from hub.stream import GAP, Entry, LiveStream, Place, StreamEnded
from hub.tasks import GoingOn

LOOK_EVERY_S: Final = 1.0
RIGHTS_EVERY_S: Final = 2.0
"""How soon a stream ends whose rights were taken away."""
SEND_WITHIN_S: Final = 10.0
"""How long a client may take nothing while something waits for it."""
KEEP_ALIVE_EVERY_S: Final = 15.0
RETRY_AFTER_MS: Final = 1000
ABORT: Final = "feeder_hub.abort"
"""In the scope of a request: closes its connection at once, whatever is buffered."""
_LAST_WRITE_WITHIN_S: Final = 1.0
_PIECE_BYTES: Final = 65_536


class Streams:
    """`async with Streams(database, live, most_per_caller) as streams`. most_per_caller: 0 is no limit."""

    def __init__(self, database: Database, live: LiveStream, most_per_caller: int) -> None:
        self.live = live
        self.most_per_caller = most_per_caller
        self._database = database
        self._open: set[OpenStream] = set()
        self._watching = GoingOn(self._watch, "event-streams")

    async def __aenter__(self) -> Self:
        await self._watching.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watching.__aexit__(kind, error, trace)

    def has_room_for(self, caller: Caller) -> bool:
        count = Counter(stream.caller.id for stream in self._open)[caller.id]
        return not self.most_per_caller or count < self.most_per_caller

    def add(self, stream: "OpenStream") -> None:
        self._open.add(stream)

    def remove(self, stream: "OpenStream") -> None:
        self._open.discard(stream)

    async def _watch(self) -> None:
        rights_at_s = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = time.monotonic()
            for stream in list(self._open):
                stream.look(now_s)
            if self._open and now_s - rights_at_s >= RIGHTS_EVERY_S:
                rights_at_s = now_s
                await self._look_at_rights()

    async def _look_at_rights(self) -> None:
        """A stream whose caller sees other sites now than when it began ends; who still may comes back for the rest."""
        now, callers = utc_now(), {stream.key: stream.caller for stream in self._open}
        try:
            found = await self._database.read(
                lambda session: {key: current(session, caller, now) for key, caller in callers.items()}
            )
        except AWAY:
            return  # while the database is away nobody can take a right away
        for stream in list(self._open):
            if stream.key in found:
                caller = found[stream.key]
                if caller is None or caller.sites != stream.sites:
                    stream.end()


class OpenStream(StreamingResponse):
    """One client's stream of what it may see, of one site or of all; first what came after a place."""

    def __init__(self, streams: Streams, caller: Caller, site: str | None, after: Place | None) -> None:
        super().__init__(
            iter(()), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type="text/event-stream"
        )
        self.caller = caller
        self.key = caller.id, caller.login_id
        self.sites = caller.sites
        self._site = site
        self._after = after
        self._streams = streams
        self._telling: asyncio.Task[None] | None = None
        self._said_at_s = time.monotonic()
        self._sending_since_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        self._streams.add(self)
        self._listener = self._streams.live.listen(self._after)
        telling = self._telling = asyncio.create_task(self._tell(send), name="event-stream")
        gone = asyncio.create_task(_until_gone(receive), name="event-stream-gone")
        try:
            await asyncio.wait({telling, gone}, return_when=asyncio.FIRST_COMPLETED)
            is_gone = gone.done()
        finally:
            for task in (telling, gone):
                task.cancel()
            await asyncio.wait({telling, gone})
            self._streams.live.leave(self._listener)
            self._streams.remove(self)
        if not is_gone and not await self._has_ended_well(send):
            scope.get(ABORT, _nothing)()
        if not telling.cancelled():
            telling.result()

    def look(self, now_s: float) -> None:
        """Now and then: who takes nothing is cut off, and a connection on which nothing is said is kept alive."""
        since_s = self._sending_since_s
        if since_s is not None and (self._listener.ended or now_s - since_s >= SEND_WITHIN_S):
            self.end()
        elif now_s - self._said_at_s >= KEEP_ALIVE_EVERY_S:
            self._listener.wake()

    def end(self) -> None:
        if self._telling is not None:
            self._telling.cancel()

    async def _tell(self, send: Send) -> None:
        listener = self._listener
        try:
            if self._after is not None:
                await self._say(send, [b"retry: %d\n\n" % RETRY_AFTER_MS])
            while listener.place is None:
                await listener.take()
                await self._keep_alive(send, b": no Redis yet\n\n")
            if self._after is None:
                # With an id from the beginning: who is cut off before anything has happened misses nothing either.
                await self._say(send, [b"retry: %d\nid: %s\n\n" % (RETRY_AFTER_MS, str(listener.place).encode())])
            while True:
                entries = await listener.take()
                if told := [event_bytes(entry) for entry in entries if self._concerns(entry)]:
                    await self._say(send, told)
                else:
                    # The id moves on also for a client whom nothing concerns, before its last one is too old.
                    await self._keep_alive(send, b": still here\nid: %s\n\n" % str(listener.place).encode())
        except (StreamEnded, StoreUnreachable):
            return

    def _concerns(self, entry: Entry) -> bool:
        if entry.kind == GAP:
            return True
        return (self.sites is None or entry.site in self.sites) and self._site in (None, entry.site)

    async def _keep_alive(self, send: Send, line: bytes) -> None:
        if time.monotonic() - self._said_at_s >= KEEP_ALIVE_EVERY_S:
            await self._say(send, [line])

    async def _say(self, send: Send, told: list[bytes]) -> None:
        self._said_at_s = self._sending_since_s = time.monotonic()
        for piece in _pieces(told):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._sending_since_s = time.monotonic()
        self._sending_since_s = None

    async def _has_ended_well(self, send: Send) -> bool:
        """False: it does not take what was said before."""
        if self._sending_since_s is not None:
            return False
        try:
            async with asyncio.timeout(_LAST_WRITE_WITHIN_S):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return False
        return True


@functools.lru_cache(maxsize=2048)
def event_bytes(entry: Entry) -> bytes:
    """One for all who hear that very entry."""
    return f"id: {entry.place}\nevent: {entry.kind}\ndata: {entry.json}\n\n".encode()


def _pieces(told: Iterable[bytes]) -> Iterator[bytes]:
    """Joined, but no longer than one event more than a piece: a transport says only between two that it has enough."""
    waiting: list[bytes] = []
    size = 0
    for each in told:
        waiting.append(each)
        size += len(each)
        if size >= _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _nothing() -> None:
    pass
