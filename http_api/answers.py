"""What an order answers: from the state of its command to a status, as the HTTP contract's table has it."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from http_api import problems
from http_api.problems import problem
from http_api.schemas import AcceptedView, CommandView
from hub.command_states import CommandState
from hub.errors import InvalidOrder
from hub.models import CommandRow, CommandStep
from hub.orders import Key
from hub.protocol.codes import Code

S = CommandState
COMMAND_HEADER: Final = "Command-Id"
OF_ORDERS: Final[dict[int, tuple[str, ...]]] = {
    200: (COMMAND_HEADER,),
    202: (COMMAND_HEADER, "Location"),
    **dict.fromkeys((409, 422, 502), (COMMAND_HEADER,)),
    504: (COMMAND_HEADER, "Location"),
}
"""status -> headers of the answer to an order. A refusal before there was a command names none."""
MAX_WAIT_S: Final = 120.0
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}\Z")
_WAIT: Final = re.compile(r"wait=(\d{1,4})\Z")


def idempotency_key(request: Request, owner: str, body: object) -> Key | None:
    """The caller's key with the request's fingerprint. Raises InvalidOrder."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    if not _KEY.match(text):
        raise InvalidOrder("Idempotency-Key must be 1 to 200 visible ASCII characters.")
    # The same request is the same whatever its spacing and the order of its keys.
    same = json.dumps([request.method, request.scope["path"], body], sort_keys=True)
    return Key(owner, text, hashlib.sha256(same.encode()).hexdigest())


def preferred_wait_s(request: Request) -> float | None:
    """Seconds to wait for the end, by `Prefer: wait=N` or `respond-async` (0); None: until the deadline."""
    wait_s = None
    for preference in request.headers.get("prefer", "").replace(";", ",").split(","):
        preference = preference.strip().lower()
        if preference == "respond-async":
            return 0.0
        if match := _WAIT.match(preference):
            wait_s = min(float(match[1]), MAX_WAIT_S)
    return wait_s


def config_etag(command: CommandRow) -> str:
    """Names the config that a `set_config` brought about."""
    result = command.result or {}
    version = result.get("config_version", command.args["config_version"])
    return f'"{version}.{result.get("local_rev", command.args["local_rev"])}"'


def answer_to(command: CommandRow, *, asynchronous: bool, story: Sequence[CommandStep] = ()) -> Response:
    """The answer for a command as it is now. `asynchronous`: the caller did not want to wait for its end.

    story: of one that was applied, and is no change of config.
    """
    headers = {COMMAND_HEADER: command.id}
    state = S(command.state)
    if state is S.APPLIED:
        if command.name != "set_config":
            return Response(CommandView.of(command, story).model_dump_json(), 200, headers, "application/json")
        config = (command.result or {}).get("config", command.args["config"])
        return Response(to_json(config), 200, headers | {"ETag": config_etag(command)}, "application/json")
    latched_anyway = command.name == "stop_all" and state in (S.SENT, S.UNKNOWN)
    if state in (S.PENDING, S.RECEIVED) or latched_anyway or (asynchronous and state is S.SENT):
        headers["Location"] = f"/api/v1/commands/{command.id}"
        view = AcceptedView(command_id=command.id, state=state)
        return Response(view.model_dump_json(), 202, headers, "application/json")
    return _refusal(command, state, headers)


def _refusal(command: CommandRow, state: CommandState, headers: dict[str, str]) -> Response:
    told: dict[str, Any] = {"command_id": command.id, "code": command.code}
    said = ": ".join(part for part in (command.code, command.detail) if part) or "no reason given"
    match state:
        case S.REJECTED if command.code == Code.STALE:
            if (config := (command.result or {}).get("config")) is not None:
                headers["ETag"] = config_etag(command)
                told |= {"config": config}
            detail = "The config was changed on the farm meanwhile. Read it again and repeat the change."
            return problem(problems.CONFIG_CHANGED, detail, headers, **told)
        case S.REJECTED:
            return problem(problems.REJECTED, f"The desktop refused it: {said}", headers, **told)
        case S.FAILED:
            return problem(problems.PLC_FAILED, f"The farm could not carry it out: {said}", headers, **told)
        case S.SUPERSEDED | S.REFUSED:
            return problem(problems.NOT_EXECUTED, command.detail or "It was never sent.", headers, **told)
        case S.NOT_EXECUTED | S.EXPIRED:
            detail = f"It ended as {state}: it was not done and never will be. Order it again if it is still wanted."
            return problem(problems.NOT_EXECUTED, detail, headers, **told)
        case S.UNRESOLVED:
            detail = "It cannot be known whether the farm carried it out. Look at the feeder before ordering it again."
            return problem(problems.OUTCOME_UNKNOWN, detail, headers, **told)
        case _:
            headers["Location"] = f"/api/v1/commands/{command.id}"
            detail = f"No final answer in time. GET /api/v1/commands/{command.id} will tell what became of it."
            return problem(problems.OUTCOME_UNKNOWN, detail, headers, **told)
