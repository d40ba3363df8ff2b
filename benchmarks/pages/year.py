"""How long each list and each chart takes on a year of data: `python -m benchmarks.pages.year --data-dir DIR`.

DIR is what `feeder-hub demo-data --data-dir DIR` has filled; of PostgreSQL, `--database-url` is its database.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.changes.cases import hub_greeting
from benchmarks.processes import FEEDER_HUB, Child
from hub.protocol.times import utc_now

MUST_MS: Final = 100
SITE: Final = "/sites/farm-0001"
FEEDER: Final = f"{SITE}/feeders/f1"


@dataclass(frozen=True, slots=True)
class Called:
    """first_ms: of the first call, to which nothing has been read before; median_ms, worst_ms: of those after it."""

    path: str
    first_ms: float
    median_ms: float
    worst_ms: float
    answer_bytes: int


def paths() -> list[str]:
    """Every list and chart, whole and narrowed, near and far. Where there is nothing to find, all is looked through."""
    today = utc_now().date()
    year, years = today - timedelta(days=365), today - timedelta(days=1097)
    return [
        *("/sites", "/sites?limit=500", "/sites?tag=salmon", "/sites?q=FARM%2077", "/sites?q=nowhere", SITE),
        *("/feeders", "/feeders?limit=500", "/feeders?cursor=farm-0050/f9", "/feeders?tag=indoor,europe"),
        *("/feeders?tag=salmon,none", "/feeders?q=f1", "/feeders?q=nowhere", "/feeders?condition=jammed"),
        *("/feeders?condition=plc_lost&limit=500", f"{SITE}/feeders", f"{SITE}/feeders?tag=indoor", FEEDER),
        *(f"{FEEDER}/daily", f"{FEEDER}/daily?from={year}&to={today}"),
        *(f"{FEEDER}/daily?from={years}&to={today}&resolution={each}" for each in ("week", "month")),
        *(f"{FEEDER}/events", f"{FEEDER}/events?limit=500", f"{FEEDER}/events?limit=500&cursor=01K"),
        *(f"{FEEDER}/config/revisions", f"{FEEDER}/commands", f"{FEEDER}/commands?unresolved=true"),
        *(f"{SITE}/commands", f"{SITE}/commands?limit=500", f"{SITE}/commands?unresolved=true"),
        *(f"{SITE}/presence", f"{SITE}/presence?limit=500", f"{SITE}/liveness", f"{SITE}/diagnostics"),
    ]


def call_all(api: httpx.Client, times: int) -> list[Called]:
    """Each path first and then so many times, one after the other."""
    return [_call(api, path, times) for path in paths()]


def _call(api: httpx.Client, path: str, times: int) -> Called:
    took_ms, answer_bytes = [], 0
    for _ in range(times + 1):
        began_s = time.perf_counter()
        answer = api.get(path).raise_for_status()
        took_ms.append((time.perf_counter() - began_s) * 1000)
        answer_bytes = len(answer.content)
    return Called(path, took_ms[0], median(took_ms[1:]), max(took_ms[1:]), answer_bytes)


def show(called: list[Called]) -> bool:
    """The table; True if every median holds what it must."""
    table = Table("call", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("first ms", "median ms", "worst ms", "KB"):
        table.add_column(heading, justify="right")
    for one in called:
        figures = one.first_ms, one.median_ms, one.worst_ms, one.answer_bytes / 1000
        table.add_row(one.path, *(f"{figure:.1f}" for figure in figures))
    Console(width=110).print(table)
    return all(one.median_ms < MUST_MS for one in called)


async def measure(data_dir: Path, settings: Mapping[str, object], times: int) -> list[Called]:
    serve = [*FEEDER_HUB, "serve", "--data-dir", str(data_dir), "--http-port", "0", "--mqtt-port", "0"]
    with TemporaryDirectory(prefix="feeder-hub-year-") as logs:
        async with Child.started("hub", serve, Path(logs), settings) as hub:
            port, _, token = await hub_greeting(hub)
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=headers, trust_env=False) as api:
                return await asyncio.to_thread(call_all, api, times)


def main(
    data_dir: Annotated[Path, typer.Option(help="What `feeder-hub demo-data` has filled; nobody has used it yet.")],
    database_url: Annotated[str | None, typer.Option(help="postgresql://…")] = None,
    times: Annotated[int, typer.Option(min=1)] = 20,
) -> None:
    """Call every list and chart. Ends with 1 if the median of one is over what it must be."""
    settings: dict[str, Any] = {} if database_url is None else {"database__url": database_url}
    if not show(asyncio.run(measure(data_dir, settings, times))):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
