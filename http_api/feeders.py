"""Feeders: their state, their config, what was changed and what happened."""

from collections.abc import AsyncIterator

from sqlmodel import Session, col, select
from starlette.responses import Response

from http_api import problems
from http_api.answers import OF_ORDERS, answer_to, idempotency_key, preferred_wait_s
from http_api.csv_answers import VARIES, csv_answer
from http_api.csv_rows import wants_csv
from http_api.doorkeeper import address_of
from http_api.operations import Answers, Call, Operation, json_answer, number_cursor, row_number
from http_api.pages import page_answer
from http_api.schemas import (
    PAGE_LIMIT,
    AcceptedView,
    ChangeQuery,
    ConfigBody,
    ConfigPatch,
    DailyQuery,
    DailyView,
    DayView,
    EventView,
    FeederPatch,
    FeedersQuery,
    FeederView,
    Page,
    PageQuery,
    RevisionView,
)
from hub import feeders, sites, tags
from hub.audit import Trail
from hub.daily import daily_sums
from hub.errors import InvalidOrder, NotFound
from hub.models import Command, Feeder, FeederEvent, JsonObject
from hub.orders import ConfigOrder
from hub.protocol.messages import FeederConfig
from hub.protocol.times import utc_now
from hub.protocol.topics import is_id
from hub.rights import Right
from hub.tags import of_feeders


async def list_feeders(call: Call) -> Response:
    query: FeedersQuery = call.query

    def work(session: Session) -> list[FeederView]:
        sites.get_site(session, call.site)
        return _views(session, feeders.list_feeders(session, call.site, query.cursor, query.limit + 1, query.search()))

    found = await call.services.database.read(work)
    items, more = found[: query.limit], len(found) > query.limit
    return page_answer(call, Page[FeederView], items, items[-1].feeder if more else None)


async def list_all_feeders(call: Call) -> Response:
    query: FeedersQuery = call.query
    after = None if query.cursor is None else _feeder_cursor(query.cursor)

    def work(session: Session) -> list[FeederView]:
        found = feeders.list_all_feeders(session, after, query.limit + 1, call.caller.sites, query.search())
        return _views(session, found)

    found = await call.services.database.read(work)
    items, more = found[: query.limit], len(found) > query.limit
    return page_answer(call, Page[FeederView], items, f"{items[-1].site}/{items[-1].feeder}" if more else None)


def _feeder_cursor(cursor: str) -> tuple[str, str]:
    site, _, feeder = cursor.partition("/")
    if not (is_id(site) and is_id(feeder)):
        raise InvalidOrder("cursor must be the `next` of an earlier page.")
    return site, feeder


def _views(session: Session, rows: list[Feeder]) -> list[FeederView]:
    today_g = feeders.grams_today(session, rows, utc_now())
    tagged = tags.of_feeders(session, [(row.site_id, row.id) for row in rows])
    return [FeederView.of(row, today_g[row.site_id, row.id], tagged[row.site_id, row.id]) for row in rows]


async def get_feeder(call: Call) -> Response:
    (view,) = await call.services.database.read(
        lambda session: _views(session, [feeders.get_feeder(session, call.site, call.feeder)])
    )
    return json_answer(view, headers={"ETag": feeders.feeder_etag(view.tags)})


async def patch_feeder(call: Call) -> Response:
    body: FeederPatch = call.body
    if_match = call.request.headers.get("if-match")

    def work(session: Session, trail: Trail) -> None:
        before = of_feeders(session, [(call.site, call.feeder)])[call.site, call.feeder]
        feeders.change_feeder(session, call.site, call.feeder, body.tags, if_match)
        after = of_feeders(session, [(call.site, call.feeder)])[call.site, call.feeder]
        trail.note(target=call.feeder, before={"tags": before}, after={"tags": after})

    await call.change(work)
    return await get_feeder(call)


async def get_config(call: Call) -> Response:
    row = await call.services.database.read(lambda session: feeders.get_feeder(session, call.site, call.feeder))
    config, tag = feeders.config_of(row.reported_config), feeders.etag(row)
    if config is None or tag is None:
        raise NotFound(
            "Nobody knows this feeder's config yet: its desktop has not reported it. PUT one, or wait for it."
        )
    if _has(call.request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers={"ETag": tag})
    return json_answer(config, headers={"ETag": tag})


