"""Tasks with an owner: `async with Tasks() as tasks` waits for what was started, and says what failed."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Self

import structlog

END_WITHIN_S: Final = 2.0

log = structlog.get_logger()


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
