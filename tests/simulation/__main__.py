"""`python -m tests.simulation --seeds 300`: that many worlds. `--seed 17`: one of them again, with its story."""

import argparse
import os
import sys
import time
from collections import Counter
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.simulation.runs import repeat, reports
from tests.simulation.world import Report, World

DEFAULT_SEEDS: Final = 200
DEFAULT_HOURS: Final = 24.0


def main() -> int:
    """0: everything held; 1: something did not, and the command that repeats it is told."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=DEFAULT_SEEDS, help=f"how many worlds  [{DEFAULT_SEEDS}]")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="the first seed  [1]")
    parser.add_argument("--seed", type=int, metavar="N", help="only this one, and tell its story")
    parser.add_argument("--hours", type=float, default=DEFAULT_HOURS, help=f"hours of a world  [{DEFAULT_HOURS:g}]")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at the same time  [all cores]")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        return _tell_one(chosen.seed, chosen.hours)
    return _run_many(range(chosen.first, chosen.first + chosen.seeds), chosen.hours, chosen.processes)


def _tell_one(seed: int, hours: float) -> int:
    report = World(seed, hours, tell=True).run()
    print("\n".join(report.story))
    print(_summary([report]))
    if report.finding is not None:
        print(f"FOUND  {report.finding}")
    return int(report.finding is not None)


def _run_many(seeds: range, hours: float, processes: int) -> int:
    console = Console(stderr=True)
    done: list[Report] = []
    began_s = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("worlds", total=len(seeds))
        for report in reports(seeds, hours, processes):
            done.append(report)
            progress.advance(bar)
            if report.finding is not None:
                progress.console.print(
                    f"FOUND  {report.finding}\n       {repeat(report)}", highlight=False, soft_wrap=True
                )
    found = [report for report in done if report.finding is not None]
    took_s = time.monotonic() - began_s
    print(_summary(done))
    print(f"{took_s:.0f} s, {took_s / len(done):.2f} s a world; {len(found) or 'nothing'} found")
    for report in sorted(found, key=lambda report: report.seed):
        print(repeat(report))
    return int(bool(found))


def _summary(done: list[Report]) -> str:
    ends: Counter[str] = Counter()
    for report in done:
        ends.update(report.ends)
    told = ", ".join(f"{count} {state}" for state, count in ends.most_common())
    return (
        f"{len(done)} worlds of {done[0].hours:g} h: {sum(r.orders for r in done)} orders, "
        f"{sum(r.faults for r in done)} faults, {sum(r.events for r in done)} events; commands: {told}"
    )


if __name__ == "__main__":
    sys.exit(main())
