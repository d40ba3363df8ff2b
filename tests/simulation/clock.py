"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing is left to do.

What happens at a moment of its own (a message arrives, a transaction commits, Redis answers) is a timer here, and how
long it takes comes from the seed. So the seed decides the order, and the same seed decides it again.
"""

import asyncio
from asyncio import base_events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, TypeVar

from hub.protocol.times import whole_ms

T = TypeVar("T")
_NOBODYS: Final = copy_context()


class Stalled(Exception):
    """Nothing is left to do, and nothing will ever happen."""


class Life:
    """One process from its start to its end. What it does after its end has no effect, as after `kill -9`.

    Between any two of its steps to the outside it may be killed: `fuse` counts the steps that are left.
    """

    def __init__(self, name: str, killed: Callable[[], None], clock_off: timedelta = timedelta()) -> None:
        self.name = name
        self.over = False
        self.fuse: int | None = None
        self.clock_off = clock_off
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context: Context = copy_context()
        self.context.run(LIFE.set, self)
        self._killed = killed

    def step(self) -> bool:
        """A step to the outside is about to be taken; False if the process does not live to take it."""
        if self.fuse is not None and not self.over:
            self.fuse -= 1
            if self.fuse < 0:
                self._killed()
        return not self.over

    def end(self) -> None:
        self.over = True
        for task in list(self.tasks):
            task.cancel()


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
"""Whose code runs now; None for the world's own."""


class VirtualLoop(base_events.BaseEventLoop):
    """`executor_s` says how long work for a thread takes to begin, and how long its answer takes."""

    def __init__(self, begins_at: datetime, executor_s: Callable[[], float]) -> None:
        super().__init__()
        self.now_s = 0.0
        self._begins_at = begins_at
        self._executor_s = executor_s
        self._selector = self
        self._clock_resolution = 1e-9
        self.set_task_factory(_task_of_its_life)

    def utc_now(self) -> datetime:
        """The time, as the process that asks has it."""
        life = LIFE.get()
        off = timedelta() if life is None else life.clock_off
        return whole_ms(self._begins_at + timedelta(seconds=self.now_s) + off)

    def true_time(self) -> datetime:
        return self._begins_at + timedelta(seconds=self.now_s)

    def at(self, when_s: float, act: Callable[[], object]) -> asyncio.TimerHandle:
        """The world does something then, on nobody's behalf."""
        return self.call_at(when_s, act, context=_NOBODYS)

    def after(self, pause_s: float, act: Callable[[], object]) -> asyncio.TimerHandle:
        return self.at(self.now_s + pause_s, act)

    def start(self, work: Coroutine[Any, Any, T], life: Life | None = None) -> asyncio.Task[T]:
        return self.create_task(work, context=copy_context() if life is None else life.context)

    # --- what asyncio asks of a loop ---------------------------------------------------------------------------

    def time(self) -> float:
        return self.now_s

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stalled
        self.now_s += timeout
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]
        """No threads: the work is done in one piece at a moment that the seed chooses, and told at a later one."""
        life = LIFE.get()
        done: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if life is not None and not life.step():
                return
            try:
                result, error = func(*args), None
            except Exception as raised:  # noqa: BLE001 - it is told to whoever asked for the work
                result, error = None, raised
            if life is None or life.step():
                self.after(self._executor_s(), lambda: tell(result, error))

        def tell(result: Any, error: Exception | None) -> None:
            if done.done() or (life is not None and life.over):
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        self.after(self._executor_s(), work)
        return done


def _task_of_its_life(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, context=context)
    life = LIFE.get() if context is None else context.get(LIFE)
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(lambda done: life.tasks.pop(done, None))
    return task


def exponential(random: Random, mean_s: float, most_s: float) -> float:
    """A time that is mostly short and now and then long."""
    return min(random.expovariate(1 / mean_s), most_s)
