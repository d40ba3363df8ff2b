"""The HTTP load generator: `PUT config` on kept-alive connections, one request at a time on each.

The first line on stdin is {"port", "token", "status"}, the last one of what an answer must have; then `ChangeOrder`s
(see load.py).
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, cast

import httptools

from benchmarks.changes.change import CONFIG_BYTES, SITE, ChangeOrder, changes, config, feeder_ids, is_confirmed
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds

HOST: Final = "127.0.0.1"
_OK: Final = 200


def heads(port: int, token: str, feeders: int) -> list[bytes]:
    """For each feeder everything of its request that stands before the body."""
    return [
        (
            f"PUT /api/v1/sites/{SITE}/feeders/{feeder}/config HTTP/1.1\r\n"
            f"Host: {HOST}:{port}\r\n"
            f"Authorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {CONFIG_BYTES}\r\n"
            "\r\n"
        ).encode()
        for feeder in feeder_ids(feeders)
    ]


class Worker(asyncio.Protocol):
    """One connection: a request, its answer, the next request. `done` is set when nothing more will come."""

    def __init__(self, tally: Tally, heads: list[bytes], status: int, orders: Iterator[tuple[int, int]]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._heads = heads
        self._status = status
        self._orders = orders
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._meal_g = 0
        self._sent_at_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one without being its subclass

    def send_next(self) -> None:
        if not self._tally.goes_on():
            self.done.set_result(None)
            self._transport.close()
            return
        feeder, self._meal_g = next(self._orders)
        self._body = b""
        self._sent_at_s = time.perf_counter()
        self._transport.write(self._heads[feeder] + config(self._meal_g))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._tally.answered(self._sent_at_s)
        status = self._parser.get_status_code()
        if status != self._status or (status == _OK and not is_confirmed(self._meal_g, self._body)):
            self._tally.failed(f"{status} {self._body[:300].decode(errors='replace')}")
        self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._tally.failed(f"connection lost: {error}")
            self.done.set_result(None)


async def measure(order: ChangeOrder, *, port: int, token: str, status: int = _OK) -> Measured:
    loop = asyncio.get_running_loop()
    ready = heads(port, token, order.feeders)
    tally = Tally(order.seconds)
    workers = []
    for n in range(order.concurrency):
        orders = changes(n, order.concurrency, order.feeders)
        _, worker = await loop.create_connection(partial(Worker, tally, ready, status, orders), HOST, port)
        workers.append(worker)
    tally.begin()
    for worker in workers:
        worker.send_next()
    _, late = await asyncio.wait([worker.done for worker in workers], timeout=order.seconds + LAST_ANSWERS_WITHIN_S)
    for _ in late:
        tally.failed("no answer")
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(ChangeOrder, partial(measure, **json.loads(sys.stdin.readline())))
