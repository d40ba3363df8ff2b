"""The simulation holds, its seeds repeat, and it finds the bugs that are planted."""

import os

import pytest

from tests.simulation.planted import BUGS
from tests.simulation.runs import repeat, reports
from tests.simulation.world import World

SEEDS = range(1, 121)
HOURS = 1.0
PLANTED_HOURS = 2.0
FOUND_WITHIN_SEEDS = 100


@pytest.mark.timeout(900)
def test_what_must_hold_holds_in_some_hundred_worlds() -> None:
    found = [report for report in reports(SEEDS, HOURS, os.cpu_count() or 1) if report.finding is not None]
    assert [f"{report.finding}: {repeat(report)}" for report in found] == []


def test_a_seed_repeats_exactly() -> None:
    first, second, other = (World(seed, HOURS, tell=True).run() for seed in (5, 5, 6))
    assert first == second
    assert first.story != other.story


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    plant, words = BUGS[name]
    with plant():
        for seed in range(1, FOUND_WITHIN_SEEDS + 1):
            finding = World(seed, PLANTED_HOURS).run().finding
            if finding is not None:
                assert words in finding
                return
    pytest.fail(f"not found in {FOUND_WITHIN_SEEDS} worlds")
