"""What a run found: a line for each fault, how it looked over time, the figures, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.chaos.chaos import Found

_WIDTH: Final = 90
_BARS: Final = " ▁▂▃▄▅▆▇█"
_MOST_SHOWN: Final = 40
_DONE: Final = frozenset({"200", "202"})


def as_json(found: Found) -> dict[str, Any]:
    told = asdict(found) | {"answers": dict(found.answers), "ends": dict(found.ends)}
    del told["moments"]
    return told | {"fine": found.fine, "heal_s": {kind: figures for kind, *figures in heal_times(found)}}


def heal_times(found: Found) -> list[tuple[str, int, float, float]]:
    """(kind, how many, median and longest seconds from the blow to the last sign of it) for each kind of fault."""
    kinds = sorted({struck.kind for struck in found.struck})
    rows = []
    for kind in kinds:
        took_s = [one.healed_s - one.at_s for one in found.struck if one.kind == kind and one.healed_s is not None]
        if took_s:
            rows.append((kind, len(took_s), round(median(took_s), 1), round(max(took_s), 1)))
    return rows


def show(console: Console, found: Found) -> None:
    console.print(f"\n{found.ground}, {found.database}: {found.seconds:.0f} s", style="bold", highlight=False)
    console.print("\n".join(timeline(found)), highlight=False, markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("fault", "times", "median s", "longest s"):
        table.add_column(title, justify="left" if title == "fault" else "right")
    for kind, times, middle_s, longest_s in heal_times(found):
        table.add_row(kind, str(times), f"{middle_s:.1f}", f"{longest_s:.1f}")
    console.print(table)
    console.print(
        f"{found.changes:,} changes ({found.left_out:,} more left out), {found.doses_fed:,} doses fed, "
        f"{found.stops} stops, {found.looks:,} looks at liveness ({found.looks_unknown:,} not known); "
        f"everything settled {found.settled_after_s:.1f} s after the last",
        highlight=False,
    )
    for title, counts in (("answers", found.answers), ("ends", found.ends)):
        console.print(
            f"{title}: " + ", ".join(f"{name} {many:,}" for name, many in counts.most_common()), highlight=False
        )
    for sentence in found.wrong[:_MOST_SHOWN]:
        console.print(f"WRONG: {sentence}", style="red", highlight=False, markup=False)
    if len(found.wrong) > _MOST_SHOWN:
        console.print(f"and {len(found.wrong) - _MOST_SHOWN:,} more", style="red")


def timeline(found: Found) -> list[str]:
    """Lines of text: what was done, what was refused or unanswered, and when something was broken."""
    done = [at_s for at_s, kind in found.moments if kind in _DONE]
    other = [at_s for at_s, kind in found.moments if kind not in _DONE]
    broken = [" "] * _WIDTH
    for struck in found.struck:
        healed_s = found.seconds if struck.healed_s is None else struck.healed_s
        for column in range(_column(struck.at_s, found.seconds), _column(healed_s, found.seconds) + 1):
            broken[column] = "━"
    return [
        f"     done {_bars(done, found.seconds)}",
        f"not done {_bars(other, found.seconds)}",
        f"   fault {''.join(broken)}",
        f"         0{found.seconds:>{_WIDTH - 3}.0f} s",
    ]


def _column(at_s: float, lasted_s: float) -> int:
    return min(max(int(at_s / lasted_s * _WIDTH), 0), _WIDTH - 1)


def _bars(moments: Sequence[float], lasted_s: float) -> str:
    columns = [0] * _WIDTH
    for at_s in moments:
        columns[_column(at_s, lasted_s)] += 1
    highest = max(columns) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] for count in columns)