def _has(if_none_match: str | None, tag: str) -> bool:
    """Whether the caller has this config already. Weak tags count, as RFC 9110 says of If-None-Match."""
    tags = [known.strip().removeprefix("W/") for known in (if_none_match or "").split(",")]
    return tag in tags or "*" in tags


async def put_config(call: Call) -> Response:
    return await _change_config(call, patch=False)


async def patch_config(call: Call) -> Response:
    return await _change_config(call, patch=True)


async def _change_config(call: Call, *, patch: bool) -> Response:
    body = call.body.model_dump(exclude_unset=True)
    return await _change(call, body, body, patch=patch)


async def _change(call: Call, config: JsonObject, same: object, *, patch: bool) -> Response:
    """Order it. same: what makes a request with the same Idempotency-Key the same request."""
    query: ChangeQuery = call.query
    wait_s = preferred_wait_s(call.request)
    order = ConfigOrder(
        call.site,
        call.feeder,
        "set_config",
        call.caller.actor,
        config,
        idempotency_key(call.request, call.caller.id, same),
        call.caller.id,
        address_of(call.request),
        patch=patch,
        if_match=call.request.headers.get("if-match"),
        queue_for_s=query.queue_for,
    )
    command = await call.services.commands.send(order, wait_s)
    return answer_to(command, asynchronous=wait_s == 0)


async def list_revisions(call: Call) -> Response:
    query: PageQuery = call.query
    before = number_cursor(query.cursor)

    def work(session: Session) -> tuple[feeders.RevisionPage, dict[str, str]]:
        feeders.get_feeder(session, call.site, call.feeder)
        page = feeders.list_revisions(session, call.site, call.feeder, before, query.limit)
        ids = [revision.command_id for revision, _ in page.items if revision.command_id is not None]
        outcomes = session.exec(select(Command.id, Command.state).where(col(Command.id).in_(ids)))
        return page, {command_id: str(state) for command_id, state in outcomes}

    page, outcomes = await call.services.database.read(work)
    items = [RevisionView.of(one, older, outcomes.get(one.command_id or "")) for one, older in page.items]
    return page_answer(call, Page[RevisionView], items, page.next)


async def restore_revision(call: Call) -> Response:
    """An old config is ordered anew: a change like any other."""
    wanted = str(call.request.path_params["revision"])
    number = row_number(wanted) or 0
    revision = await call.services.database.read(
        lambda session: feeders.get_revision(session, call.site, call.feeder, number)
    )
    return await _change(call, revision.config, ["restore", number], patch=False)


async def get_daily(call: Call) -> Response:
    query: DailyQuery = call.query
    days = await call.services.database.read(
        lambda session: daily_sums(
            session, call.site, call.feeder, query.first, query.last, utc_now(), query.resolution
        )
    )
    items = [DayView.model_validate(day, from_attributes=True) for day in days]
    if wants_csv(call.request):
        return csv_answer(call, f"{call.site}-{call.feeder}-{query.resolution}s.csv", DayView, _at_once(items))
    return json_answer(DailyView(items=items), headers=VARIES)


async def _at_once(items: list[DayView]) -> AsyncIterator[list[DayView]]:
    yield items


async def list_events(call: Call) -> Response:
    query: PageQuery = call.query
    if wants_csv(call.request):
        first = await _events(call, query.cursor, PAGE_LIMIT)
        return csv_answer(call, f"{call.site}-{call.feeder}-events.csv", EventView, _all_events(call, first))
    found = await _events(call, query.cursor, query.limit + 1)
    page, more = found[: query.limit], len(found) > query.limit
    items = [EventView.of(event) for event in page]
    return page_answer(call, Page[EventView], items, page[-1].id if more else None, VARIES)


async def _events(call: Call, before: str | None, limit: int) -> list[FeederEvent]:
    def work(session: Session) -> list[FeederEvent]:
        feeders.get_feeder(session, call.site, call.feeder)
        return feeders.list_events(session, call.site, call.feeder, before, limit)

    return await call.services.database.read(work)


async def _all_events(call: Call, events: list[FeederEvent]) -> AsyncIterator[list[EventView]]:
    while events:
        yield [EventView.of(event) for event in events]
        events = await _events(call, events[-1].id, PAGE_LIMIT)


