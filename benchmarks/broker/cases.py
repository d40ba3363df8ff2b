"""What is measured of the broker: each broker in a process of its own, each load generator in another."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.broker.certificate import Certificate
from benchmarks.broker.crowd import CrowdOrder
from benchmarks.load import Measured
from benchmarks.processes import Child, module
from benchmarks.rounds import Case, Meter, Round
from benchmarks.servers import READY_WITHIN_S, Server, bare_broker, mosquitto

MOSQUITTO: Final = "mosquitto"
OURS: Final = "Feeder Hub"
BESIDE_IDLE: Final = f"{OURS} beside idle"
_ALL_IN_WITHIN_S: Final = 60.0


# --- connections ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Door:
    """By which listener of which broker clients come in. `port`: the broker's name for that listener's port."""

    case: str
    port: str = "port"
    tls: bool = False
    web: bool = False

    @asynccontextmanager
    async def opened(self, work_dir: Path, certificate: Certificate) -> AsyncIterator[Server]:
        """A fresh broker."""
        if self.case == MOSQUITTO:
            broker = mosquitto(work_dir)
        else:
            flags = ["--" + self.port.replace("_", "-"), "0"]
            if self.tls:
                flags += ["--tls-cert", str(certificate.chain), "--tls-key", str(certificate.key)]
            broker = bare_broker(work_dir, *flags, name="fresh_broker")
        async with broker as server:
            yield server


DOORS: Final = (
    Door(MOSQUITTO),
    Door(OURS),
    Door(f"{OURS}, WebSocket", "ws_port", web=True),
    Door(f"{OURS}, TLS", "tls_port", tls=True),
    Door(f"{OURS}, TLS WebSocket", "wss_port", tls=True, web=True),
)


@asynccontextmanager
async def crowd(work_dir: Path, order: CrowdOrder) -> AsyncIterator[Child]:
    """Clients that are about to come; anything said to them lets them in."""
    async with Child.started("crowd", module("broker.crowd"), work_dir) as clients:
        await clients.say(**asdict(order))
        await clients.hear(READY_WITHIN_S)
        yield clients


async def let_in(clients: Child) -> Measured:
    """Raises ChildFailed."""
    await clients.say()
    return Measured(**await clients.hear(_ALL_IN_WITHIN_S))


async def connections(
    number: int, what: str, door: Door, count: int, work_dir: Path, certificate: Certificate
) -> Round:
    """One round: a broker just started, as the crowd that returns after a restart finds it. Raises ChildFailed."""
    async with door.opened(work_dir, certificate) as server:
        trusted = str(certificate.authority) if door.tls else None
        order = CrowdOrder(count, server.port_of(door.port), server.port, trusted, door.web)
        async with crowd(work_dir, order) as clients:
            meter = Meter(server.process)
            measured = await let_in(clients)
            return Round(number, what, door.case, measured, meter.cpu_s(), meter.grown_bytes())


# --- messages ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def beside_idle(work_dir: Path, count: int) -> AsyncIterator[Server]:
    """Our broker with so many subscribers for whom nothing is published."""
    async with (
        bare_broker(work_dir, name="broker_with_crowd") as server,
        crowd(work_dir, CrowdOrder(count, server.port, server.port)) as clients,
    ):
        await let_in(clients)
        yield server


@asynccontextmanager
async def request_from_hub_place(work_dir: Path) -> AsyncIterator[Case]:
    """The same from the hub's place inside the embedded broker; the desktop is a process of its own."""
    secret = secrets.token_urlsafe(32)
    async with (
        Child.started("hub_place", module("broker.hub_place"), work_dir) as broker,
        Child.started("hub_place_echo", module("changes.echo_desktop"), work_dir) as echo,
    ):
        await broker.say(secret=secret, store=str(work_dir / "hub_place.db"))
        port = (await broker.hear(READY_WITHIN_S))["port"]
        await echo.say(port=port, secret=secret)
        await echo.hear(READY_WITHIN_S)
        yield Case(OURS, broker, broker)
