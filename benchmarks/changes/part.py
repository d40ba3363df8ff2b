"""The part `changes` of a benchmark: a bare PUT, a raw MQTT request/response and the product's `PUT config`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.changes.cases import bare_http, product, raw_mqtt
from benchmarks.changes.change import ChangeOrder
from benchmarks.report import Median
from benchmarks.rounds import Case, Round, Step

NAME: Final = "changes"


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, feeders: int, concurrencies: list[int]) -> AsyncIterator[list[Step]]:
    """Every case at every concurrency, while the servers run."""
    async with bare_http(work_dir) as bare, raw_mqtt(work_dir) as raw, product(work_dir, feeders) as whole:
        yield [
            _step(case, concurrency, feeders, seconds) for concurrency in concurrencies for case in (bare, raw, whole)
        ]


def _step(case: Case, concurrency: int, feeders: int, seconds: float) -> Step:
    what = f"{concurrency} at once"

    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, what, ChangeOrder(concurrency, feeders, seconds))

    return Step(what, case.title, seconds, run)


def comparisons(found: list[Median]) -> list[dict[str, Any]]:
    """At each concurrency how fast each case is against each one before it, from the medians."""
    return [
        {"what": of.what, "of": of.case, "to": to.case, "ratio": of.per_second / to.per_second}
        for n, of in enumerate(found)
        for to in found[:n]
        if to.what == of.what and to.per_second
    ]


def show(console: Console, found: list[Median]) -> None:
    table = Table("what", "speed of", "against", box=None, header_style="bold")
    table.add_column("ratio", justify="right")
    for one in comparisons(found):
        table.add_row(one["what"], one["of"], one["to"], f"{one['ratio']:.3f}")
    console.print(table)
    console.print()
