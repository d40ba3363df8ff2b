"""The part `ingest` of a benchmark: heartbeats and events taken in by one hub process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.changes.cases import hub_greeting
from benchmarks.ingest.farms import EVENTS, FEEDER, HEARTBEATS, SayOrder
from benchmarks.mqtt import HOST
from benchmarks.processes import FEEDER_HUB, Child, module
from benchmarks.report import Median
from benchmarks.rounds import Case, Round, Step
from benchmarks.servers import mosquitto, redis_server
from benchmarks.targets import Target
from hub.database import Database
from hub.protocol.times import utc_now
from hub.sites import add_site
from hub.sqlite import sqlite_url

NAME: Final = "ingest"
CASE: Final = "one hub process"


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, farms: int) -> AsyncIterator[list[Step]]:
    """The hub with mosquitto, redis-server and SQLite; every farm is a connection."""
    sites = [f"farm{n}" for n in range(1, farms + 1)]
    data_dir = work_dir / "data-ingest"
    data_dir.mkdir()
    _add_sites(data_dir, sites)
    async with mosquitto(work_dir, for_a_hub=True) as broker, redis_server(work_dir) as redis_url:
        settings = {"mqtt__url": f"mqtt://{HOST}:{broker.port}", "redis__url": redis_url}
        serve = [*FEEDER_HUB, "serve", "--data-dir", str(data_dir), "--http-port", "0"]
        async with (
            Child.started("hub_ingest", serve, work_dir, settings) as hub,
            Child.started("farms", module("ingest.farms"), work_dir) as load,
        ):
            await hub_greeting(hub)
            database = str(data_dir / "feeder-hub.sqlite")
            await load.say(mqtt_port=broker.port, redis_url=redis_url, database=database, sites=sites)
            case = Case(CASE, hub, load)
            yield [_step(case, what, seconds) for what in (HEARTBEATS, EVENTS)]


def _add_sites(data_dir: Path, sites: list[str]) -> None:
    database = Database(sqlite_url(data_dir))
    database.migrate()
    try:
        database.write_now(lambda session: [add_site(session, site, [FEEDER], "UTC", utc_now()).site for site in sites])
    finally:
        database.close()


def _step(case: Case, what: str, seconds: float) -> Step:
    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, what, SayOrder(what, seconds))

    return Step(what, case.title, seconds, run)


def targets(found: list[Median]) -> list[Target]:
    of = {one.what: one.per_second for one in found}
    return [
        Target("heartbeats taken in, per second", of[HEARTBEATS], 12_000, 40_000),
        Target("events stored, per second", of[EVENTS], 5_000, 20_000),
    ]
