"""`feeder-hub doctor`: is everything there that the hub needs?"""

import asyncio
from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table

from hub.checkup import Check, Finding
from hub.cli.workplace import print_json


def examine(checks: Sequence[Check], settings: Iterable[tuple[str, str]], *, as_json: bool) -> None:
    """Run the checks, print what they found, and end with 1 where something has to be mended."""
    findings = asyncio.run(_run(checks))
    if as_json:
        told = [{"name": finding.name, "fine": finding.fine, "text": finding.text} for finding in findings]
        print_json({"fine": all(finding.fine for finding in findings), "findings": told, "settings": dict(settings)})
    else:
        console = Console()
        table = Table("setting", "value", title="Settings")
        for name, value in settings:
            table.add_row(name, value)
        console.print(table)
        for finding in findings:
            mark = "[green]ok   [/]" if finding.fine else "[red]MEND [/]"
            console.print(f"{mark} [bold]{finding.name}[/]", finding.text, highlight=False)
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


async def _run(checks: Sequence[Check]) -> list[Finding]:
    return list(await asyncio.gather(*(check() for check in checks)))
