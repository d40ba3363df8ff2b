"""Questions that come while an answer is on its way are asked together, each once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Together(Generic[Q, A]):
    """`answer` is asked what was gathered, and answers in that order. What it raises, all of them raise.

    Nobody gets an answer that was asked for before the question came.
    """

    def __init__(self, answer: Callable[[list[Q]], Awaitable[list[A]]]) -> None:
        self._answer = answer
        self._gathered: dict[Q, list[asyncio.Future[A]]] = {}
        self._asking: asyncio.Task[None] | None = None

    def ask(self, question: Q) -> asyncio.Future[A]:
        done: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._gathered.setdefault(question, []).append(done)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="questions-asked-together")
        return done

    async def _ask(self) -> None:
        try:
            while self._gathered:
                await asyncio.sleep(0)  # who comes in this turn of the loop is asked for as well
                asked, self._gathered = self._gathered, {}
                outcomes: list[Any]
                try:
                    outcomes = await self._answer(list(asked))
                except Exception as error:  # noqa: BLE001 - handed to those who asked
                    outcomes = [error] * len(asked)
                for waiting, outcome in zip(asked.values(), outcomes, strict=True):
                    for done in waiting:
                        if done.done():  # who asked gave up
                            continue
                        if isinstance(outcome, Exception):
                            done.set_exception(outcome)
                        else:
                            done.set_result(outcome)
        finally:
            self._asking = None
