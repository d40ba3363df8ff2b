"""Sites: farms, their credentials, their liveness and its history."""

import structlog
from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.onboarding import TELL_BROKER_GONE
from http_api.operations import Call, Operation, json_answer, number_cursor
from http_api.pages import page_answer
from http_api.schemas import (
    DeletedSiteView,
    DiagnosticsView,
    LivenessView,
    MqttCredentials,
    NewSiteView,
    OneSiteView,
    Page,
    PageQuery,
    PresenceView,
    RejectView,
    SiteBody,
    SitePatch,
    SitesQuery,
    SiteView,
    StopView,
)
from hub import presence, sites, tags
from hub.audit import Trail
from hub.errors import Unavailable
from hub.models import Presence, Site
from hub.protocol.times import utc_now
from hub.rights import Right
from hub.site_pages import list_page
from hub.stops import Latch, latch_of
from hub.stories import count_unresolved

log = structlog.get_logger()


async def list_sites(call: Call) -> Response:
    query: SitesQuery = call.query

    search, only = query.search(), call.caller.sites
    found = await call.services.database.read(
        lambda session: list_page(session, query.cursor, query.limit + 1, only, search)
    )
    page, more = found[: query.limit], len(found) > query.limit
    live = await call.services.liveness.read([one.site.id for one in page])
    items = [SiteView.of(one.site, alive, one.unresolved, one.tags) for one, alive in zip(page, live, strict=True)]
    return page_answer(call, Page[SiteView], items, page[-1].site.id if more else None)


async def create_site(call: Call) -> Response:
    body: SiteBody = call.body
    feeders = sites.numbered_feeders(body.feeders) if isinstance(body.feeders, int) else body.feeders

    def work(session: Session, trail: Trail) -> sites.NewSite:
        new = sites.add_site(session, body.site, feeders, body.time_zone, utc_now(), name=body.name)
        trail.note(site=new.site, after=sites.told(session, new.site))
        return new

    made = await call.change(work)
    view = NewSiteView(
        site=made.site, feeders=made.feeders, mqtt=MqttCredentials(username=made.site, secret=made.secret)
    )
    return json_answer(view, 201, {"Location": f"/api/v1/sites/{made.site}"})


async def get_site(call: Call) -> Response:
    def work(session: Session) -> tuple[Site, int, Latch | None, list[str]]:
        site = sites.get_site(session, call.site)
        unresolved = count_unresolved(session, [site.id]).get(site.id, 0)
        return site, unresolved, latch_of(session, site), tags.of_sites(session, [site.id])[site.id]

    site, unresolved, latch, tagged = await call.services.database.read(work)
    (live,) = await call.services.liveness.read([site.id])
    seen = SiteView.of(site, live, unresolved, tagged)
    stop = None if latch is None else StopView.of(latch)
    return json_answer(OneSiteView(**dict(seen), stop=stop), headers={"ETag": sites.site_etag(site, tagged)})


async def patch_site(call: Call) -> Response:
    body: SitePatch = call.body
    if_match = call.request.headers.get("if-match")

    def work(session: Session, trail: Trail) -> None:
        before = sites.told(session, call.site)
        sites.change_site(session, call.site, body.name, body.time_zone, body.tags, if_match)
        trail.note(before=before, after=sites.told(session, call.site))

    await call.change(work)
    return await get_site(call)


async def delete_site(call: Call) -> Response:
    services = call.services

    def work(session: Session, trail: Trail) -> None:
        trail.note(before=sites.told(session, call.site))
        sites.delete_site(session, call.site)

    await call.change(work)
    ended = None if services.broker is None else await services.broker.remove_user(call.site)
    try:
        await services.liveness.forget(call.site)
        await services.rejects.forget(call.site)
    except Unavailable as error:  # the site is gone all the same, and nobody can ask for it a second time
        log.warning("Redis still holds what it knew of a deleted site", site=call.site, reason=str(error))
    to_do = TELL_BROKER_GONE if ended is None else None
    return json_answer(DeletedSiteView(site=call.site, session_ended=ended, to_do=to_do))


