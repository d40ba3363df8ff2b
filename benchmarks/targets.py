"""What must be reached and what is aimed at, and how far it was."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Target:
    """`measured` is None where the system does not tell. `at_most`: less is better."""

    title: str
    measured: float | None
    must: float
    aim: float
    at_most: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        for name, bound in (("aim", self.aim), ("must", self.must)):
            if self.measured <= bound if self.at_most else self.measured >= bound:
                return f"{name} met"
        return "MISSED"


def show(console: Console, targets: list[Target]) -> None:
    table = Table("target", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("measured", "must", "aim"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in targets:
        measured = "" if one.measured is None else _figure(one.measured)
        table.add_row(one.title, measured, _figure(one.must), _figure(one.aim), one.verdict)
    console.print(table)
    console.print()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
