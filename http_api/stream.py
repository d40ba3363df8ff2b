"""`GET /events`: what happens, as server-sent events. `Last-Event-ID` brings what was missed."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Final

from starlette.responses import Response, StreamingResponse

from http_api import problems
from http_api.doorkeeper import REMEMBERED_S
from http_api.operations import Call, Operation, Services
from http_api.schemas import EventsQuery
from hub.database import AWAY, Database
from hub.errors import InvalidOrder, NotFound
from hub.logins import current
from hub.protocol.times import utc_now
from hub.rights import Caller, Right
from hub.sites import get_site
from hub.store import StoreUnreachable
from hub.stream import Entry, StreamEnded, is_entry_id

KEEP_ALIVE_EVERY_S: Final = 15.0
RETRY_AFTER_MS: Final = 1000


async def follow_events(call: Call) -> Response:
    query: EventsQuery = call.query
    wanted = query.site
    if wanted is not None:
        if not call.caller.sees(wanted):
            raise NotFound(f"There is no site {wanted}.")
        await call.services.database.read(lambda session: get_site(session, wanted))
    after = call.request.headers.get("last-event-id") or query.last_event_id
    if after is not None and not is_entry_id(after):
        raise InvalidOrder("Last-Event-ID must be the id of an earlier event.")
    return StreamingResponse(
        _lines(call.services, call.caller, query.site, after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _lines(
    services: Services, caller: Caller, site: str | None, after: str | None
) -> AsyncGenerator[bytes, None]:
    entries = services.stream.follow(after)
    coming = asyncio.ensure_future(anext(entries))
    said_at_s = looked_at_s = time.monotonic()
    try:
        yield f"retry: {RETRY_AFTER_MS}\n\n".encode()
        while True:
            done, _ = await asyncio.wait({coming}, timeout=REMEMBERED_S)
            now_s = time.monotonic()
            if now_s - looked_at_s >= REMEMBERED_S:
                looked_at_s = now_s
                now_is = await _current(services.database, caller)
                if now_is is None or now_is.sites != caller.sites:  # it comes anew, with the rights that it has now
                    return
            if now_s - said_at_s >= KEEP_ALIVE_EVERY_S:
                said_at_s = now_s
                yield b": still here\n\n"
            if not done:
                continue
            try:
                entry = coming.result()
            except (StreamEnded, StoreUnreachable):
                return
            coming = asyncio.ensure_future(anext(entries))
            if caller.sees(entry.site) and site in (None, entry.site):
                said_at_s = now_s
                yield _event(entry)
    finally:
        coming.cancel()
        await asyncio.wait({coming})
        await entries.aclose()


async def _current(database: Database, caller: Caller) -> Caller | None:
    now = utc_now()
    try:
        return await database.read(lambda session: current(session, caller, now))
    except AWAY:
        return caller  # while the database is away nobody can take anything away


def _event(entry: Entry) -> bytes:
    data = json.dumps({"site": entry.site, **entry.data}, separators=(",", ":"))
    return f"id: {entry.id}\nevent: {entry.kind}\ndata: {data}\n\n".encode()


OPERATIONS = (
    Operation(
        "GET",
        "/events",
        Right.READ,
        follow_events,
        "What happens, as server-sent events: liveness, command, state, event, two-desktops",
        {200: ("text/event-stream", None)},
        query=EventsQuery,
        problems=(problems.NOT_FOUND,),
        headers=("Last-Event-ID",),
    ),
)
