"""The MQTT load generator: the hub's side of a raw request/response, on one connection as the hub has one.

It publishes what the hub would publish for a change and waits for the desktop's reply; no rows, no liveness, no HTTP.
The first line on stdin is {"port", "secret"}; then `ChangeOrder`s (see load.py).
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Final, Protocol

from benchmarks.changes.change import SITE, ChangeOrder, changes, config, feeder_ids, is_confirmed
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally, serve_rounds
from benchmarks.mqtt import MqttClient
from hub.protocol.packets import Connect
from hub.protocol.topics import Topics

HUB: Final = "hub"
_HUB_ID: Final = "load"
REPLY_TO: Final = Topics().replies(SITE, _HUB_ID)
_COMMAND: Final = (
    b'{"id":"%026d","name":"set_config","args":{"config":%b,"config_version":%d,"local_rev":0,"time_zone":"UTC"},'
    b'"session":"01JD0000000000000000000000","journal_id":"01JD0000000000000000000000","stop_epoch":0,'
    b'"reply_to":"' + REPLY_TO.encode() + b'","issued_at":"2026-01-01T00:00:00.000Z",'
    b'"expires_at":"2026-01-01T00:00:05.000Z"}'
)


class Publisher(Protocol):
    """Whatever carries orders to the desktop."""

    def publish(self, topic: str, payload: bytes) -> None: ...


class Exchange:
    """All requests of one round, by id. `done` is set when every worker has had its last answer."""

    def __init__(self, tally: Tally, order: ChangeOrder) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._topics = [Topics().commands(SITE, feeder) for feeder in feeder_ids(order.feeders)]
        self._workers = [changes(n, order.concurrency, order.feeders) for n in range(order.concurrency)]
        self._asked: dict[int, tuple[Iterator[tuple[int, int]], int, float]] = {}
        self._last_id = 0

    def begin(self, link: Publisher) -> None:
        self._link = link
        for worker in self._workers:
            self._send_next(worker)

    def _send_next(self, worker: Iterator[tuple[int, int]]) -> None:
        if not self._tally.goes_on():
            if not self._asked:
                self.done.set_result(None)
            return
        feeder, meal_g = next(worker)
        self._last_id += 1
        payload = _COMMAND % (self._last_id, config(meal_g), self._last_id)
        self._asked[self._last_id] = worker, meal_g, time.perf_counter()
        self._link.publish(self._topics[feeder], payload)

    def take(self, payload: bytes) -> None:
        """A reply."""
        reply = json.loads(payload)
        worker, meal_g, sent_at_s = self._asked.pop(int(reply["id"]))
        self._tally.answered(sent_at_s)
        if reply["status"] != "applied" or not is_confirmed(meal_g, payload):
            self._tally.failed(payload[:300].decode(errors="replace"))
        self._send_next(worker)

    def give_up(self) -> None:
        """What is not answered now is an error."""
        for _ in self._asked:
            self._tally.failed("no reply")


async def measure(order: ChangeOrder, *, port: int, secret: str) -> Measured:
    tally = Tally(order.seconds)
    exchange = Exchange(tally, order)
    connect = Connect(f"{HUB}-{_HUB_ID}", username=HUB, password=secret.encode())
    client = await MqttClient.open(port, connect, lambda message: exchange.take(message.payload))
    await client.subscribe(REPLY_TO)
    tally.begin()
    exchange.begin(client)
    longest_s = order.seconds + LAST_ANSWERS_WITHIN_S
    await asyncio.wait({exchange.done, client.lost}, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
    exchange.give_up()
    client.close()
    await client.lost
    return tally.measured()


if __name__ == "__main__":
    serve_rounds(ChangeOrder, partial(measure, **json.loads(sys.stdin.readline())))
