"""The product's embedded broker alone in a process: its rights and its client ids, for one hub and one site.

Its one line on stdin is {"secret"}, the password of both; it says its {"port"} on stdout.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import uvloop

from benchmarks.changes.change import SITE
from benchmarks.changes.mqtt_load import HUB
from broker.guard import Credentials, Refusal
from broker.server import BrokerOptions, EmbeddedBroker
from hub.protocol.topics import Identity, Topics


def complain(refusal: Refusal) -> None:
    print(refusal, file=sys.stderr, flush=True)


def embedded_broker(secret: str, store: Path | None = None) -> EmbeddedBroker:
    """On a free port, not started yet. `store`: the file for what survives, if anything is to."""
    identities = {HUB: Identity("hub", HUB), SITE: Identity("site", SITE)}

    async def authenticate(shown: Credentials) -> Identity | None:
        return identities.get(shown.username or "") if shown.password == secret.encode() else None

    return EmbeddedBroker(BrokerOptions(port=0, store=store), authenticate, Topics(), complain)


async def run(secret: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with embedded_broker(secret) as broker:
        print(json.dumps({"port": broker.port}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(**json.loads(sys.stdin.readline())))
