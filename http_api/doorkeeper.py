"""Who calls: by a token in the Authorization header, or by the cookie of a login."""

from typing import Final

import structlog
from sqlmodel import Session
from starlette.requests import Request
from starlette.responses import Response

from hub.accounts import caller_of
from hub.database import AWAY, Database, why_away
from hub.logins import LASTS, USED_WITHIN, login_caller, note_use
from hub.memory import Memory
from hub.protocol.times import utc_now
from hub.rights import Caller

REMEMBERED_S: Final = 5.0
"""A token or a right that is taken away may go on working for so long, at other hub processes than this one."""
COOKIE: Final = "feeder_hub_login"
_CHANGES_NOTHING: Final = ("GET", "HEAD", "OPTIONS")

log = structlog.get_logger()


class Doorkeeper:
    """Who a key belongs to, remembered for a few seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = Memory[str, Caller](REMEMBERED_S)
        self._used = Memory[str, bool](USED_WITHIN.total_seconds())

    async def caller(self, request: Request) -> Caller | None:
        """None: nobody whom the hub knows. Raises what is in AWAY."""
        authorization = request.headers.get("authorization")
        if authorization is not None:
            caller = self._known.get(authorization)
            if caller is not None:
                return caller
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or not token:
                return None
            return await self._look_up(authorization, token.strip(), is_login=False)
        secret = request.cookies.get(COOKIE)
        if not secret:
            return None
        return self._known.get(f"cookie {secret}") or await self._look_up(f"cookie {secret}", secret, is_login=True)

    def forget(self) -> None:
        """What was changed about people and keys counts at once in this process."""
        self._known.clear()

    async def _look_up(self, key: str, secret: str, *, is_login: bool) -> Caller | None:
        now = utc_now()

        def work(session: Session) -> Caller | None:
            return (login_caller if is_login else caller_of)(session, secret, now)

        caller = await self._database.read(work)
        if caller is not None:
            self._known.put(key, caller)
            await self._note_use(caller)
        return caller

    async def _note_use(self, caller: Caller) -> None:
        key, now = caller.login_id or caller.id, utc_now()
        if self._used.get(key):
            return
        self._used.put(key, value=True)
        try:
            await self._database.write(lambda session: note_use(session, caller, now))
        except AWAY as error:  # it lets in all the same: what can be read may go on being read
            log.warning("not noted that a key was used", actor=caller.actor, reason=why_away(error))


def is_of_this_origin(request: Request) -> bool:
    """Whether what comes with a cookie was sent by a page of the hub itself, and not by another one in that browser.

    Browsers say so with each request that changes something; what says nothing is no browser, and has no business with
    a cookie.
    """
    if request.method in _CHANGES_NOTHING:
        return True
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    return request.headers.get("origin") == f"{request.url.scheme}://{request.headers.get('host', '')}"


def set_cookie(response: Response, request: Request, secret: str) -> None:
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(LASTS.total_seconds()),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )


def drop_cookie(response: Response, request: Request) -> None:
    response.delete_cookie(COOKIE, path="/", secure=request.url.scheme == "https", httponly=True, samesite="lax")


def address_of(request: Request) -> str:
    """Where the request came from; behind a proxy that the settings name, where it came from there."""
    return request.client.host if request.client is not None else ""
