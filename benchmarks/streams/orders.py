"""What a round of the part `streams` orders of its two generators."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListenOrder:
    """Open so many streams, say so, and keep them open until the next line."""

    clients: int


@dataclass(frozen=True, slots=True)
class PacedOrder:
    """So many changes a second, each worker's at even distances, over so many feeders."""

    per_second: float
    workers: int
    feeders: int
    seconds: float
