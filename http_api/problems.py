"""Errors as RFC 9457 problem+json: one table from the hub's classes to status, type and title."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic_core import to_json
from starlette.responses import Response

from hub import errors
from hub.database import CommitUnknown, DatabaseAway
from hub.protocol.times import rfc3339
from hub.store import StoreUnreachable

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem. Its `type` is a page in the docs."""

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        return f"/docs/problems#{self.slug}"


NO_HTTP: Final = Problem(400, "no-http", "That is no HTTP request")
NO_LOGIN: Final = Problem(401, "no-login", "Log in first")
WRONG_LOGIN: Final = Problem(401, "wrong-login", "There is no such login, or its password is another one")
OTHER_ORIGIN: Final = Problem(403, "other-origin", "The request comes from another page")
NOT_ALLOWED: Final = Problem(403, "not-allowed", "Not allowed for your role")
NOT_FOUND: Final = Problem(404, "not-found", "There is no such thing, or it is not yours")
NO_SUCH_CODE: Final = Problem(404, "no-such-code", "The claim code is wrong, used or expired")
NO_SUCH_METHOD: Final = Problem(405, "method-not-allowed", "This path does not know that method")
REQUEST_TIMEOUT: Final = Problem(408, "request-timeout", "The request took too long to come")
ALREADY_EXISTS: Final = Problem(409, "already-exists", "It exists already")
CONFIG_UNKNOWN: Final = Problem(409, "config-unknown", "Nobody knows this feeder's config yet")
DESKTOP_OFFLINE: Final = Problem(409, "desktop-offline", "The site's desktop is not alive")
STOPPED: Final = Problem(409, "stopped", "The site's emergency stop is latched")
KEY_REUSED: Final = Problem(409, "idempotency-key-reused", "This Idempotency-Key belongs to another request")
NOT_UNRESOLVED: Final = Problem(409, "not-unresolved", "Only a command that is unresolved can be closed")
ROLLOUT_ENDED: Final = Problem(409, "rollout-ended", "The rollout has ended and does not go on")
NOT_EXECUTED: Final = Problem(409, "not-executed", "The desktop never carried it out and never will")
CONFIG_CHANGED: Final = Problem(412, "config-changed", "The config is not the one you changed")
CHANGED: Final = Problem(412, "changed", "It is not the one that you changed")
TOO_LARGE: Final = Problem(413, "body-too-large", "The request is too large")
URI_TOO_LONG: Final = Problem(414, "uri-too-long", "The path and its query are too long")
INVALID: Final = Problem(422, "invalid", "The request is wrong or breaks a limit")
REJECTED: Final = Problem(422, "rejected-by-desktop", "The desktop refused it")
KEY_REQUIRED: Final = Problem(428, "idempotency-key-required", "A dose needs an Idempotency-Key")
TOO_MANY_STREAMS: Final = Problem(429, "too-many-streams", "Too many event streams are open")
TOO_MANY: Final = Problem(429, "too-many-calls", "Too many calls; wait")
HEAD_TOO_LARGE: Final = Problem(431, "head-too-large", "The headers are too large")
PLC_FAILED: Final = Problem(502, "plc-failed", "The PLC did not take it")
LIVENESS_UNKNOWN: Final = Problem(503, "liveness-unknown", "Whether the desktop is alive cannot be known now")
BROKER_UNREACHABLE: Final = Problem(503, "broker-unreachable", "The MQTT broker cannot be reached now")
STORE_UNREACHABLE: Final = Problem(503, "store-unreachable", "Redis cannot be reached now")
DATABASE_UNREACHABLE: Final = Problem(503, "database-unreachable", "The database cannot be reached now")
OUTCOME_UNKNOWN: Final = Problem(504, "outcome-unknown", "No final answer in time; the outcome is being found out")
INTERNAL: Final = Problem(500, "internal", "The hub made a mistake")

OF_ERROR: Final[dict[type[errors.HubError], Problem]] = {
    errors.NotFound: NOT_FOUND,
    errors.InvalidOrder: INVALID,
    errors.AlreadyExists: ALREADY_EXISTS,
    errors.ConfigUnknown: CONFIG_UNKNOWN,
    errors.ConfigChanged: CONFIG_CHANGED,
    errors.Changed: CHANGED,
    errors.NotAllowed: NOT_ALLOWED,
    errors.WrongLogin: WRONG_LOGIN,
    errors.TooManyTries: TOO_MANY,
    errors.NoSuchCode: NO_SUCH_CODE,
    errors.DesktopOffline: DESKTOP_OFFLINE,
    errors.Stopped: STOPPED,
    errors.KeyReused: KEY_REUSED,
    errors.NotUnresolved: NOT_UNRESOLVED,
    errors.RolloutEnded: ROLLOUT_ENDED,
    errors.LivenessUnknown: LIVENESS_UNKNOWN,
    errors.BrokerUnreachable: BROKER_UNREACHABLE,
    StoreUnreachable: STORE_UNREACHABLE,
    DatabaseAway: DATABASE_UNREACHABLE,
    CommitUnknown: DATABASE_UNREACHABLE,
}

BY_ERROR: Final = {error.__name__: kind.type for error, kind in OF_ERROR.items()}
"""The `type` of a problem by the name of its error, as a row keeps it."""

OF_ORDERS: Final = (
    NOT_FOUND,
    DESKTOP_OFFLINE,
    STOPPED,
    KEY_REUSED,
    NOT_EXECUTED,
    REJECTED,
    PLC_FAILED,
    LIVENESS_UNKNOWN,
    BROKER_UNREACHABLE,
    OUTCOME_UNKNOWN,
)
"""What any order may answer."""
ALL: Final = tuple(kind for kind in list(globals().values()) if isinstance(kind, Problem))
"""Every kind of problem there is."""


def problem(kind: Problem, detail: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """`more` are members beside the standard ones, such as `command_id` or `faults`."""
    body = {"type": kind.type, "title": kind.title, "status": kind.status, "detail": detail}
    return Response(to_json(body | more), kind.status, headers, MEDIA_TYPE)


def problem_of(error: errors.HubError) -> Response:
    """The answer for whatever the hub raises."""
    more: dict[str, Any] = {}
    headers: dict[str, str] = {}
    match error:
        case errors.InvalidOrder():
            more["faults"] = [fault_body(fault) for fault in error.faults]
        case errors.DesktopOffline():
            more["last_seen_at"] = None if error.last_seen_at is None else rfc3339(error.last_seen_at)
        case errors.ConfigChanged() | errors.Changed() if error.etag is not None:
            headers["ETag"] = error.etag
        case errors.TooManyTries():
            headers["Retry-After"] = str(error.retry_after_s)
        case errors.Unavailable():
            headers["Retry-After"] = "1"
    return problem(OF_ERROR[type(error)], str(error), headers, **more)


def fault_body(fault: errors.Fault) -> dict[str, Any]:
    return {name: value for name, value in asdict(fault).items() if value is not None}
