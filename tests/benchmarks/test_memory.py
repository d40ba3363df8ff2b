"""Flat is what neither grows from beginning to end nor climbs at the end."""

from benchmarks.soak.memory import SHORTEST_S, plot, trend

MB = 1_000_000


def series(lasts_s: int, held_mb) -> list[tuple[float, int]]:
    return [(float(at_s), int(held_mb(at_s) * MB)) for at_s in range(lasts_s + 1)]


def test_a_short_run_says_nothing():
    assert trend(series(int(SHORTEST_S) - 1, lambda _: 100)) is None
    assert trend([]) is None


def test_a_rise_at_the_beginning_and_a_saw_after_it_are_flat():
    found = trend(series(600, lambda at_s: 50 + min(at_s, 90) + at_s % 7))
    assert found is not None
    assert found.flat


def test_a_leak_is_not_flat():
    found = trend(series(600, lambda at_s: 100 + at_s / 50))
    assert found is not None
    assert not found.flat
    assert round(found.per_minute / MB, 2) == 1.2


def test_a_leak_that_begins_late_is_not_flat():
    found = trend(series(600, lambda at_s: 100 + max(0, at_s - 450) / 10))
    assert found is not None
    assert not found.flat


def test_a_step_down_is_flat():
    found = trend(series(600, lambda at_s: 120 if at_s < 300 else 100))
    assert found is not None
    assert found.flat


def test_the_plot_shows_the_highest_of_each_moment():
    lines = plot([(0.0, 0), (60.0, 40 * MB), (61.0, 80 * MB), (120.0, 80 * MB)])
    assert lines[0].lstrip().startswith("80 MB")
    assert lines[0].endswith("█")
    assert lines[-1].endswith("2.0 min")
