"""`make chaos`: faults in random order under a steady load of changes, and whether the hub kept its promise."""

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import machine
from tests.chaos import report
from tests.chaos.chaos import Found, Struck, run
from tests.chaos.ground import GROUNDS

_INTERRUPTED: Final = 130

console = Console(width=None if sys.stdout.isatty() else 120)


async def run_all(grounds: list[str], faults: int, seed: int, changes_per_s: float, directory: Path) -> list[Found]:
    """Every ground at the same time, each with its share of the faults and of the load."""
    whole = asyncio.current_task()
    assert whole is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, whole.cancel)
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shares = {name: faults // len(grounds) + (n < faults % len(grounds)) for n, name in enumerate(grounds)}
        lines = {name: bar.add_task(name, total=share) for name, share in shares.items()}

        def tell(ground: str, number: int, struck: Struck) -> None:
            bar.update(lines[ground], completed=number)
            if not console.is_terminal:
                console.print(f"{ground:>9} {number:>3}/{shares[ground]} {struck}", highlight=False, markup=False)

        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(run(name, share, seed, changes_per_s / len(grounds), directory / name, tell))
                for name, share in shares.items()
            ]
        return [task.result() for task in running]


def main(
    faults: Annotated[int, typer.Option(min=1, help="How many, over all grounds.")] = 200,
    seed: Annotated[int, typer.Option(help="Of what is left to chance.")] = 1,
    changes_per_s: Annotated[float, typer.Option(min=0.1, help="How many changes a second, over all grounds.")] = 50.0,
    ground: Annotated[str, typer.Option(help="Which grounds, with commas between them.")] = ",".join(GROUNDS),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything there too.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep logs and journals in this directory.")] = None,
) -> None:
    """Break one part after the other. Ends with 1 if a command was lost, a dose doubled or anything else is wrong."""
    grounds = ground.split(",")
    if unknown := set(grounds) - set(GROUNDS):
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(GROUNDS)}")
    facts = machine()
    again = f'make chaos ARGS="--faults {faults} --seed {seed} --changes-per-s {changes_per_s:g} --ground {ground}"'
    console.print(
        f"{facts['at']}, {facts['cores']} cores, load {facts['load']}, {facts['system']}, Python {facts['python']}; "
        f"{faults} faults, {changes_per_s:g} changes/s, seed {seed}",
        highlight=False,
    )
    with tempfile.TemporaryDirectory(prefix="feeder-hub-chaos-", ignore_cleanup_errors=True) as temporary:
        try:
            found = asyncio.run(run_all(grounds, faults, seed, changes_per_s, keep or Path(temporary)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            console.print("interrupted; every process is ended")
            sys.exit(_INTERRUPTED)
    for one in found:
        report.show(console, one)
    fine = all(one.fine for one in found)
    if json_file is not None:
        told = {"machine": facts, "seed": seed, "fine": fine, "grounds": [report.as_json(one) for one in found]}
        json_file.write_text(json.dumps(told) + "\n")
    wrong = sum(len(one.wrong) for one in found)
    verdict = "fine" if fine else f"NOT FINE, {wrong} things are wrong. The same faults again: {again}"
    console.print(f"\nseed {seed}: {verdict}", style="bold" if fine else "bold red", highlight=False)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    typer.run(main)
