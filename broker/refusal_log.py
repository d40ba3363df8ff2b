"""What a broker refuses, told without flooding: the first few of a kind at once, then once a minute how many more.

A kind is one reason and one user or, where none is proven, one network. A flood of one kind is a line a minute. Of a
flood of many kinds, as from many networks, those past `MAX_KINDS` are told as one. What is told is for reading; what
is counted, by reason and exactly, are the broker's counters.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from broker.addresses import network_of
from broker.guard import Refusal

FIRST_FEW: Final = 5
MAX_KINDS: Final = 100
ROUND_S: Final = 60.0


@dataclass(slots=True)
class _Kind:
    last: Refusal
    told: int = 0
    untold: int = 0
    quiet: bool = False


class Sieve:
    """The rule, without a clock: a round lasts until `next_round`."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str | None], _Kind] = {}

    def passes(self, refusal: Refusal) -> bool:
        """Whether to tell it at once; if not, the round's end will."""
        key: tuple[str, str | None] = (refusal.reason, refusal.identity or network_of(refusal.address))
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = (refusal.reason, None)
        kind = self._kinds.setdefault(key, _Kind(refusal))
        kind.last, kind.quiet = refusal, False
        if kind.told < FIRST_FEW:
            kind.told += 1
            return True
        kind.untold += 1
        return False

    def next_round(self) -> list[tuple[Refusal, int]]:
        """The last of each kind that was not told, and how many these were. Kinds of which none came are forgotten."""
        told = [(kind.last, kind.untold) for kind in self._kinds.values() if kind.untold]
        self._kinds = {key: kind for key, kind in self._kinds.items() if not kind.quiet}
        for kind in self._kinds.values():
            kind.untold, kind.quiet = 0, True
        return told


class RefusalLog:
    """`async with RefusalLog(tell) as refusals`: `refusals.record` is what a broker calls for each refusal.

    tell: must not wait, nor raise. It is given a refusal, and how many times: the last of so many.
    """

    def __init__(self, tell: Callable[[Refusal, int], None]) -> None:
        self._tell = tell
        self._sieve = Sieve()
        self._rounds: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._rounds = asyncio.create_task(self._each_round(), name="refusal-log")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait({self._rounds})
        self._tell_untold()

    def record(self, refusal: Refusal) -> None:
        if self._sieve.passes(refusal):
            self._tell(refusal, 1)

    async def _each_round(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            self._tell_untold()

    def _tell_untold(self) -> None:
        for refusal, times in self._sieve.next_round():
            self._tell(refusal, times)
