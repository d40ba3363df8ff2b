"""From rounds to what is printed: medians, what is wrong with them, the machine."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Round

BUSY_SHARE: Final = 0.8
"""A generator that uses more of its core than this may be what limits the figures."""


@dataclass(frozen=True, slots=True)
class Median:
    """Each figure is the median of the rounds, None where it is not measured.

    server_cpu_us: CPU time of the server's process per request or message.
    server_kb: by how many thousand bytes the server's memory grew per connection.
    load_cpu_share: the generator's, of one core; above `BUSY_SHARE`, `per_second` is a lower bound.
    """

    what: str
    case: str
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    server_cpu_us: float | None
    server_kb: float | None
    load_cpu_share: float | None
    errors: int

    @property
    def is_lower_bound(self) -> bool:
        return self.load_cpu_share is not None and self.load_cpu_share > BUSY_SHARE


def medians(rounds: list[Round]) -> list[Median]:
    """One for each case of each `what`, in the order in which they were first measured forwards."""
    counted = [one for one in rounds if one.number]
    return [
        _median_of([one for one in counted if (one.what, one.case) == named])
        for named in dict.fromkeys((one.what, one.case) for one in counted)
    ]


def _median_of(rounds: list[Round]) -> Median:
    measured = [one.measured for one in rounds]
    return Median(
        what=rounds[0].what,
        case=rounds[0].case,
        per_second=median(one.count / one.seconds if one.seconds else 0.0 for one in measured),
        p50_ms=_median_where([one.p50_ms for one in measured]),
        p99_ms=_median_where([one.p99_ms for one in measured]),
        server_cpu_us=_median_where([_per(one.server_cpu_s, one.measured.count, 1_000_000) for one in rounds]),
        server_kb=_median_where([_per(one.server_bytes, one.measured.count, 0.001) for one in rounds]),
        load_cpu_share=_median_where([one.cpu_share for one in measured]),
        errors=sum(one.errors for one in measured),
    )


def _per(whole: float | None, count: int, scale: float) -> float | None:
    return None if whole is None or not count else whole / count * scale


def _median_where(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return median(known) if known else None


def machine() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


_Column = tuple[str, Callable[[Median], float | None], str]
_COLUMNS: Final[tuple[_Column, ...]] = (
    ("per s", lambda one: one.per_second, ",.0f"),
    ("p50 ms", lambda one: one.p50_ms, ".2f"),
    ("p99 ms", lambda one: one.p99_ms, ".2f"),
    ("server µs", lambda one: one.server_cpu_us, ",.1f"),
    ("KB each", lambda one: one.server_kb, ".1f"),
    ("load CPU", lambda one: one.load_cpu_share, ".0%"),
)


def show_medians(console: Console, found: list[Median]) -> None:
    """The table; a column that nobody has a figure for is left out."""
    columns = [column for column in _COLUMNS if any(column[1](one) is not None for one in found)]
    table = Table("what", "case", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for one in found:
        figures = [(figure_of(one), layout) for _, figure_of, layout in columns]
        table.add_row(
            one.what, one.case, *("" if figure is None else format(figure, layout) for figure, layout in figures)
        )
    console.print(table)
    console.print()


def show_doubts(console: Console, found: list[Median], rounds: list[Round]) -> None:
    """Generators that were too busy, and errors."""
    for one in found:
        if one.is_lower_bound:
            console.print(
                f"[yellow]The generator of {one.what}, {one.case} used {one.load_cpu_share:.0%} of a core: it may be "
                "what limits that figure, which is a lower bound.[/]"
            )
    for bad in rounds:
        if bad.measured.errors:
            console.print(
                f"[red]{bad.what}, {bad.case}, round {bad.number}: {bad.measured.errors} errors; the first: "
                f"{bad.measured.first_error}[/]",
                highlight=False,
            )
