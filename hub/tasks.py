"""Tasks with an owner: short ones, which may fail, and those that go on as long as a part of the hub, which may not."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self

import structlog

from hub.errors import HubError

END_WITHIN_S: Final = 2.0

log = structlog.get_logger()


class TaskDied(HubError):
    """A task without which the hub cannot work has died of an error, which the log tells."""


class GoingOn:
    """`async with GoingOn(work, name)`: a task that goes on inside the block, and is cancelled at its end.

    If it dies of an error, which is a mistake of the program, the block is cancelled and raises TaskDied. So the hub
    ends, and whoever watches over it starts it anew, rather than seeming well while a part of it does nothing.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._cancelled_owner = False

    async def __aenter__(self) -> asyncio.Task[None]:
        owner = asyncio.current_task()
        assert owner is not None
        self._owner, self._cancelling = owner, owner.cancelling()
        self._task = asyncio.create_task(self._work(), name=self._name)
        self._task.add_done_callback(self._ended)
        return self._task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._task.cancel()
            await asyncio.wait({self._task})
            await asyncio.sleep(0)  # if it died just now, that is felt here and in no later block
        except asyncio.CancelledError as cancelled:
            error = cancelled
        ours = self._cancelled_owner and self._owner.uncancel() <= self._cancelling
        if isinstance(error, asyncio.CancelledError) and not ours:
            raise error
        if not self._task.cancelled() and (fault := self._task.exception()) is not None:
            raise TaskDied(f"The hub cannot go on: {self._name} died of {fault!r}.") from fault

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.critical("a task died, and the hub ends", task=self._name, exc_info=fault)
            self._cancelled_owner = self._owner.cancel()


class Tasks:
    """Short tasks that nobody awaits one by one; at the end they have two seconds, then they are cancelled."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._running:
            late = (await asyncio.wait(self._running, timeout=END_WITHIN_S))[1]
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", task=task.get_name(), exc_info=error)
