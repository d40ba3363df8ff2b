"""Pages of a list: what each has, and where the next one is, in the body and as a `Link` (RFC 8288)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import Response

from http_api.operations import Call, json_answer
from http_api.schemas import Page, View


def page_answer(
    call: Call,
    page: type[Page[Any]],
    items: Sequence[View],
    next_cursor: object | None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """A page, as it is declared, of these items; next_cursor: where the next one begins, None after the last."""
    cursor = None if next_cursor is None else str(next_cursor)
    return json_answer(page(items=list(items), next=cursor), headers={**headers, **next_link(call, cursor)})


def next_link(call: Call, cursor: str | None) -> dict[str, str]:
    """The header that leads to the next page: the same call with another cursor."""
    if cursor is None:
        return {}
    query = urlencode({**call.request.query_params, "cursor": cursor})
    return {"Link": f'<{quote(call.request.scope["path"])}?{query}>; rel="next"'}
