"""Rollouts: one change for many feeders, a few at a time; a preview of it; and how far it is."""

from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.answers import idempotency_key
from http_api.operations import Call, Operation, json_answer, number_cursor
from http_api.pages import page_answer
from http_api.rollout_schemas import (
    PartsQuery,
    PartView,
    PlannedView,
    PreviewView,
    RolloutBody,
    RolloutView,
)
from http_api.schemas import Page, PageQuery
from hub import rollout_rows as rows
from hub.errors import Fault, InvalidOrder, NotAllowed
from hub.models import Rollout, RolloutFeeder
from hub.rights import Right
from hub.rollout_plan import Change
from hub.rollout_rules import Part, RolloutState


async def preview_rollout(call: Call) -> Response:
    body, query = call.body, call.query
    after = number_cursor(query.cursor) or 0
    planned = await call.services.rollouts.preview(
        call.caller, body.selection.selection(), _change(body), may_wait=body.queue_for_s is not None
    )
    end = after + query.limit
    refused = sum(each.refusal is not None for each in planned)
    unchanged = sum(each.is_needless for each in planned)
    return json_answer(
        PreviewView(
            items=[PlannedView.of(each) for each in planned[after:end]],
            next=str(end) if end < len(planned) else None,
            changed=len(planned) - refused - unchanged,
            unchanged=unchanged,
            refused=refused,
        )
    )


async def start_rollout(call: Call) -> Response:
    body: RolloutBody = call.body
    same = body.model_dump(mode="json", exclude_unset=True)
    draft = rows.Draft(
        call.caller.id,
        call.caller.actor,
        _change(body),
        body.plan(),
        body.canaries,
        body.queue_for_s,
        idempotency_key(call.request, call.caller.id, same),
    )
    row = await call.services.rollouts.start(call.caller, body.selection.selection(), draft, call.by)
    answer = await _answer(call, row.id)
    answer.status_code = 201
    answer.headers["Location"] = f"/api/v1/rollouts/{row.id}"
    return answer


def _change(body: RolloutBody) -> Change:
    change = body.ordered_change()
    if change.patch == {}:
        raise InvalidOrder("The change has no field.", [Fault("change.config", "name at least one field to change")])
    return change


async def list_rollouts(call: Call) -> Response:
    query: PageQuery = call.query

    def work(session: Session) -> list[tuple[Rollout, dict[Part, int]]]:
        found = rows.list_rollouts(session, call.caller.sites, query.cursor, query.limit + 1)
        counts = rows.counts_of(session, [row.id for row in found], call.caller.sites)
        return [(row, counts[row.id]) for row in found]

    found = await call.services.database.read(work)
    items = [RolloutView.of(row, counts) for row, counts in found[: query.limit]]
    return page_answer(call, Page[RolloutView], items, items[-1].id if len(found) > query.limit else None)


async def get_rollout(call: Call) -> Response:
    return await _answer(call, _id(call))


async def list_rollout_feeders(call: Call) -> Response:
    query: PartsQuery = call.query
    after = number_cursor(query.cursor)

    def work(session: Session) -> list[RolloutFeeder]:
        rows.get(session, _id(call), call.caller.sites)
        return rows.list_parts(session, _id(call), call.caller.sites, query.state, after, query.limit + 1)

    found = await call.services.database.read(work)
    page, more = found[: query.limit], len(found) > query.limit
    items = [PartView.of(part) for part in page]
    return page_answer(call, Page[PartView], items, page[-1].position if more else None)


async def pause_rollout(call: Call) -> Response:
    return await _turn_to(call, RolloutState.PAUSED)


async def resume_rollout(call: Call) -> Response:
    return await _turn_to(call, RolloutState.RUNNING)


async def cancel_rollout(call: Call) -> Response:
    return await _turn_to(call, RolloutState.CANCELLED)


async def _turn_to(call: Call, state: RolloutState) -> Response:
    def work(session: Session) -> list[str]:
        rows.get(session, _id(call), call.caller.sites)
        return rows.sites_of(session, _id(call))

    sites = await call.services.database.read(work)
    if not all(call.caller.may(Right.OPERATE, site) for site in sites):
        raise NotAllowed(f"This needs the right to {Right.OPERATE} at every site of the rollout.")
    await call.services.rollouts.turn_to(_id(call), state, call.by)
    return await _answer(call, _id(call))


async def _answer(call: Call, rollout_id: str) -> Response:
    def work(session: Session) -> tuple[Rollout, dict[Part, int]]:
        row = rows.get(session, rollout_id, call.caller.sites)
        return row, rows.counts_of(session, [rollout_id], call.caller.sites)[rollout_id]

    return json_answer(RolloutView.of(*await call.services.database.read(work)))


def _id(call: Call) -> str:
    return str(call.request.path_params["rollout"])


_ROLLOUTS = "/rollouts"
_ROLLOUT = _ROLLOUTS + "/{rollout}"
_AS_IT_IS = {200: ("The rollout as it is now", RolloutView)}
_TURNED = (problems.NOT_FOUND, problems.ROLLOUT_ENDED)

OPERATIONS = (
    Operation(
        "POST",
        "/rollout-previews",
        Right.OPERATE,
        preview_rollout,
        "What a rollout would change, feeder by feeder, and what would be refused; nothing is sent",
        {200: ("A page of feeders, with the sums of all", PreviewView)},
        body=RolloutBody,
        query=PageQuery,
    ),
    Operation(
        "POST",
        _ROLLOUTS,
        Right.OPERATE,
        start_rollout,
        "Start a rollout: one change for many feeders, a few at a time",
        {201: ("The rollout, which goes on by itself", RolloutView)},
        sends={201: ("Location",)},
        body=RolloutBody,
        problems=(problems.NOT_FOUND, problems.KEY_REUSED),
        headers=("Idempotency-Key",),
    ),
    Operation(
        "GET",
        _ROLLOUTS,
        Right.READ,
        list_rollouts,
        "Rollouts, the newest first",
        {200: ("A page of rollouts", Page[RolloutView])},
        query=PageQuery,
    ),
    Operation(
        "GET",
        _ROLLOUT,
        Right.READ,
        get_rollout,
        "A rollout, and how far it is",
        {200: ("The rollout", RolloutView)},
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "GET",
        _ROLLOUT + "/feeders",
        Right.READ,
        list_rollout_feeders,
        "What has become of each feeder's part, in the order of their turns",
        {200: ("A page of feeders", Page[PartView])},
        query=PartsQuery,
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "POST",
        _ROLLOUT + "/pause",
        Right.OPERATE,
        pause_rollout,
        "Send no more of it for now; what was sent ends",
        _AS_IT_IS,
        problems=_TURNED,
    ),
    Operation(
        "POST", _ROLLOUT + "/resume", Right.OPERATE, resume_rollout, "Go on with it", _AS_IT_IS, problems=_TURNED
    ),
    Operation(
        "POST",
        _ROLLOUT + "/cancel",
        Right.OPERATE,
        cancel_rollout,
        "End it: who waits is skipped, what was sent ends",
        _AS_IT_IS,
        problems=_TURNED,
    ),
)
