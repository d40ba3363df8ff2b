"""`make bench`: the broker beside mosquitto, a change from HTTP to the desktop and back, farms, listeners, pages."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from benchmarks import report, rounds, targets
from benchmarks.broker import part as broker
from benchmarks.broker.targets import targets as of_broker
from benchmarks.changes import part as changes
from benchmarks.changes.targets import targets as of_changes
from benchmarks.ingest import part as ingest
from benchmarks.pages import part as pages
from benchmarks.processes import ChildFailed
from benchmarks.report import Median
from benchmarks.rounds import Step
from benchmarks.streams import part as streams
from benchmarks.targets import Target

_INTERRUPTED: Final = 130

console = Console(width=None if sys.stdout.isatty() else 110)


class Part(StrEnum):
    ALL = "all"
    BROKER = "broker"
    CHANGES = "changes"
    INGEST = "ingest"
    STREAMS = "streams"
    PAGES = "pages"


@dataclass(frozen=True, slots=True)
class Plan:
    """A part of the benchmark: its steps, and what is wanted of their medians."""

    part: Part
    steps: Callable[[Path], AbstractAsyncContextManager[list[Step]]]
    targets: Callable[[list[Median]], list[Target]]


async def run(plans: list[Plan], count: int, options: dict[str, Any], json_file: Path | None) -> bool:
    """Measure and print; True if there was no error at all."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures: dict[str, Any] = {"machine": report.machine(), "options": options}
    facts = figures["machine"]
    console.print(
        f"{facts['at']}, {facts['cores']} cores, load {facts['load']}, {facts['system']}, Python {facts['python']}; "
        f"medians of {count} rounds\n",
        highlight=False,
    )
    fine = True
    for plan in plans:
        with tempfile.TemporaryDirectory(prefix="feeder-hub-bench-") as work_dir:
            async with plan.steps(Path(work_dir)) as steps:
                measured = await rounds.measure(console, plan.part, steps, count)
        found = report.medians(measured)
        report.show_medians(console, found)
        wanted = plan.targets(found)
        targets.show(console, wanted)
        report.show_doubts(console, found, measured)
        figures[plan.part] = {
            "medians": [asdict(one) for one in found],
            "targets": [asdict(one) | {"verdict": one.verdict} for one in wanted],
            "rounds": [asdict(one) for one in measured],
        }
        fine = fine and not any(one.measured.errors for one in measured)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1) + "\n")
    return fine


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
    part: Annotated[Part, typer.Argument(help="What to measure.")] = Part.ALL,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long a round of each case lasts.")] = 4.0,
    count: Annotated[int, typer.Option("--rounds", min=1, help="How many rounds; medians are printed.")] = 5,
    clients: Annotated[int, typer.Option(min=1, help="broker: clients that connect, or are idle.")] = 2000,
    feeders: Annotated[int, typer.Option(min=1, help="changes: feeders of the one site.")] = 64,
    farms: Annotated[int, typer.Option(min=1, help="ingest: farms, each with a connection.")] = 500,
    listeners: Annotated[int, typer.Option(min=1, help="streams: event streams that are open.")] = 100,
    sites: Annotated[int, typer.Option(min=1, help="pages: sites, each with 20 feeders.")] = 1000,
    concurrency: Annotated[str, typer.Option(help="changes: requests at once, several with commas.")] = "1,16,64",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure there too.")] = None,
) -> None:
    """Measure side by side in alternating rounds. Ends with 1 on any error."""
    at_once = numbers(concurrency)
    plans = [
        Plan(Part.BROKER, lambda work_dir: broker.steps(work_dir, seconds, clients), of_broker),
        Plan(Part.CHANGES, lambda work_dir: changes.steps(work_dir, seconds, feeders, at_once), of_changes),
        Plan(Part.INGEST, lambda work_dir: ingest.steps(work_dir, seconds, farms), ingest.targets),
        Plan(Part.STREAMS, lambda work_dir: streams.steps(work_dir, seconds, listeners), streams.targets),
        Plan(Part.PAGES, lambda work_dir: pages.steps(work_dir, seconds, sites), pages.targets),
    ]
    chosen = [plan for plan in plans if part in (plan.part, Part.ALL)]
    options = {
        "seconds": seconds,
        "rounds": count,
        "clients": clients,
        "feeders": feeders,
        "farms": farms,
        "listeners": listeners,
        "sites": sites,
        "concurrency": at_once,
    }
    try:
        fine = asyncio.run(run(chosen, count, options, json_file))
    except ChildFailed as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        sys.exit(1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; every process is ended")
        sys.exit(_INTERRUPTED)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    typer.run(main)
