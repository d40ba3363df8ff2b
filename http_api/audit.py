"""The audit: who changed what and who was refused, for administrators, as pages or as one table."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from pydantic import Field
from sqlmodel import Session
from starlette.responses import Response, StreamingResponse

from http_api import problems
from http_api.csv_rows import MEDIA_TYPE, csv_rows, wants_csv
from http_api.operations import Call, Operation, json_answer
from http_api.schemas import PAGE_LIMIT, Page, PageQuery, View
from hub.audit import Entry, list_entries, sites_open_to
from hub.errors import InvalidOrder, NotAllowed, NotFound
from hub.logins import current
from hub.models import JsonObject
from hub.protocol.messages import NO_NUL
from hub.protocol.times import Stored, utc_now
from hub.protocol.topics import Id, is_ulid
from hub.rights import Caller, Right

_VARIES: Final = {"Vary": "Accept"}


class AuditQuery(PageQuery):
    site: Id | None = Field(None, description="entries of this site only; also of one that was deleted")
    actor: str | None = Field(
        None, max_length=100, pattern=NO_NUL, description="of this actor only", examples=["person:anna"]
    )
    action: str | None = Field(
        None, max_length=64, pattern=NO_NUL, description="of this kind only", examples=["set_config"]
    )


class AuditView(View):
    """Somebody changed something, or was refused.

    action: the name of the call (its `operationId`), or of the command. outcome: `refused`, or the state of the command
    as it is now; null: done, or the command is not kept any more.
    """

    id: str
    at: Stored
    actor: str
    caller_id: str | None
    address: str
    action: str
    site: str | None
    target: str
    before: JsonObject | None
    after: JsonObject | None
    outcome: str | None
    command_id: str | None

    @classmethod
    def of(cls, entry: Entry) -> "AuditView":
        row = entry.row
        own = {name: getattr(row, name) for name in cls.model_fields if name not in ("site", "outcome")}
        return cls(**own, site=row.site_id, outcome=entry.outcome)


async def list_audit(call: Call) -> Response:
    query: AuditQuery = call.query
    if query.cursor is not None and not is_ulid(query.cursor):
        raise InvalidOrder("cursor must be the `next` of an earlier page.")
    if wants_csv(call.request):
        first = await _entries(call, query.cursor, PAGE_LIMIT)
        headers = _VARIES | {"Content-Disposition": 'attachment; filename="audit.csv"'}
        if call.request.method == "HEAD":
            return Response(headers=headers, media_type=MEDIA_TYPE)
        return StreamingResponse(_csv(call, first), headers=headers, media_type=MEDIA_TYPE)
    found = await _entries(call, query.cursor, query.limit + 1)
    items = [AuditView.of(entry) for entry in found[: query.limit]]
    more = items[-1].id if len(found) > query.limit else None
    return json_answer(Page[AuditView](items=items, next=more), headers=_VARIES)


async def _csv(call: Call, entries: Sequence[Entry]) -> AsyncIterator[str]:
    """The whole of it, as many entries at a time as a page may have. One that ends too soon was cut off."""
    yield csv_rows([list(AuditView.model_fields)])
    while entries:
        yield csv_rows([_row(AuditView.of(entry)) for entry in entries])
        entries = await _entries(call, entries[-1].row.id, PAGE_LIMIT)


def _row(view: AuditView) -> list[Any]:
    told = view.model_dump(mode="json")
    return [told[name] for name in AuditView.model_fields]


async def _entries(call: Call, before: str | None, limit: int) -> list[Entry]:
    """With the rights of now: a long answer outlives them. Raises NotFound or NotAllowed."""
    query: AuditQuery = call.query

    def work(session: Session) -> list[Entry]:
        caller = current(session, call.caller, utc_now())
        if caller is None or not caller.may_somewhere(Right.ADMINISTER):
            raise NotAllowed("The right to administer was taken away meanwhile.")
        sites = sites_open_to(session, caller)
        if query.site is not None:
            sites = {query.site: _since(caller, query.site, sites)}
        return list_entries(session, sites, actor=query.actor, action=query.action, before=before, limit=limit)

    return await call.services.database.read(work)


def _since(caller: Caller, site: str, theirs: Mapping[str, str] | None) -> str:
    """From which id on the caller may read that site's entries. Raises NotFound for one that is not theirs."""
    if theirs is None:
        return ""
    if not caller.sees(site):
        raise NotFound(f"There is no site {site}.")
    caller.require(Right.ADMINISTER, site)
    if site not in theirs:  # it was deleted at this moment
        raise NotFound(f"There is no site {site}.")
    return theirs[site]


OPERATIONS = (
    Operation(
        "GET",
        "/audit",
        Right.ADMINISTER,
        list_audit,
        "Who changed what, and who was refused, the newest first; with `Accept: text/csv` all pages as one table",
        {200: ("A page of entries", Page[AuditView])},
        query=AuditQuery,
        problems=(problems.NOT_FOUND,),
        as_csv=True,
    ),
)
