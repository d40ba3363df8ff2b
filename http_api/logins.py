"""Logging in and out, and what a person does about their own password and devices."""

import structlog
from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.doorkeeper import address_of, drop_cookie, is_of_this_origin, set_cookie
from http_api.operations import Call, Operation, json_answer
from http_api.people_schemas import LoginBody, LoginsView, LoginView, PasswordBody, WhoView
from http_api.problems import problem
from hub import logins
from hub.errors import NotAllowed, WrongLogin
from hub.models import Login, Person
from hub.passwords import check_password
from hub.people import caller_for, get_person, person_with_login
from hub.protocol.times import utc_now
from hub.rights import Caller, Right

log = structlog.get_logger()


async def log_in(call: Call) -> Response:
    if not _may_come_from_here(call):
        return problem(problems.OTHER_ORIGIN, "Log in from the hub's own page.")
    body: LoginBody = call.body
    login, address = body.login.lower(), address_of(call.request)
    await call.services.login_throttle.admit(login, address)
    person = await call.services.database.read(lambda session: person_with_login(session, login))
    stored = None if person is None else person.password_hash
    if not await call.services.passwords.matches(stored, body.password) or person is None:
        log.warning("login refused", login=login, address=address)
        raise WrongLogin("There is no such login, or its password is another one.")
    await call.services.login_throttle.succeeded(login, address)
    agent, now = call.request.headers.get("user-agent", ""), utc_now()

    def work(session: Session) -> tuple[str, Caller]:
        secret, row = logins.open_login(session, person.id, address, agent, now)
        return secret, caller_for(session, get_person(session, person.id), row.id)

    secret, caller = await call.services.database.write(work)
    answer = json_answer(WhoView.of(caller))
    set_cookie(answer, call.request, secret)
    return answer


def _may_come_from_here(call: Call) -> bool:
    """A page of somebody else must not log a browser in under a name of its choice. Scripts name no origin."""
    is_a_page = any(name in call.request.headers for name in ("origin", "sec-fetch-site"))
    return not is_a_page or is_of_this_origin(call.request)


async def who_am_i(call: Call) -> Response:
    if call.known is None:
        return problem(problems.NO_LOGIN, "Nobody is logged in.", {"WWW-Authenticate": "Bearer"})
    return json_answer(WhoView.of(call.known))


async def log_out(call: Call) -> Response:
    """What was logged out already is logged out."""
    caller = call.known
    if caller is not None and caller.login_id is not None:
        await _end(call, caller.id, caller.login_id)
    answer = Response(status_code=204)
    drop_cookie(answer, call.request)
    return answer


async def change_password(call: Call) -> Response:
    person, body = await _person(call), call.body
    assert isinstance(body, PasswordBody)
    address = address_of(call.request)
    await call.services.login_throttle.admit(person.login, address)
    if not await call.services.passwords.matches(person.password_hash, body.old):
        raise WrongLogin("The old password is another one; nothing was changed.")
    await call.services.login_throttle.succeeded(person.login, address)
    check_password(body.new, person.login)
    new, login_id = await call.services.passwords.hash(body.new), call.caller.login_id

    def work(session: Session) -> None:
        get_person(session, person.id).password_hash = new
        logins.end_logins(session, person.id, but=login_id)

    await call.services.database.write(work)
    call.doorkeeper.forget()
    return Response(status_code=204)


async def list_logins(call: Call) -> Response:
    person = await _person(call)

    def work(session: Session) -> list[Login]:
        return logins.logins_of(session, person.id)

    found = await call.services.database.read(work)
    return json_answer(LoginsView(items=[LoginView.of(login, call.caller) for login in found]))


async def end_login(call: Call) -> Response:
    person = await _person(call)
    await _end(call, person.id, call.request.path_params["login"])
    return Response(status_code=204)


async def _end(call: Call, person_id: str, login_id: str) -> None:
    await call.services.database.write(lambda session: logins.end_login(session, person_id, login_id))
    call.doorkeeper.forget()


async def _person(call: Call) -> Person:
    """Who is logged in. A token has no password and no devices."""
    if call.caller.login_id is None:
        raise NotAllowed("This is about the person who is logged in; you came with a token.")
    return await call.services.database.read(lambda session: get_person(session, call.caller.id))


_TRIES = (problems.WRONG_LOGIN, problems.TOO_MANY, problems.OTHER_ORIGIN, problems.STORE_UNREACHABLE)
_OF_A_PERSON = (problems.NOT_ALLOWED, problems.OTHER_ORIGIN)

OPERATIONS = (
    Operation(
        "POST",
        "/session",
        None,
        log_in,
        "Log in: the cookie of the answer lets the browser in from now on",
        {200: ("Who you are", WhoView)},
        body=LoginBody,
        problems=_TRIES,
    ),
    Operation(
        "GET", "/session", None, who_am_i, "Who you are", {200: ("Who you are", WhoView)}, problems=(problems.NO_LOGIN,)
    ),
    Operation(
        "DELETE",
        "/session",
        None,
        log_out,
        "Log out",
        {204: ("Nobody is logged in", None)},
        problems=(problems.OTHER_ORIGIN, problems.NOT_FOUND),
    ),
    Operation(
        "PUT",
        "/session/password",
        Right.READ,
        change_password,
        "Change one's own password; one's other logins end",
        {204: ("It is changed", None)},
        body=PasswordBody,
        problems=(*_TRIES, problems.NOT_ALLOWED, problems.NOT_FOUND),
    ),
    Operation(
        "GET",
        "/session/logins",
        Right.READ,
        list_logins,
        "The devices that one is logged in at",
        {200: ("The logins", LoginsView)},
        problems=(*_OF_A_PERSON, problems.NOT_FOUND),
    ),
    Operation(
        "DELETE",
        "/session/logins/{login}",
        Right.READ,
        end_login,
        "Log out at one of these",
        {204: ("It has ended", None)},
        problems=(*_OF_A_PERSON, problems.NOT_FOUND),
    ),
)
