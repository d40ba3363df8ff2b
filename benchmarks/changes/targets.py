"""What a change of a feeder's config must do and what it aims at, and what was measured of that."""

from typing import Final

from benchmarks.changes.cases import BARE, EXTERNAL, PRODUCT, RAW, REFUSED
from benchmarks.report import Median
from benchmarks.targets import Target

AT_ONCE: Final = 16
"""Requests at a time, for which the targets are."""


def what(concurrency: int) -> str:
    return f"{concurrency} at once"


def targets(found: list[Median]) -> list[Target]:
    """Ratios of the medians; those of cases that were not measured at that concurrency are left out."""
    of = {one.case: one.per_second for one in found if one.what == what(AT_ONCE)}
    return [
        Target(f"{case}, against {to}", of[case] / of[to] if of[to] else None, must, aim)
        for case, to, must, aim in (
            (PRODUCT, RAW, 0.10, 0.27),
            (EXTERNAL, RAW, 0.08, 0.25),
            (REFUSED, BARE, 0.5, 0.8),
        )
        if case in of and to in of
    ]
