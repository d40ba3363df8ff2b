"""What a soak found, for people and for scripts."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.soak.ledger import Account
from benchmarks.soak.memory import Trend, plot, trend

_MB: Final = 1_000_000


@dataclass(slots=True)
class Found:
    """`memory`: seconds since the beginning, and what the broker's process held then. `kills`: how often it died."""

    account: Account
    counts: Counter[str]
    faults: Counter[str]
    kills: int
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def trend(self) -> Trend | None:
        """None if the run was too short, or the broker was killed in it and began anew each time."""
        return None if self.kills else trend(self.memory)

    @property
    def fine(self) -> bool:
        return self.account.fine and not self.faults and (self.trend is None or self.trend.flat)

    def as_json(self) -> dict[str, Any]:
        return {
            "fine": self.fine,
            "account": asdict(self.account),
            "counts": dict(self.counts),
            "faults": dict(self.faults),
            "kills": self.kills,
            "trend": None if self.trend is None else asdict(self.trend) | {"flat": self.trend.flat},
            "memory": self.memory,
        }


def show(console: Console, found: Found) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    for name, number in (*sorted(found.counts.items()), *asdict(found.account).items(), ("kills", found.kills)):
        table.add_row(name.replace("_", " "), f"{number:,}")
    console.print(table)
    if found.memory:
        console.print("\nmemory of the broker's process")
        console.print("\n".join(plot(found.memory)), highlight=False)
    console.print()
    for kind, number in found.faults.most_common():
        console.print(f"the broker {kind}: {number:,}", style="red", highlight=False, markup=False)
    account = found.account
    console.print(
        f"{_memory(found)}; lost {account.lost}, duplicated {account.duplicated}, came again {account.again}, "
        f"out of order {account.out_of_order}, uncalled {account.uncalled}, other faults {found.faults.total()}: "
        + ("fine" if found.fine else "NOT FINE"),
        style="bold" if found.fine else "bold red",
        highlight=False,
    )


def _memory(found: Found) -> str:
    if found.trend is None:
        return (
            "memory not judged, for the run was too short"
            if not found.kills
            else "memory not judged, for the broker was killed"
        )
    one = found.trend
    grown = one.last / one.first - 1
    return (
        f"memory {'flat' if one.flat else 'NOT FLAT'}: {one.first / _MB:.1f} MB, at the end {one.last / _MB:.1f} MB "
        f"({grown:+.1%}), slope {one.per_minute / _MB:+.2f} MB/min"
    )