_FEEDERS = "/sites/{site}/feeders"
_FEEDER = _FEEDERS + "/{feeder}"
_GONE = (problems.NOT_FOUND,)
_CHANGE_ANSWERS: Answers = {
    200: ("Applied, and read back from the PLC: the config as it is now, with its ETag", FeederConfig),
    202: ("On its way, or waiting to be sent; Location tells where to ask", AcceptedView),
}
_CHANGE_SENDS = OF_ORDERS | {200: ("Command-Id", "ETag"), 412: ("Command-Id", "ETag")}

OPERATIONS = (
    Operation(
        "GET",
        "/feeders",
        Right.READ,
        list_all_feeders,
        "The feeders of all sites",
        {200: ("A page of feeders, by site and id", Page[FeederView])},
        query=FeedersQuery,
    ),
    Operation(
        "GET",
        _FEEDERS,
        Right.READ,
        list_feeders,
        "A site's feeders",
        {200: ("A page of feeders", Page[FeederView])},
        query=FeedersQuery,
        problems=_GONE,
    ),
    Operation(
        "GET",
        _FEEDER,
        Right.READ,
        get_feeder,
        "A feeder, and the ETag of its tags",
        {200: ("The feeder", FeederView)},
        problems=_GONE,
        sends={200: ("ETag",)},
    ),
    Operation(
        "PATCH",
        _FEEDER,
        Right.OPERATE,
        patch_feeder,
        "Change a feeder's tags",
        {200: ("The feeder as it is now", FeederView)},
        body=FeederPatch,
        problems=(*_GONE, problems.CHANGED),
        headers=("If-Match",),
        sends={200: ("ETag",), 412: ("ETag",)},
    ),
    Operation(
        "GET",
        _FEEDER + "/config",
        Right.READ,
        get_config,
        "The config as the farm has it, with its ETag",
        {200: ("The config", FeederConfig), 304: ("It is the one you have", None)},
        problems=_GONE,
        headers=("If-None-Match",),
        sends={200: ("ETag",), 304: ("ETag",)},
    ),
    Operation(
        "PUT",
        _FEEDER + "/config",
        Right.OPERATE,
        put_config,
        "Change a feeder's config: sent to the farm, written to the PLC, read back",
        _CHANGE_ANSWERS,
        body=ConfigBody,
        query=ChangeQuery,
        problems=(*problems.OF_ORDERS, problems.CONFIG_CHANGED),
        headers=("If-Match", "Idempotency-Key", "Prefer"),
        sends=_CHANGE_SENDS,
    ),
    Operation(
        "PATCH",
        _FEEDER + "/config",
        Right.OPERATE,
        patch_config,
        "Change some fields of a feeder's config (JSON merge patch)",
        _CHANGE_ANSWERS,
        body=ConfigPatch,
        query=ChangeQuery,
        problems=(*problems.OF_ORDERS, problems.CONFIG_CHANGED, problems.CONFIG_UNKNOWN),
        headers=("If-Match", "Idempotency-Key", "Prefer"),
        sends=_CHANGE_SENDS,
    ),
    Operation(
        "GET",
        _FEEDER + "/config/revisions",
        Right.READ,
        list_revisions,
        "Who changed what, when and from where, with its outcome",
        {200: ("A page of revisions, the newest first", Page[RevisionView])},
        query=PageQuery,
        problems=_GONE,
    ),
    Operation(
        "POST",
        _FEEDER + "/config/revisions/{revision}/restore",
        Right.OPERATE,
        restore_revision,
        "Order the config of an old revision anew: a new change, answered like any other",
        _CHANGE_ANSWERS,
        query=ChangeQuery,
        problems=(*problems.OF_ORDERS, problems.CONFIG_CHANGED),
        headers=("If-Match", "Idempotency-Key", "Prefer"),
        sends=_CHANGE_SENDS,
    ),
    Operation(
        "GET",
        _FEEDER + "/daily",
        Right.READ,
        get_daily,
        "What the feeder was fed on each local day, or in each week or month",
        {200: ("Every day, week or month of the range", DailyView)},
        query=DailyQuery,
        as_csv=True,
        problems=_GONE,
    ),
    Operation(
        "GET",
        _FEEDER + "/events",
        Right.READ,
        list_events,
        "Meals, doses, skips and jams, the newest first",
        {200: ("A page of events; as CSV all of them", Page[EventView])},
        as_csv=True,
        query=PageQuery,
        problems=_GONE,
    ),
)
