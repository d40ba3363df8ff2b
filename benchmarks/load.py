"""What a load generator does whatever it speaks: rounds on demand in a closed loop, counted and timed.

A generator is a process of its own. Each line on its stdin orders a round, each line on its stdout is a `Measured`;
it ends with its stdin.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import uvloop

_O = TypeVar("_O")

LAST_ANSWERS_WITHIN_S: Final = 10.0
"""How long after the end of a round the answers that are still due may take."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. `seconds`: from the first request to the last answer. `cpu_share`: the generator's own, of a core.

    The latencies are None where they are not taken, the share where generator and server are one process.
    """

    count: int
    seconds: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_share: float | None
    errors: int
    first_error: str | None


class Tally:
    """Counts one round of that many seconds. Every request that was begun is waited for and counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._count = 0
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

    def add(self, count: int) -> None:
        """So many were answered now."""
        self._last_answer_s = time.perf_counter()
        self._count += count

    def answered(self, sent_at_s: float) -> None:
        """One was answered now that was sent then."""
        self.add(1)
        self._latencies_s.append(self._last_answer_s - sent_at_s)

    def failed(self, why: str) -> None:
        self._errors += 1
        self._first_error = self._first_error or why

    def measured(self, *, has_own_process: bool = True) -> Measured:
        seconds = self._last_answer_s - self._began_s
        elapsed_s = time.perf_counter() - self._began_s
        latencies_s = sorted(self._latencies_s)
        return Measured(
            count=self._count,
            seconds=seconds,
            p50_ms=_quantile_ms(latencies_s, 0.50),
            p99_ms=_quantile_ms(latencies_s, 0.99),
            cpu_share=(time.process_time() - self._began_cpu_s) / elapsed_s if has_own_process else None,
            errors=self._errors,
            first_error=self._first_error,
        )


def _quantile_ms(ordered_s: list[float], share: float) -> float | None:
    """Nearest rank."""
    return ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))] * 1000 if ordered_s else None


def serve_rounds(order: Callable[..., _O], measure: Callable[[_O], Coroutine[Any, Any, Measured]]) -> None:
    """Carry out what stdin orders, until it ends."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in sys.stdin:
            measured = runner.run(measure(order(**json.loads(line))))
            print(json.dumps(asdict(measured)), flush=True)
