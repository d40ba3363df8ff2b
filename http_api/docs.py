"""`/docs`: the OpenAPI document as a page, with everything it needs from this hub."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from http_api import problems
from http_api.problems import problem

STATIC: Final = Path(__file__).parent / "static"
_HERE: Final = {
    "docs.css": STATIC,
    "docs.js": STATIC,
    "swagger-ui.css": STATIC / "swagger-ui",
    "swagger-ui-bundle.js": STATIC / "swagger-ui",
}
"""All that the page fetches, and nothing else, is given out."""
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # It is asked for again each time, and answered 304: a new hub shows its own.
    "Cache-Control": "no-cache",
}


async def docs_page(request: Request) -> Response:
    return await _file(STATIC, "docs.html", request)


async def docs_file(request: Request) -> Response:
    name = request.path_params["file"]
    if name not in _HERE:
        return problem(problems.NOT_FOUND, f"There is nothing at {request.scope['path']}.")
    return await _file(_HERE[name], name, request)


async def _file(directory: Path, name: str, request: Request) -> Response:
    """With an ETag; 304 for who has it already."""
    response = await StaticFiles(directory=directory).get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response
