"""The embedded broker with the hub's place in it: requests to a desktop outside, from inside the broker's process.

Its first line on stdin is {"secret", "store"}, the desktop's password and the file for what survives; it says its
{"port"} on stdout. Then each line on stdin is a `ChangeOrder`, each line on stdout a `Measured`.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from benchmarks.broker.embedded import embedded_broker
from benchmarks.changes.change import ChangeOrder
from benchmarks.changes.mqtt_load import HUB, REPLY_TO, Exchange
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, Tally
from broker.server import EmbeddedBroker
from hub.protocol.link import Message
from hub.protocol.topics import Identity
from main import THREADS_TAKE_TURNS_EVERY_S


async def measure(broker: EmbeddedBroker, order: ChangeOrder) -> Measured:
    tally = Tally(order.seconds)
    exchange = Exchange(tally, order)

    def receive(reply: Message) -> None:
        reply.acknowledge()
        exchange.take(reply.payload)

    async with broker.link(Identity("hub", HUB), HUB, ((REPLY_TO, 1),)).running(receive) as link:
        tally.begin()
        exchange.begin(link)
        await asyncio.wait({exchange.done}, timeout=order.seconds + LAST_ANSWERS_WITHIN_S)
    exchange.give_up()
    return tally.measured(has_own_process=False)


async def run(secret: str, store: str) -> None:
    async with embedded_broker(secret, Path(store)) as broker:
        print(json.dumps({"port": broker.port}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(asdict(await measure(broker, ChangeOrder(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    sys.setswitchinterval(THREADS_TAKE_TURNS_EVERY_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(**json.loads(sys.stdin.readline())))
