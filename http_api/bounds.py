"""What a request may take: of bytes, of depth and of time. What breaks a bound gets a clear answer, and its end."""

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from http_api import problems
from http_api.headers import Headers
from http_api.one_write import OneWriteProtocol
from http_api.problems import Problem, problem
from hub.errors import InvalidOrder

_LOOK_EVERY_S: Final = 1.0
_APPLICATION_ANSWERS_WITHIN_S: Final = 2.0
"""A slow body is answered by whoever reads it; only then is the connection cut."""
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_REASONS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """0: none. request_within_s: from a request's first byte to its last; a new connection has it for its first one."""

    body_bytes: int = 65_536
    json_depth: int = 32
    json_values: int = 10_000
    request_line_bytes: int = 8192
    head_bytes: int = 32_768
    request_within_s: float = 30.0


def check_json(raw: bytes, bounds: Bounds) -> None:
    """Before anything is made of it. Raises InvalidOrder. What is no JSON at all is told by whoever reads it."""
    opened = raw.count(b"[") + raw.count(b"{")
    is_deep = bounds.json_depth and opened > bounds.json_depth
    is_long = bounds.json_values and opened + raw.count(b",") > bounds.json_values
    if not is_deep and not is_long:
        return
    bare = _STRING.sub(b"", raw)
    if is_long and bare.count(b"[") + bare.count(b"{") + bare.count(b",") > bounds.json_values:
        raise InvalidOrder(f"JSON has at most {bounds.json_values} values here.")
    if is_deep and _is_deeper(bare, bounds.json_depth):
        raise InvalidOrder(f"JSON has at most {bounds.json_depth} levels here.")


def _is_deeper(bare: bytes, levels: int) -> bool:
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > levels:
            return True
    return False


class _Refused(Exception):
    """Ends the parsing of a request."""


class BoundedProtocol(OneWriteProtocol):
    """uvicorn's HTTP, with bounds for what comes before an application is asked, and for how long it takes to come."""

    bounds = Bounds()
    headers_of_answers = Headers()

    def __init__(self, *how: Any, **named: Any) -> None:
        super().__init__(*how, **named)
        self._refusal: tuple[Problem, str] | None = None
        self._in_head = False
        self._head_bytes = 0
        self._receiving_since_s: float | None = time.monotonic()

    def data_received(self, data: bytes) -> None:
        if self._receiving_since_s is None and self._is_idle():
            self._receiving_since_s = time.monotonic()
        began_before = self._in_head
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            # What comes behind another request in the same bytes is counted by what is known of it.
            self._head_bytes = self._head_bytes + len(data) if began_before else self._known_head_bytes()
            self._check_head(self._head_bytes)
            if self._refusal is not None:
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        if self._receiving_since_s is None:  # behind another one in the same bytes
            self._receiving_since_s = time.monotonic()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._check_head(self._known_head_bytes())
        if self._refusal is not None:
            raise _Refused
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receiving_since_s = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """An answer to what is no HTTP; here to whatever the application is not asked about."""
        if not self._is_idle():  # it would land in the middle of another answer
            self.transport.abort()
            return
        kind, detail = self._refusal or (problems.NO_HTTP, msg)
        self.transport.write(_as_bytes(self.headers_of_answers.put_on(problem(kind, detail, {"Connection": "close"}))))
        self.transport.close()

    def look(self, now_s: float) -> None:
        """Now and then: whether the request that is coming takes too long."""
        since_s, within_s = self._receiving_since_s, self.bounds.request_within_s
        if since_s is None or not within_s or now_s - since_s < within_s or self.transport.is_closing():
            return
        if self._in_head or self._is_idle():
            self._refusal = problems.REQUEST_TIMEOUT, f"A request has to be here within {within_s:g} s."
            self.send_400_response("")
        elif now_s - since_s >= within_s + _APPLICATION_ANSWERS_WITHIN_S:
            self.transport.abort()

    def _is_idle(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # there is none before the first request
        return cycle is None or cycle.response_complete

    def _known_head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _check_head(self, head_bytes: int) -> None:
        bounds = self.bounds
        if bounds.request_line_bytes and len(self.url) > bounds.request_line_bytes:
            self._refusal = (
                problems.URI_TOO_LONG,
                f"A path and its query have at most {bounds.request_line_bytes} bytes.",
            )
        elif bounds.head_bytes and head_bytes > bounds.head_bytes:
            self._refusal = problems.HEAD_TOO_LARGE, f"The headers have at most {bounds.head_bytes} bytes together."


def protocol(bounds_: Bounds, headers: Headers) -> type[BoundedProtocol]:
    """The protocol class for uvicorn, which makes one of each connection."""

    class Protocol(BoundedProtocol):
        bounds = bounds_
        headers_of_answers = headers

    return Protocol


async def watch(connections: Iterable[object]) -> None:
    """For as long as the server is there."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        now_s = time.monotonic()
        for connection in list(connections):
            if isinstance(connection, BoundedProtocol):
                connection.look(now_s)


def _as_bytes(response: Response) -> bytes:
    lines = [f"HTTP/1.1 {response.status_code} {_REASONS[response.status_code]}".encode()]
    lines += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
