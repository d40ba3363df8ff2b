"""The product's embedded broker alone: its rights and its client ids, for one hub and one site."""

import sys
from pathlib import Path

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
