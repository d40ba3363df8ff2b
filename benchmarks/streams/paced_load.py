"""The generator of changes at a pace: `PUT config` as often as is ordered, and no more often where it could.

The first line on stdin is {"port", "token"}; then `PacedOrder`s (see load.py).
"""

import asyncio
import json
import sys
from functools import partial
from typing import Any

from benchmarks.changes.change import changes
from benchmarks.changes.http_load import HOST, Worker, heads
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds
from benchmarks.streams.orders import PacedOrder


class PacedWorker(Worker):
    """One request each `every_s`; one that has to wait for the answer before it goes out at once."""

    def __init__(self, every_s: float, *worker: Any) -> None:
        super().__init__(*worker)
        self._every_s = every_s
        self._due_s = 0.0

    def begin(self, at_s: float) -> None:
        self._due_s = at_s
        asyncio.get_running_loop().call_at(at_s, super().send_next)

    def send_next(self) -> None:
        self._due_s += self._every_s
        asyncio.get_running_loop().call_at(self._due_s, super().send_next)


async def measure(order: PacedOrder, *, port: int, token: str) -> Measured:
    loop = asyncio.get_running_loop()
    ready = heads(port, token, order.feeders)
    tally = Tally(order.seconds)
    every_s = order.workers / order.per_second
    workers = []
    for n in range(order.workers):
        orders = changes(n, order.workers, order.feeders)
        _, worker = await loop.create_connection(partial(PacedWorker, every_s, tally, ready, 200, orders), HOST, port)
        workers.append(worker)
    tally.begin()
    for n, worker in enumerate(workers):
        worker.begin(loop.time() + n / order.per_second)
    within_s = order.seconds + every_s + LAST_ANSWERS_WITHIN_S
    _, late = await asyncio.wait([worker.done for worker in workers], timeout=within_s)
    for _ in late:
        tally.failed("no answer")
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(PacedOrder, partial(measure, **json.loads(sys.stdin.readline())))
