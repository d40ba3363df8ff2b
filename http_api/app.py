"""The application: every operation routed, guarded and documented from its one declaration."""

import functools
import json
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from http_api import commands, feeders, problems, service, sites, stream
from http_api.openapi import document
from http_api.operations import Doorkeeper, Operation, Services, answer
from http_api.problems import problem
from http_api.requests import Request
from http_api.routes import Routes

PREFIX: Final = "/api/v1"
OPERATIONS: tuple[Operation, ...] = (
    *sites.OPERATIONS,
    *feeders.OPERATIONS,
    *commands.OPERATIONS,
    *stream.OPERATIONS,
)
Endpoint = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


class App:
    """The ASGI application for these services.

    Its own, and not Starlette's: that looks through the routes one after the other, and its layers cost as much as what
    most calls do.
    """

    def __init__(self, services: Services) -> None:
        doorkeeper = Doorkeeper(services)
        openapi = json.dumps(document(OPERATIONS, services.version, PREFIX)).encode()

        async def openapi_json(_request: Request) -> Response:
            return Response(openapi, media_type="application/json")

        endpoints: dict[str, dict[str, Endpoint]] = {
            PREFIX + "/openapi.json": {"GET": openapi_json},
            "/docs/problems": {"GET": service.problem_page},
            "/healthz": {"GET": service.healthz},
            "/readyz": {"GET": functools.partial(service.readyz, services)},
            "/metrics": {"GET": service.metrics},
        }
        for operation in OPERATIONS:
            by_method = endpoints.setdefault(PREFIX + operation.path, {})
            by_method[operation.method] = functools.partial(answer, operation, doorkeeper)
        self._routes = Routes[dict[str, Endpoint]]()
        for path, by_method in endpoints.items():
            if "GET" in by_method:
                by_method["HEAD"] = by_method["GET"]
            self._routes.add(path, by_method)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        found, path_params = self._routes.find(scope["path"])
        request = Request.of(scope, receive, path_params)
        try:
            response = await _answer(found or {}, request)
        except Exception as error:
            log.error("request failed", method=request.method, path=request.path, exc_info=error)
            response = problem(problems.INTERNAL, "The hub made a mistake; its log says more.")
        await response(scope, receive, send)


async def _answer(endpoints: dict[str, Endpoint], request: Request) -> Response:
    if (endpoint := endpoints.get(request.method)) is not None:
        return await endpoint(request)
    if not endpoints:
        return problem(problems.NOT_FOUND, f"There is nothing at {request.path}.")
    allowed = ", ".join(sorted(endpoints))
    detail = f"{request.path} does not know {request.method}; it knows {allowed}."
    return problem(problems.NO_SUCH_METHOD, detail, {"Allow": allowed})
