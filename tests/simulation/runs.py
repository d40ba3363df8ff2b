"""Many worlds, over all cores; and how to see one of them again."""

import multiprocessing
from collections.abc import Iterator

from tests.simulation.world import Report, World


def reports(seeds: range, hours: float, processes: int) -> Iterator[Report]:
    """Each seed's report, as they are done."""
    worlds = [(seed, hours) for seed in seeds]
    if processes == 1:
        yield from map(_live, worlds)
        return
    with multiprocessing.get_context("spawn").Pool(min(processes, len(worlds))) as pool:
        yield from pool.imap_unordered(_live, worlds)


def repeat(report: Report) -> str:
    """The command that shows the same again, with everything that happened."""
    return f".venv/bin/python -m tests.simulation --seed {report.seed} --hours {report.hours:g}"


def _live(world: tuple[int, float]) -> Report:
    return World(*world).run()
