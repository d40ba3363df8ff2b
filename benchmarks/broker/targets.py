"""What the broker must do and what it aims at, and what was measured of that."""

from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.broker.cases import BESIDE_IDLE, MOSQUITTO, OURS
from benchmarks.report import Median

FLOWS: Final = ("QoS 0", "QoS 1")
CONNECTIONS: Final = "connections"
REQUESTS: Final = "requests"


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


def targets(found: list[Median]) -> list[Target]:
    """In the order of the table; ratios are those of the medians."""
    of = {(one.what, one.case): one for one in found}

    def ratio(what: str, case: str, to: str) -> float | None:
        slower = of[what, to].per_second
        return of[what, case].per_second / slower if slower else None

    ours = of[CONNECTIONS, OURS]
    return [
        *(Target(f"{what}, against {MOSQUITTO}", ratio(what, OURS, MOSQUITTO), 0.5, 1.0) for what in FLOWS),
        *(
            Target(f"{what} beside idle clients, against without", ratio(what, BESIDE_IDLE, OURS), 0.85, 0.95)
            for what in FLOWS
        ),
        Target("connections, per second", ours.per_second, 1000, 3000),
        Target("connections, KB of memory each", ours.server_kb, 25, 10, at_most=True),
        Target(
            f"requests from the hub's place, against {MOSQUITTO}",
            ratio(REQUESTS, OURS, MOSQUITTO),
            0.25,
            0.4,
        ),
    ]


def show(console: Console, found: list[Median]) -> None:
    table = Table("target", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in ("measured", "must", "aim"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in targets(found):
        measured = "" if one.measured is None else _figure(one.measured)
        table.add_row(one.title, measured, _figure(one.must), _figure(one.aim), one.verdict)
    console.print(table)
    console.print()


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
