"""`make bench`: a bare PUT, a raw MQTT request/response and the product's `PUT config`, side by side in one run."""

import asyncio
import json
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import cases, report
from benchmarks.cases import Case
from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured, RoundOrder
from benchmarks.processes import ChildFailed
from benchmarks.report import Round

WARM_UP_S: Final = 2.0
_SLACK_S: Final = 10.0
_INTERRUPTED: Final = 130

console = Console()


async def run(seconds: float, rounds: int, feeders: int, concurrencies: list[int], json_file: Path | None) -> bool:
    """Measure and print; True if there was no error at all."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        work_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feeder-hub-bench-")))
        with console.status("starting the servers"):
            measured_cases = [
                await stack.enter_async_context(case)
                for case in (cases.bare_http(work_dir), cases.raw_mqtt(work_dir), cases.product(work_dir, feeders))
            ]
        measured = await _measure_all(measured_cases, seconds, rounds, feeders, concurrencies)
    titles = [case.title for case in measured_cases]
    found = report.medians(measured, titles, concurrencies)
    compared = report.ratios(found, titles, concurrencies)
    options = {"seconds": seconds, "rounds": rounds, "feeders": feeders, "concurrency": concurrencies}
    facts = report.machine()
    console.print(
        f"{facts['at']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}\n"
        f"{feeders} feeders, medians of {rounds} rounds of {seconds:g} s\n",
        highlight=False,
    )
    report.show(console, found, compared, measured)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(options, found, compared, measured), indent=1) + "\n")
    return not any(one.measured.errors for one in measured)


async def _measure_all(
    measured_cases: list[Case], seconds: float, rounds: int, feeders: int, concurrencies: list[int]
) -> list[Round]:
    """The warm-up is round 0. The cases alternate within a round, and their order from round to round."""
    measured: list[Round] = []
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("", total=len(measured_cases) * len(concurrencies) * (rounds * seconds + WARM_UP_S))
        for number in range(rounds + 1):
            lasting_s = seconds if number else min(WARM_UP_S, seconds)
            for concurrency in concurrencies:
                for case in measured_cases if number % 2 else reversed(measured_cases):
                    stage = f"round {number} of {rounds}" if number else "warming up"
                    bar.update(task, description=f"{stage}: {case.title}, {concurrency} at once")
                    order = RoundOrder(concurrency, feeders, lasting_s)
                    measured.append(await _measure(number, case, order))
                    bar.advance(task, lasting_s)
    return measured


async def _measure(number: int, case: Case, order: RoundOrder) -> Round:
    before_s = case.server.cpu_seconds()
    await case.load.say(**asdict(order))
    measured = Measured(**await case.load.hear(order.seconds + LAST_ANSWERS_WITHIN_S + _SLACK_S))
    after_s = case.server.cpu_seconds()
    used_s = None if before_s is None or after_s is None else after_s - before_s
    return Round(number, case.title, order.concurrency, measured, used_s)


def numbers(text: str) -> list[int]:
    """`1,16,64` as numbers."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise typer.BadParameter("numbers from 1 up with commas between them, as in 1,16,64")
    return found


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="How long a round lasts.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds of each; medians are printed.")] = 5,
    feeders: Annotated[int, typer.Option(min=1, help="Feeders of the one site.")] = 64,
    concurrency: Annotated[str, typer.Option(help="Requests at once, several with commas.")] = "1,16,64",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there too.")] = None,
) -> None:
    """Measure what a change costs, against a bare HTTP server and against MQTT alone. Ends with 1 on any error."""
    try:
        fine = asyncio.run(run(seconds, rounds, feeders, numbers(concurrency), json_file))
    except ChildFailed as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; every process is ended")
        sys.exit(_INTERRUPTED)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    typer.run(main)