async def get_liveness(call: Call) -> Response:
    await call.services.database.read(lambda session: sites.get_site(session, call.site))
    (live,) = await call.services.liveness.read([call.site])
    return json_answer(LivenessView.of(live))


async def list_presence(call: Call) -> Response:
    query: PageQuery = call.query
    before = number_cursor(query.cursor)

    def work(session: Session) -> list[Presence]:
        sites.get_site(session, call.site)
        return presence.list_spans(session, call.site, before, query.limit + 1)

    found = await call.services.database.read(work)
    page, more = found[: query.limit], len(found) > query.limit
    return page_answer(
        call, Page[PresenceView], [PresenceView.of(span) for span in page], page[-1].id if more else None
    )


async def get_diagnostics(call: Call) -> Response:
    def work(session: Session) -> bool:
        sites.get_site(session, call.site)
        return presence.has_two_desktops(session, call.site, utc_now())

    two_desktops = await call.services.database.read(work)
    rejected = await call.services.rejects.last(call.site)
    (live,) = await call.services.liveness.read([call.site])
    return json_answer(
        DiagnosticsView(
            rejected=[RejectView.model_validate(entry) for entry in rejected],
            two_desktops=two_desktops,
            clock_skew_s=live.clock_skew_s,
        )
    )


_SITE = "/sites/{site}"
_GONE = (problems.NOT_FOUND,)
_WITH_ETAG: dict[int, tuple[str, ...]] = {200: ("ETag",)}

OPERATIONS = (
    Operation(
        "GET",
        "/sites",
        Right.READ,
        list_sites,
        "Sites with their liveness",
        {200: ("A page of sites", Page[SiteView])},
        query=SitesQuery,
    ),
    Operation(
        "POST",
        "/sites",
        Right.ADMINISTER,
        create_site,
        "A new site; its MQTT secret is shown this once",
        {201: ("The site and its credentials", NewSiteView)},
        body=SiteBody,
        hub_wide=True,
        sends={201: ("Location",)},
        problems=(problems.ALREADY_EXISTS,),
    ),
    Operation(
        "GET",
        _SITE,
        Right.READ,
        get_site,
        "A site with its liveness, and the ETag of what can be changed of it",
        {200: ("The site", OneSiteView)},
        problems=_GONE,
        sends=_WITH_ETAG,
    ),
    Operation(
        "PATCH",
        _SITE,
        Right.ADMINISTER,
        patch_site,
        "Change a site's name, time zone or tags",
        {200: ("The site as it is now", OneSiteView)},
        body=SitePatch,
        problems=(*_GONE, problems.CHANGED),
        headers=("If-Match",),
        sends=_WITH_ETAG | {412: ("ETag",)},
    ),
    Operation(
        "DELETE",
        _SITE,
        Right.ADMINISTER,
        delete_site,
        "Delete a site with all that belongs to it; its connection is cut",
        {200: ("It is gone", DeletedSiteView)},
        problems=_GONE,
    ),
    Operation(
        "GET",
        _SITE + "/liveness",
        Right.READ,
        get_liveness,
        "Whether the site's desktop is alive",
        {200: ("Its liveness", LivenessView)},
        problems=_GONE,
    ),
    Operation(
        "GET",
        _SITE + "/presence",
        Right.READ,
        list_presence,
        "When the desktop was alive, the newest span first",
        {200: ("A page of spans", Page[PresenceView])},
        query=PageQuery,
        problems=_GONE,
    ),
    Operation(
        "GET",
        _SITE + "/diagnostics",
        Right.READ,
        get_diagnostics,
        "What is wrong with a desktop: rejected messages, two desktops, its clock",
        {200: ("The diagnostics", DiagnosticsView)},
        problems=(*_GONE, problems.STORE_UNREACHABLE),
    ),
)
