"""The part `pages` of a benchmark: the first page of sites in a hub with many of them, all alive."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ulid import ULID

from benchmarks.changes.cases import hub_greeting
from benchmarks.pages.get_load import GetOrder
from benchmarks.processes import FEEDER_HUB, Child, module
from benchmarks.report import Median
from benchmarks.rounds import Case, Round, Step
from benchmarks.servers import redis_server
from benchmarks.targets import Target
from hub.database import Database
from hub.demo_data import Plan, fill, site_id
from hub.liveness import Arrival, LivenessKeys
from hub.protocol.messages import Heartbeat
from hub.protocol.times import utc_now
from hub.sqlite import sqlite_url
from hub.store import Store

NAME: Final = "pages"
FIRST_PAGE: Final = "first page of sites"
AT_ONCE: Final = (1, 4)
_PAGE: Final = 100
_ALIVE_FOR_S: Final = 24 * 3600
_FEEDERS_OF_SITE: Final = 20


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, sites: int) -> AsyncIterator[list[Step]]:
    """The hub with redis-server and SQLite, twenty feeders a site."""
    data_dir = work_dir / "data-pages"
    data_dir.mkdir()
    database = Database(sqlite_url(data_dir))
    try:
        database.migrate()
        fill(database, Plan(sites, sites * _FEEDERS_OF_SITE, 0, utc_now().date()), lambda _: None)
    finally:
        database.close()
    async with redis_server(work_dir) as redis_url:
        serve = [*FEEDER_HUB, "serve", "--data-dir", str(data_dir), "--http-port", "0", "--mqtt-port", "0"]
        async with (
            Child.started("hub_pages", serve, work_dir, {"redis__url": redis_url}) as hub,
            Child.started("get_load", module("pages.get_load"), work_dir) as load,
        ):
            port, _, token = await hub_greeting(hub)
            await _bring_to_life(redis_url, sites)
            await load.say(port=port, token=token)
            items = min(_PAGE, sites)
            yield [_step(Case(_case(at_once), hub, load), at_once, items, seconds) for at_once in AT_ONCE]


async def _bring_to_life(redis_url: str, sites: int) -> None:
    """As if each desktop had just sent its heartbeat, and the hub had read it."""
    now = utc_now()
    said = {"online": True, "seq": 1, "sent_at": now, "interval_s": 20, "agent": "bench", "journal_id": "j"}
    async with Store(redis_url) as store:
        await LivenessKeys(store, _ALIVE_FOR_S).beats(
            [Arrival(site_id(n), Heartbeat.model_validate(said | {"session": str(ULID())}), 0.0) for n in range(sites)]
        )


def _case(at_once: int) -> str:
    return f"{at_once} at once"


def _step(case: Case, at_once: int, items: int, seconds: float) -> Step:
    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, FIRST_PAGE, GetOrder("/api/v1/sites", items, at_once, seconds))

    return Step(FIRST_PAGE, case.title, seconds, run)


def targets(found: list[Median]) -> list[Target]:
    of = {one.case: one.p99_ms for one in found}
    return [Target(f"{FIRST_PAGE}, {_case(1)}, p99 ms", of[_case(1)], 30, 10, at_most=True)]
