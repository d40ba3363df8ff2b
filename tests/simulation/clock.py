"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing is left to do.

What happens at a moment of its own (a message arrives, a transaction commits, Redis answers) is a timer here, and how
long it takes comes from the seed. So the seed decides the order, and the same seed decides it again.
"""

import asyncio
import itertools
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from datetime import datetime, timedelta
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, TypeVar

from hub.protocol.times import whole_ms

T = TypeVar("T")
_DONE_TASKS_KEPT: Final = 64


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
        self._tasks: list[asyncio.Task[Any]] = []
        self._look_through_at = _DONE_TASKS_KEPT
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

    def owns(self, task: asyncio.Task[Any]) -> None:
        """The task ends with this life."""
        self._tasks.append(task)
        if len(self._tasks) >= self._look_through_at:  # cheaper than to be told by each that it is done
            self._tasks = [task for task in self._tasks if not task.done()]
            self._look_through_at = 2 * len(self._tasks) + _DONE_TASKS_KEPT

    def end(self) -> None:
        self.over = True
        for task in self._tasks:
            task.cancel()


LIFE: ContextVar[Life | None] = ContextVar("life", default=None)
"""Whose code runs now; None for the world's own."""


class _Turn:
    """What is called in its turn, or at its time: asyncio's `Handle` and `TimerHandle`, as far as asyncio uses them."""

    __slots__ = ("_act", "_args", "_context", "_when_s")

    def __init__(
        self, act: Callable[..., object], args: tuple[Any, ...], context: Context | None, when_s: float = 0.0
    ) -> None:
        self._act: Callable[..., object] | None = act
        self._args = args
        self._context = copy_context() if context is None else context
        self._when_s = when_s

    def __call__(self) -> None:
        if self._act is not None:
            self._context.run(self._act, *self._args)

    def cancel(self) -> None:
        self._act, self._args = None, ()

    def cancelled(self) -> bool:
        return self._act is None

    def when(self) -> float:
        return self._when_s


class VirtualLoop(base_events.BaseEventLoop):
    """`executor_s` says how long work for a thread takes to begin, and how long its answer takes.

    asyncio's own loop asks for the time, the sockets and its debug mode at every turn, and compares timers in Python;
    here a turn costs a fifth of that. What is due at the same moment comes in the order in which it was asked for.
    """

    def __init__(self, begins_at: datetime, executor_s: Callable[[], float]) -> None:
        super().__init__()
        self.now_s = 0.0
        self._begins_at = begins_at
        self._begins_at_s = begins_at.timestamp()
        self._executor_s = executor_s
        self._turns: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._timer_numbers = itertools.count()
        self.set_task_factory(_task_of_its_life)

    def utc_now(self) -> datetime:
        """The time, as the process that asks has it."""
        life = LIFE.get()
        off = timedelta() if life is None else life.clock_off
        return whole_ms(self._begins_at + timedelta(seconds=self.now_s) + off)

    def true_time(self) -> datetime:
        return self._begins_at + timedelta(seconds=self.now_s)

    def true_ms(self) -> int:
        """The true time, in milliseconds since 1970."""
        return int((self._begins_at_s + self.now_s) * 1000)

    def at(self, when_s: float, act: Callable[[], object]) -> None:
        """The world does something then, on nobody's behalf."""
        heappush(self._timers, (when_s, next(self._timer_numbers), act))

    def after(self, pause_s: float, act: Callable[[], object]) -> None:
        self.at(self.now_s + pause_s, act)

    def start(self, work: Coroutine[Any, Any, T], life: Life | None = None) -> asyncio.Task[T]:
        return self.create_task(work, context=copy_context() if life is None else life.context)

    # --- what asyncio asks of a loop ---------------------------------------------------------------------------

    def time(self) -> float:
        return self.now_s

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Turn:
        turn = _Turn(callback, args, context)
        self._turns.append(turn)
        return turn

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Turn:
        turn = _Turn(callback, args, context, when)
        self.at(when, turn)
        return turn

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Turn:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Turn after turn until somebody stops the loop; when all have had theirs the clock jumps to the next timer."""
        turns, timers = self._turns, self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if turns:
                turn = turns.popleft()
            elif timers:
                when_s, _, turn = heappop(timers)
                self.now_s = max(self.now_s, when_s)
            else:
                raise Stalled
            try:
                turn()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does it: told to the loop's handler
                self.call_exception_handler({"message": "a turn fails", "exception": error})

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
        life.owns(task)
        # What a killed process waited for never comes; nobody is to be told of that when Python clears up after it.
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # as asyncio does itself
    return task


def exponential(random: Random, mean_s: float, most_s: float) -> float:
    """A time that is mostly short and now and then long."""
    return min(random.expovariate(1 / mean_s), most_s)
