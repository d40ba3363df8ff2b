"""Rounds of one thing after the other, alternating, so that a machine whose speed wanders wanders for all alike."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.load import LAST_ANSWERS_WITHIN_S, Measured
from benchmarks.processes import Child

WARM_UP_S: Final = 1.0
_SLACK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Round:
    """One case once. `number` 0 is the warm-up.

    what: what is measured; the cases of one `what` are compared with each other.
    server_cpu_s: CPU time of the server's process in this round; None where it is not known.
    server_bytes: by how much its memory grew; None where that is not measured.
    """

    number: int
    what: str
    case: str
    measured: Measured
    server_cpu_s: float | None
    server_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What is done once in each round.

    run: is told the number of the round and how many seconds it lasts.
    warms_up: whether there is a short round 0 of it.
    """

    what: str
    case: str
    seconds: float
    run: Callable[[int, float], Awaitable[Round]]
    warms_up: bool = True

    def lasts_s(self, number: int) -> float:
        """Seconds that it takes in that round, 0 if it has no part in it."""
        return self.seconds if number else min(WARM_UP_S, self.seconds) * self.warms_up


class Meter:
    """What a process has used since now; None where the system does not tell."""

    def __init__(self, process: Child) -> None:
        self._process = process
        self._cpu_s = process.cpu_seconds()
        self._held_bytes = process.memory_bytes()

    def cpu_s(self) -> float | None:
        now_s = self._process.cpu_seconds()
        return None if now_s is None or self._cpu_s is None else now_s - self._cpu_s

    def grown_bytes(self) -> int | None:
        now_bytes = self._process.memory_bytes()
        return None if now_bytes is None or self._held_bytes is None else now_bytes - self._held_bytes


@dataclass(frozen=True, slots=True)
class Case:
    """`server`: whose CPU time is counted. `load`: takes orders for rounds."""

    title: str
    server: Child
    load: Child

    async def measure(self, number: int, what: str, order: Any) -> Round:
        """Let the load carry out an order, a dataclass with its `seconds`. Raises ChildFailed."""
        meter = Meter(self.server)
        await self.load.say(**asdict(order))
        measured = Measured(**await self.load.hear(order.seconds + LAST_ANSWERS_WITHIN_S + _SLACK_S))
        return Round(number, what, self.title, measured, meter.cpu_s())


async def measure(console: Console, part: str, steps: Sequence[Step], rounds: int) -> list[Round]:
    """The warm-up and `rounds` rounds of every step, in turns forwards and backwards."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    measured: list[Round] = []
    with bar:
        task = bar.add_task("", total=sum(step.lasts_s(number) for number in range(rounds + 1) for step in steps))
        for number in range(rounds + 1):
            for step in steps if number % 2 else reversed(steps):
                if seconds := step.lasts_s(number):
                    stage = f"round {number} of {rounds}" if number else "warming up"
                    bar.update(task, description=f"{part}, {stage}: {step.what}, {step.case}")
                    measured.append(await step.run(number, seconds))
                    bar.advance(task, seconds)
    return measured
