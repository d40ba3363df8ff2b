"""The application: every operation routed, guarded and documented from its one declaration."""

import functools
import json
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from http_api import (
    audit,
    commands,
    docs,
    feeders,
    logins,
    onboarding,
    people,
    problems,
    rollouts,
    service,
    sites,
    stream,
    tokens,
)
from http_api.asyncapi import asyncapi_document
from http_api.doorkeeper import Doorkeeper
from http_api.headers import Headers
from http_api.openapi import document
from http_api.operations import Operation, Services, answer
from http_api.paths import PathTree
from http_api.problems import problem

PREFIX: Final = "/api/v1"
OPERATIONS: tuple[Operation, ...] = (
    *sites.OPERATIONS,
    *onboarding.OPERATIONS,
    *feeders.OPERATIONS,
    *commands.OPERATIONS,
    *rollouts.OPERATIONS,
    *stream.OPERATIONS,
    *logins.OPERATIONS,
    *people.OPERATIONS,
    *tokens.OPERATIONS,
    *audit.OPERATIONS,
)
Endpoint = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


def create_app(services: Services, headers: Headers) -> Starlette:
    """The ASGI application for these services. headers: what every answer has."""
    doorkeeper = Doorkeeper(services.database)
    openapi = json.dumps(document(OPERATIONS, services.version, PREFIX)).encode()

    asyncapi = json.dumps(asyncapi_document(services.topics, services.version)).encode()

    async def openapi_json(_request: Request) -> Response:
        return Response(openapi, media_type="application/json")

    async def asyncapi_json(_request: Request) -> Response:
        return Response(asyncapi, media_type="application/json")

    endpoints: dict[str, dict[str, Endpoint]] = {
        PREFIX + "/openapi.json": {"GET": openapi_json},
        PREFIX + "/asyncapi.json": {"GET": asyncapi_json},
        "/docs": {"GET": docs.docs_page},
        "/docs/static/{file}": {"GET": docs.docs_file},
        "/docs/problems": {"GET": service.problem_page},
        "/healthz": {"GET": service.healthz},
        "/readyz": {"GET": functools.partial(service.readyz, services)},
        "/metrics": {"GET": service.metrics},
    }
    for operation in OPERATIONS:
        by_method = endpoints.setdefault(PREFIX + operation.path, {})
        by_method[operation.method] = functools.partial(answer, operation, services, doorkeeper)
    return Starlette(routes=[AllPaths(endpoints, headers)])


class AllPaths(BaseRoute):
    """One route for every path: Starlette's own are tried one after the other, and here are many."""

    def __init__(self, endpoints: dict[str, dict[str, Endpoint]], headers: Headers) -> None:
        self._headers = headers
        self._tree = PathTree[dict[str, Endpoint]]()
        for path, by_method in endpoints.items():
            if "GET" in by_method:
                by_method["HEAD"] = by_method["GET"]
            self._tree.add(path, by_method)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http":
            return Match.NONE, {}
        by_method, path_params = self._tree.find(scope["path"])
        return Match.FULL, {"endpoint": by_method or {}, "path_params": path_params}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await _answer(scope["endpoint"], request)
        except Exception as error:
            log.error("request failed", method=request.method, path=scope["path"], exc_info=error)
            response = problem(problems.INTERNAL, "The hub made a mistake; its log says more.")
        await self._headers.put_on(response)(scope, receive, send)


async def _answer(endpoints: dict[str, Endpoint], request: Request) -> Response:
    if (endpoint := endpoints.get(request.method)) is not None:
        return await endpoint(request)
    path = request.scope["path"]
    if not endpoints:
        return problem(problems.NOT_FOUND, f"There is nothing at {path}.")
    allowed = ", ".join(sorted(endpoints))
    detail = f"{path} does not know {request.method}; it knows {allowed}."
    return problem(problems.NO_SUCH_METHOD, detail, {"Allow": allowed})
