"""The application: every operation routed, guarded and documented from its one declaration."""

import json
from collections.abc import Awaitable, Callable

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from http_api import commands, feeders, problems, service, sites, stream
from http_api.openapi import document
from http_api.operations import Doorkeeper, Operation, Services, answer
from http_api.problems import problem

PREFIX = "/api/v1"
OPERATIONS: tuple[Operation, ...] = (
    *sites.OPERATIONS,
    *feeders.OPERATIONS,
    *commands.OPERATIONS,
    *stream.OPERATIONS,
)

log = structlog.get_logger()


def create_app(services: Services) -> Starlette:
    """The ASGI application for these services."""
    doorkeeper = Doorkeeper(services)
    openapi = json.dumps(document(OPERATIONS, services.version, PREFIX)).encode()

    async def openapi_json(_request: Request) -> Response:
        return Response(openapi, media_type="application/json")

    by_path: dict[str, list[Operation]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, []).append(operation)
    app = Starlette(
        routes=[
            *(
                Route(PREFIX + path, _endpoint(found, doorkeeper), methods=_methods(found))
                for path, found in by_path.items()
            ),
            Route(PREFIX + "/openapi.json", openapi_json),
            Route("/docs/problems", service.problem_page),
            Route("/healthz", service.healthz),
            Route("/readyz", service.readyz),
            Route("/metrics", service.metrics),
        ],
        exception_handlers={HTTPException: _http_problem, Exception: _internal_problem},
    )
    app.router.redirect_slashes = False
    app.state.services = services
    return app


def _methods(operations: list[Operation]) -> list[str]:
    return [operation.method for operation in operations]


def _endpoint(operations: list[Operation], doorkeeper: Doorkeeper) -> Callable[[Request], Awaitable[Response]]:
    by_method = {operation.method: operation for operation in operations}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]

    async def endpoint(request: Request) -> Response:
        return await answer(by_method[request.method], doorkeeper, request)

    return endpoint


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == problems.NO_SUCH_METHOD.status:
        detail = f"{request.url.path} does not know {request.method}; it knows {headers.get('Allow', '')}."
        return problem(problems.NO_SUCH_METHOD, detail, headers)
    return problem(problems.NOT_FOUND, f"There is nothing at {request.url.path}.", headers)


async def _internal_problem(request: Request, error: Exception) -> Response:
    log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return problem(problems.INTERNAL, "The hub made a mistake; its log says more.")
