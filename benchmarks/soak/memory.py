"""Whether a process's memory is flat, and how it looks. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression, median
from typing import Final

SHORTEST_S: Final = 180.0
"""A shorter run says nothing: caches fill and the allocator finds its size."""
WARM_UP_SHARE: Final = 1 / 6
GROWTH: Final = 0.05
"""How much more it may be at the end than at the beginning, and gain over half the run: sessions that are away with
more or fewer messages make it go up and down by about as much."""
_HEIGHT: Final = 8
_WIDTH: Final = 72
_MB: Final = 1_000_000

Series = Sequence[tuple[float, int]]
"""Seconds since the beginning, and bytes held then."""


@dataclass(frozen=True, slots=True)
class Trend:
    """first, last: medians in bytes of the first and the last third after the warm-up.

    per_minute: bytes gained in a minute, the slope of the second half. over_half: the same over the whole half.
    """

    first: float
    last: float
    per_minute: float
    over_half: float

    @property
    def flat(self) -> bool:
        return self.last <= self.first * (1 + GROWTH) and self.over_half <= self.first * GROWTH


def trend(series: Series) -> Trend | None:
    """None if it lasted less than `SHORTEST_S`."""
    lasted_s = series[-1][0] if series else 0.0
    if lasted_s < SHORTEST_S:
        return None
    begin_s = lasted_s * WARM_UP_SHARE
    third_s = (lasted_s - begin_s) / 3
    half = [(at_s, held) for at_s, held in series if at_s >= lasted_s / 2]
    slope = linear_regression([at_s for at_s, _ in half], [held for _, held in half]).slope
    return Trend(
        first=median(held for at_s, held in series if begin_s <= at_s < begin_s + third_s),
        last=median(held for at_s, held in series if at_s >= lasted_s - third_s),
        per_minute=slope * 60,
        over_half=slope * lasted_s / 2,
    )


def plot(series: Series) -> list[str]:
    """Lines of text: the highest value of each moment, from 0 up."""
    lasted_s, highest = series[-1][0] or 1.0, max(held for _, held in series) or 1
    columns = [0] * _WIDTH
    for at_s, held in series:
        column = min(int(at_s / lasted_s * _WIDTH), _WIDTH - 1)
        columns[column] = max(columns[column], held)
    for column in range(1, _WIDTH):
        columns[column] = columns[column] or columns[column - 1]
    lines = []
    for row in range(_HEIGHT, 0, -1):
        label = f"{highest * row / _HEIGHT / _MB:6.0f} MB"
        full, half = row / _HEIGHT, (row - 0.5) / _HEIGHT
        dots = "".join("█" if held >= highest * full else "▄" if held >= highest * half else " " for held in columns)
        lines.append(f"{label} ┤{dots}")
    lines.append(" " * 10 + "└" + "─" * _WIDTH)
    lines.append(" " * 11 + f"0{lasted_s / 60:>{_WIDTH - 5}.1f} min")
    return lines
