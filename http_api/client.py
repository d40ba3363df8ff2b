"""A client of the HTTP API: it repeats what may be repeated, and knows whether anything may have been done.

A request that was cut may have been carried out. It is repeated where that is safe: where it only reads, or carries an
Idempotency-Key that the call knows.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from http_api.app import OPERATIONS, PREFIX
from http_api.paths import PathTree
from hub.errors import HubError

CONNECT_WITHIN_S: Final = 5.0
ANSWERED_WITHIN_S: Final = 130.0
"""A change may wait for 120 s."""
STREAM_SILENT_FOR_S: Final = 40.0
"""The hub says something every 15 s: a stream that is silent for longer is cut."""
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 10.0
_WITH_KEY: Final = PathTree[frozenset[str]]()
"""The methods of a path that know an Idempotency-Key."""
for _path in {operation.path for operation in OPERATIONS}:
    _WITH_KEY.add(
        _path,
        frozenset(one.method for one in OPERATIONS if one.path == _path and "Idempotency-Key" in one.headers),
    )


class Unreachable(HubError):
    """The hub did not answer, and nothing was done."""


class OutcomeUnknown(HubError):
    """The connection was cut: it may have been done or not."""


@dataclass(frozen=True, slots=True)
class Request:
    """path: below `/api/v1/`, with its query."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def may_be_repeated(self) -> bool:
        return self.method == "GET" or ("Idempotency-Key" in self.headers and takes_key(self.method, self.path))


def takes_key(method: str, path: str) -> bool:
    """Whether that call knows an Idempotency-Key."""
    methods, _ = _WITH_KEY.find("/" + path.partition("?")[0])
    return methods is not None and method in methods


def below_prefix(path: str) -> str:
    """`/sites`, `sites` and `/api/v1/sites` (as a Location has it) are the same."""
    return path.lstrip("/").removeprefix(PREFIX.lstrip("/") + "/")


class Client:
    """`with Client(url, token, patience_s) as client`. patience_s: how long it tries to reach the hub."""

    def __init__(self, url: str, token: str | None, patience_s: float) -> None:
        self._patience_s = patience_s
        self._client = httpx.Client(
            base_url=url.rstrip("/") + PREFIX + "/",
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(ANSWERED_WITHIN_S, connect=CONNECT_WITHIN_S),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, request: Request) -> httpx.Response:
        """The answer, whatever its status. Raises Unreachable or OutcomeUnknown."""
        ends_at_s = time.monotonic() + self._patience_s
        was_cut = False
        for pause_s in _pauses():
            answer, fault = None, ""
            try:
                answer = self._send(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                fault = _said(error)
            except httpx.TransportError as error:
                was_cut, fault = True, _said(error)
            wait_s = pause_s if answer is None else _retry_after_s(request, answer)
            in_vain = wait_s is None or time.monotonic() + wait_s > ends_at_s
            if answer is not None and in_vain:
                return answer
            if was_cut and request.method != "GET" and (in_vain or not request.may_be_repeated):
                raise OutcomeUnknown(f"The connection to the hub was cut ({fault}): it may have been done or not.")
            if in_vain:
                raise Unreachable(f"The hub at {self._client.base_url} does not answer: {fault}.")
            time.sleep(wait_s or 0.0)
        raise AssertionError("pauses do not end")

    def _send(self, request: Request) -> httpx.Response:
        headers = request.headers if request.body is None else {"Content-Type": "application/json", **request.headers}
        return self._client.request(request.method, request.path, content=request.body, headers=headers)

    def watch(self, site: str | None, after: str | None) -> Iterator[ServerSentEvent]:
        """The live stream, which goes on after a cut where it was. It ends only with an error.

        Raises Refused where the hub does not let it in, or Unreachable where the first connection comes to nothing.
        """
        ends_at_s: float | None = time.monotonic() + self._patience_s
        pauses = _pauses()
        while True:
            fault = "it ended the stream"
            try:
                for event in self._listen(site, after):
                    ends_at_s, pauses = None, _pauses()
                    if event is None:
                        continue
                    after = event.id or after
                    yield event
            except (httpx.TransportError, SSEError) as error:
                fault = _said(error)
            pause_s = next(pauses)
            if ends_at_s is not None and time.monotonic() + pause_s > ends_at_s:
                raise Unreachable(f"The hub at {self._client.base_url} does not answer: {fault}.")
            time.sleep(pause_s)

    def _listen(self, site: str | None, after: str | None) -> Iterator[ServerSentEvent | None]:
        """The events of one connection; None once it stands. It ends without any where the hub is busy."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after is not None:
            headers["Last-Event-ID"] = after
        silence = httpx.Timeout(STREAM_SILENT_FOR_S, connect=CONNECT_WITHIN_S)
        params = {} if site is None else {"site": site}
        with self._client.stream("GET", "events", params=params, headers=headers, timeout=silence) as answer:
            if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
                return
            if not answer.is_success:
                answer.read()
                raise Refused(answer)
            if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                raise SSEError("what is there is no event stream")
            yield None
            for event in EventSource(answer).iter_sse():
                if event.data:
                    yield event


class Refused(HubError):
    """The hub does not let a watcher in; `answer` says why."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"The hub answers {answer.status_code}.")
        self.answer = answer


def _pauses() -> Iterator[float]:
    """Seconds between two tries: ever longer, and not the same for everybody."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - it only spreads the tries
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _retry_after_s(request: Request, answer: httpx.Response) -> float | None:
    """In how many seconds the hub wants to be asked again; None: this is the answer."""
    wait = answer.headers.get("Retry-After", "")
    is_safe = answer.status_code == httpx.codes.TOO_MANY_REQUESTS or (
        answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and request.may_be_repeated
    )
    return float(wait) if is_safe and wait.isdecimal() else None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
