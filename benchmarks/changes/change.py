"""The change that every case carries: the same config, with another meal each time, for one feeder after the other."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SITE: Final = "bench"
_CONFIG: Final = (
    b'{"enabled":true,"meal_g":%d,"interval_s":3600,"window":{"start":"06:00","end":"19:30"},'
    b'"daily_limit_g":4000,"feed_rate_g_per_s":12.5,"silo_low_g":5000}'
)
_SMALLEST_MEAL_G: Final = 100
_MEALS: Final = 900
CONFIG_BYTES: Final = len(_CONFIG % _SMALLEST_MEAL_G)
"""Every meal has three digits, so every config has this length."""


@dataclass(frozen=True, slots=True)
class ChangeOrder:
    """One round for a generator: so many changes at once, over so many feeders."""

    concurrency: int
    feeders: int
    seconds: float


def config(meal_g: int) -> bytes:
    """The whole config as JSON; `meal_g` from 100 to 999."""
    return _CONFIG % meal_g


def is_confirmed(meal_g: int, answer: bytes) -> bool:
    """Whether the answer holds the config that was ordered, as an integer or (read back) as a float."""
    return b'"meal_g":%d' % meal_g in answer or b'"meal_g": %d' % meal_g in answer


def feeder_ids(feeders: int) -> tuple[str, ...]:
    return tuple(f"f{n}" for n in range(1, feeders + 1))


def changes(worker: int, concurrency: int, feeders: int) -> Iterator[tuple[int, int]]:
    """Which feeder (from 0) one of the workers changes next, and to which meal in g.

    Workers never share a feeder while there are at least as many feeders as workers.
    """
    for n in itertools.count():
        turn = worker + n * concurrency
        lap = turn // feeders
        yield turn % feeders, _SMALLEST_MEAL_G + (turn + lap) % _MEALS
