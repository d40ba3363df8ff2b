"""What a call is: one declaration that routes it, guards it, reads it and documents it."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from sqlmodel import Session
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from http_api import problems
from http_api.bounds import Bounds, check_json
from http_api.doorkeeper import Doorkeeper, address_of, is_of_this_origin
from http_api.problems import Problem, problem, problem_of
from http_api.schemas import NoQuery, Query
from http_api.streams import Streams
from hub.audit import By, Trail, recorded
from hub.call_limits import CallLimits
from hub.commands import Commands
from hub.database import AWAY, Database, DatabaseAway, why_away
from hub.errors import HubError, InvalidOrder, NotAllowed, NotFound
from hub.feeders import faults_of
from hub.liveness import LivenessKeys
from hub.login_throttle import LoginThrottle
from hub.passwords import Passwords
from hub.protocol.link import Link
from hub.protocol.topics import Topics, is_id, is_ulid
from hub.rejects import Rejects
from hub.rights import Caller, Right
from hub.rollouts import Rollouts
from hub.store import Store
from hub.stream import LiveStream

ULID_NAMES: Final = frozenset({"command", "login", "person", "rollout", "token"})
"""Names in paths that stand for the id of a row, which is a ULID."""
_LAST_ROW: Final = 2**31 - 1
"""PostgreSQL's columns of rows that are numbered take no more."""

log = structlog.get_logger()
B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


class BrokerUsers(Protocol):
    """What can be done about a site's connections to the broker in this process."""

    async def disconnect_user(self, name: str) -> bool:
        """End every connection of a user; False if there is none."""
        ...

    async def remove_user(self, name: str) -> bool:
        """The same for a user that is no more: what the broker keeps of it goes too."""
        ...


@dataclass(frozen=True, slots=True)
class FarmsReach:
    """What a desktop connects to: the broker's URL, and what every topic begins with."""

    url: str
    topic_root: str


@dataclass(frozen=True, slots=True)
class Services:
    """What the endpoints work with; made in one place when the hub starts."""

    database: Database
    store: Store
    passwords: Passwords
    login_throttle: LoginThrottle
    liveness: LivenessKeys
    stream: LiveStream
    streams: Streams
    commands: Commands
    rejects: Rejects
    link: Link
    rollouts: Rollouts
    broker: BrokerUsers | None
    """The embedded broker; None where it is an external one."""
    topics: Topics
    bounds: Bounds
    call_limits: CallLimits
    farms_reach: FarmsReach
    version: str


@dataclass(slots=True)
class Call:
    """One request that was let in: who calls, and what was read of it."""

    request: Request
    services: Services
    doorkeeper: Doorkeeper
    known: Caller | None
    """None: nobody has logged in, which only a call without a right allows."""
    query: Any
    body: Any
    action: str
    """The operation's name, as the audit has it."""

    @property
    def caller(self) -> Caller:
        assert self.known is not None
        return self.known

    @property
    def site(self) -> str:
        return str(self.request.path_params["site"])

    @property
    def feeder(self) -> str:
        return str(self.request.path_params["feeder"])

    @property
    def by(self) -> By:
        """Who calls, for the audit."""
        return By(self.caller.actor, self.caller.id, address_of(self.request))

    async def change(self, work: Callable[[Session, Trail], T], by: By | None = None) -> T:
        """`database.write` for what changes something: the work notes on the trail what, for the audit.

        The entry is written in the same transaction. by: who does it, where nobody has called under a name.
        """
        site = self.request.path_params.get("site")
        return await self.services.database.write(recorded(by or self.by, self.action, site, work))


class Handler(Protocol):
    """What does a call. Its name is the operation's."""

    __name__: str

    def __call__(self, call: Call, /) -> Awaitable[Response]: ...


