"""The load generator of pages: the same GET again and again on kept-alive connections, one at a time on each.

The first line on stdin is {"port", "token"}; then `GetOrder`s (see load.py).
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import httptools

from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds

HOST: Final = "127.0.0.1"
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class GetOrder:
    """One round: so many requests for a path at once. items: what each page must have."""

    path: str
    items: int
    concurrency: int
    seconds: float


class Worker(asyncio.Protocol):
    """One connection: a request, its answer, the next request. `done` is set when nothing more will come."""

    def __init__(self, tally: Tally, request: bytes, items: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._request = request
        self._items = items
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._sent_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass

    def send_next(self) -> None:
        if not self._tally.goes_on():
            self.done.set_result(None)
            self._transport.close()
            return
        self._body = b""
        self._sent_at_s = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._tally.answered(self._sent_at_s)
        status = self._parser.get_status_code()
        if status != _OK or self._body.count(b'"alive":true') != self._items:
            self._tally.failed(f"{status} {self._body[:300].decode(errors='replace')}")
        self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._tally.failed(f"connection lost: {error}")
            self.done.set_result(None)


async def measure(order: GetOrder, *, port: int, token: str) -> Measured:
    loop = asyncio.get_running_loop()
    request = f"GET {order.path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    tally = Tally(order.seconds)
    workers = []
    for _ in range(order.concurrency):
        _, worker = await loop.create_connection(partial(Worker, tally, request, order.items), HOST, port)
        workers.append(worker)
    tally.begin()
    for worker in workers:
        worker.send_next()
    _, late = await asyncio.wait([worker.done for worker in workers], timeout=order.seconds + LAST_ANSWERS_WITHIN_S)
    for _ in late:
        tally.failed("no answer")
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(GetOrder, partial(measure, **json.loads(sys.stdin.readline())))
