"""What a load generator does whatever it speaks: rounds on demand in a closed loop, counted and timed.

A generator is a process of its own. Each line on its stdin is a `RoundOrder`, each line on its stdout a `Measured`;
it ends with its stdin.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Final

import uvloop

LAST_ANSWERS_WITHIN_S: Final = 10.0
"""How long after the end of a round the answers that are still due may take."""


@dataclass(frozen=True, slots=True)
class RoundOrder:
    concurrency: int
    feeders: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. `seconds`: from the first request to the last answer. `cpu_share`: the generator's own, of a core."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_share: float
    errors: int
    first_error: str | None


class Tally:
    """Counts one round of that many seconds. Every request that was begun is waited for and counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latencies_s: list[float] = []
        self._errors = 0
        self._first_error: str | None = None
        self.begin()

    def begin(self) -> None:
        """The round begins now: everybody is connected."""
        self._began_cpu_s = time.process_time()
        self._began_s = self._last_answer_s = time.perf_counter()
        self._until_s = self._began_s + self._seconds

    def goes_on(self) -> bool:
        return time.perf_counter() < self._until_s

    def answered(self, sent_at_s: float) -> None:
        self._last_answer_s = time.perf_counter()
        self._latencies_s.append(self._last_answer_s - sent_at_s)

    def failed(self, why: str) -> None:
        self._errors += 1
        self._first_error = self._first_error or why

    def measured(self) -> Measured:
        seconds = self._last_answer_s - self._began_s
        elapsed_s = time.perf_counter() - self._began_s
        latencies_s = sorted(self._latencies_s) or [0.0]
        return Measured(
            requests=len(self._latencies_s),
            seconds=seconds,
            p50_ms=_quantile(latencies_s, 0.50) * 1000,
            p99_ms=_quantile(latencies_s, 0.99) * 1000,
            cpu_share=(time.process_time() - self._began_cpu_s) / elapsed_s,
            errors=self._errors,
            first_error=self._first_error,
        )


def _quantile(ordered: list[float], share: float) -> float:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def serve_rounds(measure: Callable[[RoundOrder], Coroutine[Any, Any, Measured]]) -> None:
    """Carry out what stdin orders, until it ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            measured = runner.run(measure(RoundOrder(**json.loads(line))))
            print(json.dumps(asdict(measured)), flush=True)