Answers = Mapping[int, tuple[str, type[BaseModel] | None]]
"""status -> (description, model or None)"""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `answers`: besides the problems."""

    method: str
    path: str
    right: Right | None
    """None: whoever calls, logged in or not."""
    handle: Handler
    summary: str
    answers: Answers
    body: type[BaseModel] | None = None
    query: type[Query] = NoQuery
    problems: tuple[Problem, ...] = ()
    hub_wide: bool = False
    """The right is needed hub-wide. Otherwise it is needed at the site of the path; where the path has none, somewhere,
    and the handler looks where."""
    urgent: bool = False
    """It has room yet where the caller has made too many other calls."""
    headers: tuple[str, ...] = ()
    """Names of request headers that the call knows."""
    sends: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """status -> names of headers that such an answer has, or may have."""
    media_type: str = "application/json"
    """Of its answers, the problems apart."""
    as_csv: bool = False
    """It also answers `Accept: text/csv`."""

    @property
    def name(self) -> str:
        return self.handle.__name__


class BodyTooLarge(Exception):
    pass


class RequestTooSlow(Exception):
    pass


async def answer(operation: Operation, services: Services, doorkeeper: Doorkeeper, request: Request) -> Response:
    """Let the caller in, read what was sent, do it, and say what became of it."""
    bounds, limits = services.bounds, services.call_limits
    try:
        if wait_s := limits.admit_address(address_of(request), urgent=operation.urgent):
            return _too_many("This address makes", wait_s)
        caller = await doorkeeper.caller(request)
        if caller is not None and (wait_s := limits.admit_caller(caller.id, urgent=operation.urgent)):
            return _too_many("You make", wait_s)
        if caller is not None and caller.login_id is not None and not is_of_this_origin(request):
            detail = "What changes something is taken with a login's cookie from the hub's own pages only."
            return problem(problems.OTHER_ORIGIN, detail)
        if operation.right is not None:
            refusal = _refusal(operation, operation.right, caller, request)
            if refusal is not None:
                return refusal
        query = read_query(operation.query, request)
        body = None
        if operation.body is not None:
            raw = await read_body(request, bounds.body_bytes, bounds.request_within_s)
            check_json(raw, bounds)
            body = parse_body(operation.body, raw)
        return await operation.handle(Call(request, services, doorkeeper, caller, query, body, operation.name))
    except AWAY as error:
        log.error("the database does not answer", reason=why_away(error))
        return problem_of(error if isinstance(error, HubError) else DatabaseAway(why_away(error)))
    except HubError as error:
        return problem_of(error)
    except BodyTooLarge:
        return problem(problems.TOO_LARGE, f"A body has at most {bounds.body_bytes} bytes here.")
    except RequestTooSlow:
        detail = f"A request has to be here within {bounds.request_within_s:g} s."
        return problem(problems.REQUEST_TIMEOUT, detail, {"Connection": "close"})


def _too_many(who: str, wait_s: int) -> Response:
    return problem(problems.TOO_MANY, f"{who} too many calls; try again in {wait_s} s.", {"Retry-After": str(wait_s)})


def _refusal(operation: Operation, right: Right, caller: Caller | None, request: Request) -> Response | None:
    """Why the caller is not let in. Raises NotFound or NotAllowed."""
    if caller is None:
        detail = "Log in, or send a token: Authorization: Bearer <token>. `feeder-hub token add` makes one."
        return problem(problems.NO_LOGIN, detail, {"WWW-Authenticate": "Bearer"})
    site = request.path_params.get("site")
    if not _may_exist(request.path_params) or (site is not None and not caller.sees(site)):
        raise NotFound(f"There is nothing at {request.scope['path']}.")
    if site is not None or operation.hub_wide:
        caller.require(right, site)
    elif not caller.may_somewhere(right):
        raise NotAllowed(f"This needs the right to {right} at some site; {caller.is_what()}.")
    return None


def _may_exist(path_params: Mapping[str, str]) -> bool:
    """Whether these could be ids at all."""
    return all(is_ulid(text) if name in ULID_NAMES else is_id(text) for name, text in path_params.items())


@functools.cache
def _no_query(model: type[Query]) -> Query:
    return model.model_validate({})


def read_query(model: type[Query], request: Request) -> Query:
    try:
        if not request.scope["query_string"]:
            return _no_query(model)
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise InvalidOrder("The query is wrong.", faults_of(error, "query.")) from error


async def read_body(request: Request, max_bytes: int, within_s: float) -> bytes:
    """Raises BodyTooLarge before more than that is kept, RequestTooSlow, or InvalidOrder if it ends too soon.

    within_s: 0 is as long as it takes.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise BodyTooLarge
    body = bytearray()
    try:
        async with asyncio.timeout(within_s or None):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise BodyTooLarge
    except TimeoutError as error:
        raise RequestTooSlow from error
    except ClientDisconnect as error:
        raise InvalidOrder("The request ended before its body was complete.") from error
    return bytes(body)


def parse_body(model: type[B], raw: bytes) -> B:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        faults = faults_of(error)
        invalid_json = any(fault["type"] == "json_invalid" for fault in error.errors(include_url=False))
        detail = "The body is not JSON." if invalid_json else "The body is wrong or breaks a limit."
        raise InvalidOrder(detail, faults) from error


def json_answer(view: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(view.model_dump_json(), status, headers, "application/json")


def number_cursor(cursor: str | None) -> int | None:
    """Raises InvalidOrder for a cursor that no page gave."""
    if cursor is None:
        return None
    number = row_number(cursor)
    if number is None:
        raise InvalidOrder("cursor must be the `next` of an earlier page.")
    return number


def row_number(text: str) -> int | None:
    """None: no row has such a number."""
    return int(text) if text.isdecimal() and len(text) <= 10 and int(text) <= _LAST_ROW else None
