"""Keys for scripts: for administrators, of their own sites or of the whole hub."""

from datetime import timedelta

from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.operations import Call, Operation, json_answer
from http_api.people_schemas import NewTokenView, TokenBody, TokenView
from http_api.schemas import Page, PageQuery
from hub import accounts
from hub.errors import NotFound
from hub.models import Token
from hub.protocol.times import utc_now
from hub.rights import Right


async def list_tokens(call: Call) -> Response:
    query: PageQuery = call.query

    def work(session: Session) -> list[Token]:
        found = accounts.list_tokens(session, after=query.cursor)
        return [token for token in found if call.caller.may(Right.ADMINISTER, token.site_id)][: query.limit + 1]

    found = await call.services.database.read(work)
    page, more = found[: query.limit], len(found) > query.limit
    items = [TokenView.of(token) for token in page]
    return json_answer(Page[TokenView](items=items, next=items[-1].id if more else None))


async def create_token(call: Call) -> Response:
    body: TokenBody = call.body
    if body.site is not None and not call.caller.sees(body.site):
        raise NotFound(f"There is no site {body.site}.")
    call.caller.require(Right.ADMINISTER, body.site)
    now = utc_now()
    expires_at = None if body.expires_in_days is None else now + timedelta(days=body.expires_in_days)

    def work(session: Session) -> tuple[str, Token]:
        token = accounts.add_token(session, body.role, body.site, body.name, now, expires_at)
        session.flush()
        return token, accounts.get_token_row(session, token)

    token, row = await call.services.database.write(work)
    view = NewTokenView(**TokenView.of(row).model_dump(), token=token)
    return json_answer(view, 201, {"Location": f"/api/v1/tokens/{row.id}"})


async def revoke_token(call: Call) -> Response:
    token_id = call.request.path_params["token"]

    def work(session: Session) -> None:
        row = session.get(Token, token_id)
        if row is None or not call.caller.may(Right.ADMINISTER, row.site_id):
            raise NotFound(f"There is no token {token_id}.")
        session.delete(row)

    await call.services.database.write(work)
    call.doorkeeper.forget()
    return Response(status_code=204)


OPERATIONS = (
    Operation(
        "GET",
        "/tokens",
        Right.ADMINISTER,
        list_tokens,
        "Tokens, without what they are themselves: nobody keeps that",
        {200: ("A page of tokens", Page[TokenView])},
        query=PageQuery,
    ),
    Operation(
        "POST",
        "/tokens",
        Right.ADMINISTER,
        create_token,
        "A new token; it is shown this once",
        {201: ("The token", NewTokenView)},
        body=TokenBody,
        problems=(problems.NOT_FOUND, problems.OTHER_ORIGIN),
    ),
    Operation(
        "DELETE",
        "/tokens/{token}",
        Right.ADMINISTER,
        revoke_token,
        "Take a token away: it lets nobody in any more, and its live streams end",
        {204: ("Gone", None)},
        problems=(problems.NOT_FOUND, problems.OTHER_ORIGIN),
    ),
)
