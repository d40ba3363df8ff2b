"""`GET /events`: what happens, as server-sent events. `Last-Event-ID` brings what was missed."""

from typing import Final

from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.operations import Call, Operation
from http_api.problems import problem
from http_api.schemas import EventsQuery, EventStream
from http_api.streams import OpenStream
from hub.errors import InvalidOrder, NotFound
from hub.logins import current
from hub.protocol.times import utc_now
from hub.rights import Caller, Right
from hub.sites import get_site
from hub.stream import place_of

_TRY_AGAIN_S: Final = 5


async def follow_events(call: Call) -> Response:
    query: EventsQuery = call.query
    site, streams = query.site, call.services.streams
    if site is not None and not call.caller.sees(site):
        raise NotFound(f"There is no site {site}.")

    now = utc_now()

    def look(session: Session) -> Caller | None:
        if site is not None:
            get_site(session, site)
        return current(session, call.caller, now)

    # Not as remembered: somebody whose stream has just ended for want of rights would be let in again.
    caller = await call.services.database.read(look)
    if caller is None:
        return problem(problems.NO_LOGIN, "The login or token is valid no more.", {"WWW-Authenticate": "Bearer"})
    last_id = call.request.headers.get("last-event-id") or query.last_event_id
    after = None if last_id is None else place_of(last_id)
    if last_id is not None and after is None:
        raise InvalidOrder("Last-Event-ID must be the id of an earlier event.")
    if not streams.has_room_for(caller):
        detail = f"You have {streams.most_per_caller} event streams open here already; close one."
        return problem(problems.TOO_MANY_STREAMS, detail, {"Retry-After": str(_TRY_AGAIN_S)})
    return OpenStream(streams, caller, site, after)


OPERATIONS = (
    Operation(
        "GET",
        "/events",
        Right.READ,
        follow_events,
        "What happens, as server-sent events: liveness, command, state, event, two-desktops, rollout, gap",
        {200: ("Events as they come; it does not end", EventStream)},
        media_type="text/event-stream",
        query=EventsQuery,
        problems=(problems.NOT_FOUND, problems.TOO_MANY_STREAMS),
        headers=("Last-Event-ID",),
    ),
)
