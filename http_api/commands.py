"""Commands: doses, pauses, the emergency stop; and the story of each."""

from sqlmodel import Session
from starlette.responses import Response

from http_api import problems
from http_api.answers import OF_ORDERS, answer_to, idempotency_key, preferred_wait_s
from http_api.doorkeeper import address_of
from http_api.operations import Answers, Call, Operation, json_answer
from http_api.pages import page_answer
from http_api.problems import problem
from http_api.schemas import (
    AcceptedView,
    CloseBody,
    CommandsQuery,
    CommandView,
    FeederCommandBody,
    Page,
    SiteCommandBody,
)
from hub import sites
from hub.audit import Trail
from hub.command_states import CommandState
from hub.commands import brief
from hub.errors import InvalidOrder, NotFound
from hub.feeders import get_feeder
from hub.models import Command, CommandStep
from hub.orders import Order
from hub.protocol.times import utc_now
from hub.rights import OF_COMMANDS, Right
from hub.stories import close, list_commands, stories


async def command_feeder(call: Call) -> Response:
    body: FeederCommandBody = call.body
    if body.name == "feed" and "idempotency-key" not in call.request.headers:
        detail = "Send an Idempotency-Key header, a new one for each dose: a retried request must not feed twice."
        return problem(problems.KEY_REQUIRED, detail)
    return await _send(call, call.feeder, body.name, body.args)


async def command_site(call: Call) -> Response:
    body: SiteCommandBody = call.body
    if body.args:
        raise InvalidOrder(f"{body.name} has no arguments.")
    return await _send(call, None, body.name, {})


async def _send(call: Call, feeder: str | None, name: str, args: dict[str, object]) -> Response:
    wait_s = preferred_wait_s(call.request)
    key = idempotency_key(call.request, call.caller.id, [name, args])
    order = Order(call.site, feeder, name, call.caller.actor, args, key, call.caller.id, address_of(call.request))
    call.caller.require(OF_COMMANDS[name], call.site)
    command = await call.services.commands.send(order, wait_s)
    story: list[CommandStep] = []
    if command.state == CommandState.APPLIED:
        story = (await call.services.database.read(lambda session: stories(session, [command.id])))[command.id]
    return answer_to(command, asynchronous=wait_s == 0, story=story)


async def get_command(call: Call) -> Response:
    command_id = call.request.path_params["command"]

    def work(session: Session) -> tuple[Command, list[CommandStep]]:
        command = session.get(Command, command_id)
        if command is None or not call.caller.sees(command.site_id):
            raise NotFound(f"There is no command {command_id}.")
        return command, stories(session, [command_id])[command_id]

    return json_answer(CommandView.of(*await call.services.database.read(work)))


async def close_command(call: Call) -> Response:
    command_id, body, now = call.request.path_params["command"], call.body, utc_now()

    def work(session: Session, trail: Trail) -> tuple[Command, list[CommandStep]]:
        found = session.get(Command, command_id)
        if found is None or not call.caller.sees(found.site_id):
            raise NotFound(f"There is no command {command_id}.")
        call.caller.require(Right.OPERATE, found.site_id)
        command = close(session, command_id, call.caller.actor, body.remark, now)
        trail.note(site=command.site_id, target=command_id, after={"remark": body.remark})
        return command, stories(session, [command_id])[command_id]

    command, story = await call.change(work)
    call.services.stream.publish("command", command.site_id, brief(command))
    return json_answer(CommandView.of(command, story))


async def list_site_commands(call: Call) -> Response:
    return await _list(call, None)


async def list_feeder_commands(call: Call) -> Response:
    return await _list(call, call.feeder)


async def _list(call: Call, feeder: str | None) -> Response:
    query: CommandsQuery = call.query

    def work(session: Session) -> list[tuple[Command, list[CommandStep]]]:
        sites.get_site(session, call.site)
        if feeder is not None:
            get_feeder(session, call.site, feeder)
        found = list_commands(session, call.site, feeder, query.cursor, query.limit + 1, unresolved=query.unresolved)
        told = stories(session, [command.id for command in found])
        return [(command, told[command.id]) for command in found]

    found = await call.services.database.read(work)
    items = [CommandView.of(command, steps) for command, steps in found[: query.limit]]
    return page_answer(call, Page[CommandView], items, items[-1].id if len(found) > query.limit else None)


_SITE = "/sites/{site}"
_SENT: Answers = {
    200: ("The desktop carried it out", CommandView),
    202: ("On its way, or in the desktop's hands; Location tells where to ask", AcceptedView),
}
_LISTED = {200: ("A page of commands with their stories, the newest first", Page[CommandView])}

OPERATIONS = (
    Operation(
        "POST",
        _SITE + "/feeders/{feeder}/commands",
        Right.HANDLE,
        command_feeder,
        "Feed a dose, pause, resume or calibrate a feeder",
        _SENT,
        body=FeederCommandBody,
        problems=(*problems.OF_ORDERS, problems.KEY_REQUIRED),
        headers=("Idempotency-Key", "Prefer"),
        sends=OF_ORDERS,
    ),
    Operation(
        "POST",
        _SITE + "/commands",
        Right.STOP,
        command_site,
        "Stop or release a whole site, ping it, or ask it to report",
        _SENT,
        urgent=True,
        body=SiteCommandBody,
        problems=problems.OF_ORDERS,
        headers=("Idempotency-Key", "Prefer"),
        sends=OF_ORDERS,
    ),
    Operation(
        "GET",
        _SITE + "/commands",
        Right.READ,
        list_site_commands,
        "A site's commands",
        _LISTED,
        query=CommandsQuery,
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "GET",
        _SITE + "/feeders/{feeder}/commands",
        Right.READ,
        list_feeder_commands,
        "A feeder's commands",
        _LISTED,
        query=CommandsQuery,
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "GET",
        "/commands/{command}",
        Right.READ,
        get_command,
        "The state and the story of a command",
        {200: ("The command", CommandView)},
        problems=(problems.NOT_FOUND,),
    ),
    Operation(
        "POST",
        "/commands/{command}/close",
        Right.OPERATE,
        close_command,
        "Close a command whose outcome cannot be known, after somebody has looked",
        {200: ("The command", CommandView)},
        body=CloseBody,
        problems=(problems.NOT_FOUND, problems.NOT_UNRESOLVED),
    ),
)
