"""The part `streams` of a benchmark: changes at a pace while nobody listens, and while many do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.changes.cases import UNLIMITED_CALLS, hub_greeting, until_alive
from benchmarks.changes.change import SITE
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured
from benchmarks.processes import FEEDER_HUB, Child, module, output_of
from benchmarks.report import Median
from benchmarks.rounds import Meter, Round, Step
from benchmarks.servers import READY_WITHIN_S
from benchmarks.streams.orders import ListenOrder, PacedOrder
from benchmarks.targets import Target

NAME: Final = "streams"
CHANGES_PER_S: Final = 100.0
WORKERS: Final = 16
FEEDERS: Final = 64
WITHOUT: Final = "nobody listens"
CHANGES: Final = "PUT config"
EVENTS: Final = "reply to event"
_OPEN_WITHIN_S: Final = 60.0
_SLACK_S: Final = 20.0


def while_listening(clients: int) -> str:
    return f"{clients} streams"


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, clients: int) -> AsyncIterator[list[Step]]:
    """The hub as it comes, one site and its desktop, and `clients` event streams of one token."""
    data_dir = work_dir / "data-streams"
    site = await output_of(
        [*FEEDER_HUB, "site", "add", SITE, "--feeders", str(FEEDERS), "--json", "--data-dir", str(data_dir)]
    )
    serve = [*FEEDER_HUB, "serve", "--data-dir", str(data_dir), "--http-port", "0", "--mqtt-port", "0"]
    async with (
        Child.started("hub_streams", serve, work_dir, {"stream__max_per_caller": 0} | UNLIMITED_CALLS) as hub,
        Child.started("crowd", module("streams.crowd"), work_dir) as crowd,
        Child.started("paced", module("streams.paced_load"), work_dir) as load,
    ):
        http_port, mqtt_port, token = await hub_greeting(hub)
        access = {"http_port": http_port, "token": token}
        await crowd.say(mqtt_port=mqtt_port, secret=site["mqtt"]["secret"], **access)
        await crowd.hear(READY_WITHIN_S)
        await until_alive(http_port, token)
        await load.say(port=http_port, token=token)
        yield [
            _step(hub, crowd, load, what, case, listening, seconds)
            for what, case, listening in (
                (CHANGES, WITHOUT, 0),
                (CHANGES, while_listening(clients), clients),
                (EVENTS, while_listening(clients), clients),
            )
        ]


def _step(hub: Child, crowd: Child, load: Child, what: str, case: str, clients: int, seconds: float) -> Step:
    async def run(number: int, seconds: float) -> Round:
        await crowd.say(**asdict(ListenOrder(clients)))
        await crowd.hear(_OPEN_WITHIN_S)
        meter = Meter(hub)
        await load.say(**asdict(PacedOrder(CHANGES_PER_S, WORKERS, FEEDERS, seconds)))
        changed = Measured(**await load.hear(seconds + LAST_ANSWERS_WITHIN_S + _SLACK_S))
        await crowd.say(**asdict(ListenOrder(0)))
        told = Measured(**await crowd.hear(LAST_ANSWERS_WITHIN_S + _SLACK_S))
        return Round(number, what, case, told if what == EVENTS else changed, meter.cpu_s())

    made: Callable[[int, float], Awaitable[Round]] = run
    return Step(what, case, seconds, made)


def targets(found: list[Median]) -> list[Target]:
    p99_ms = {(one.what, one.case): one.p99_ms for one in found}
    changes_ms = [ms for (what, _), ms in p99_ms.items() if what == CHANGES]
    events_ms = [ms for (what, _), ms in p99_ms.items() if what == EVENTS]
    without_ms, with_ms = changes_ms
    ratio = with_ms / without_ms if with_ms and without_ms else None
    return [
        Target("from a reply to its event, p99 in ms", events_ms[0], 50, 10, at_most=True),
        Target("p99 of PUT config while they listen, against without", ratio, 2, 1.2, at_most=True),
    ]
