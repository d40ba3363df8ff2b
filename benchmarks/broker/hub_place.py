"""The embedded broker with the hub's place in it: requests to a desktop outside, from inside the broker's process.

Its first line on stdin is {"secret"}, the password of everybody; it says its {"port"} on stdout. Then each line on
stdin is a `ChangeOrder`, each line on stdout a `Measured`.
"""

import asyncio
import json
import sys
from dataclasses import asdict, replace

import uvloop

from benchmarks.changes.change import ChangeOrder
from benchmarks.changes.mqtt_load import measure
from benchmarks.changes.raw_broker import embedded_broker


async def run(secret: str) -> None:
    async with embedded_broker(secret) as broker:
        print(json.dumps({"port": broker.port}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            measured = await measure(ChangeOrder(**json.loads(line)), port=broker.port, secret=secret)
            # Its share of a core is the broker's too.
            print(json.dumps(asdict(replace(measured, cpu_share=None))), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(**json.loads(sys.stdin.readline())))
