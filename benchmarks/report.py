"""From rounds to what is printed: medians, ratios, warnings."""

import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.load import Measured

BUSY_SHARE: Final = 0.8
"""A generator that uses more of its core than this may be what limits the figures."""


@dataclass(frozen=True, slots=True)
class Round:
    """One case at one concurrency. `number` 0 is the warm-up. `server_cpu_s`: of the server's process in this round."""

    number: int
    case: str
    concurrency: int
    measured: Measured
    server_cpu_s: float | None


@dataclass(frozen=True, slots=True)
class Median:
    """Each figure is the median of the rounds. `server_cpu_ms`: CPU time of the server's process per request."""

    case: str
    concurrency: int
    per_second: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float | None
    generator_cpu_share: float
    errors: int


def medians(rounds: list[Round], cases: list[str], concurrencies: list[int]) -> list[Median]:
    return [
        _median_of([one for one in rounds if one.number and (one.case, one.concurrency) == (case, concurrency)])
        for concurrency in concurrencies
        for case in cases
    ]


def _median_of(rounds: list[Round]) -> Median:
    measured = [one.measured for one in rounds]
    cpu_ms = [
        one.server_cpu_s / one.measured.requests * 1000
        for one in rounds
        if one.server_cpu_s is not None and one.measured.requests
    ]
    return Median(
        case=rounds[0].case,
        concurrency=rounds[0].concurrency,
        per_second=median(one.requests / one.seconds if one.seconds else 0.0 for one in measured),
        p50_ms=median(one.p50_ms for one in measured),
        p99_ms=median(one.p99_ms for one in measured),
        server_cpu_ms=median(cpu_ms) if cpu_ms else None,
        generator_cpu_share=median(one.cpu_share for one in measured),
        errors=sum(one.errors for one in measured),
    )


def ratios(found: list[Median], cases: list[str], concurrencies: list[int]) -> list[dict[str, Any]]:
    """At each concurrency how fast each case is against each one before it, from the medians."""
    speed = {(one.case, one.concurrency): one.per_second for one in found}
    return [
        {"concurrency": concurrency, "of": of, "to": to, "ratio": speed[of, concurrency] / speed[to, concurrency]}
        for concurrency in concurrencies
        for n, of in enumerate(cases)
        for to in cases[:n]
        if speed[to, concurrency]
    ]


def machine() -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def show(console: Console, found: list[Median], compared: list[dict[str, Any]], rounds: list[Round]) -> None:
    """The tables, then what is wrong with them."""
    table = Table("at once", "case", box=None, header_style="bold")
    for heading in ("per s", "p50 ms", "p99 ms", "server ms", "load CPU", "errors"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            str(one.concurrency),
            one.case,
            f"{one.per_second:.0f}",
            f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}",
            "" if one.server_cpu_ms is None else f"{one.server_cpu_ms:.3f}",
            f"{one.generator_cpu_share:.0%}",
            str(one.errors),
        )
    console.print(table)
    console.print()
    comparison = Table("at once", "speed of", "against", box=None, header_style="bold")
    comparison.add_column("ratio", justify="right")
    for ratio in compared:
        comparison.add_row(str(ratio["concurrency"]), ratio["of"], ratio["to"], f"{ratio['ratio']:.3f}")
    console.print(comparison)
    for one in found:
        if one.generator_cpu_share > BUSY_SHARE:
            console.print(
                f"[yellow]The generator of {one.case} at {one.concurrency} used {one.generator_cpu_share:.0%} of a "
                "core: it may be what limits that figure.[/]"
            )
    for bad in rounds:
        if bad.measured.errors:
            console.print(
                f"[red]{bad.case} at {bad.concurrency}, round {bad.number}: {bad.measured.errors} errors; "
                f"the first: {bad.measured.first_error}[/]",
                highlight=False,
            )


def as_json(options: dict[str, Any], found: list[Median], compared: list[dict[str, Any]], rounds: list[Round]) -> Any:
    """Everything that was measured, for scripts."""
    return {
        "machine": machine(),
        "options": options,
        "medians": [asdict(one) for one in found],
        "ratios": compared,
        "rounds": [asdict(one) for one in rounds],
    }
