"""The part `changes` of a benchmark: a bare PUT, a raw MQTT request/response and the product's `PUT config`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.changes import targets
from benchmarks.changes.cases import bare_http, external, product, raw_mqtt, refused
from benchmarks.changes.change import ChangeOrder
from benchmarks.rounds import Case, Round, Step

NAME: Final = "changes"


@asynccontextmanager
async def steps(work_dir: Path, seconds: float, feeders: int, concurrencies: list[int]) -> AsyncIterator[list[Step]]:
    """Every case at every concurrency, while the servers run."""
    async with (
        bare_http(work_dir) as bare,
        raw_mqtt(work_dir) as raw,
        product(work_dir, feeders) as whole,
        external(work_dir, feeders) as apart,
        refused(work_dir, feeders) as refusing,
    ):
        cases = (bare, raw, whole, apart, refusing)
        yield [_step(case, concurrency, feeders, seconds) for concurrency in concurrencies for case in cases]


def _step(case: Case, concurrency: int, feeders: int, seconds: float) -> Step:
    what = targets.what(concurrency)

    async def run(number: int, seconds: float) -> Round:
        return await case.measure(number, what, ChangeOrder(concurrency, feeders, seconds))

    return Step(what, case.title, seconds, run)
