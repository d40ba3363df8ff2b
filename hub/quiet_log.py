"""What strangers and broken desktops cause, told without flooding: the first few of a kind, then how many a minute.

A kind is one reason and one source: a user or, where none is proven, a network. A flood of one kind is a line a minute.
Of a flood of many kinds, as from many networks, those past `MAX_KINDS` are told as one. What is told is for reading;
what is counted, by reason and exactly, are the counters beside it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import structlog

from hub.tasks import GoingOn

FIRST_FEW: Final = 5
MAX_KINDS: Final = 100
ROUND_S: Final = 60.0

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(slots=True)
class _Kind(Generic[T]):
    last: T
    told: int = 0
    untold: int = 0
    quiet: bool = False


class Sieve(Generic[T]):
    """The rule, without a clock: a round lasts until `next_round`."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str | None], _Kind[T]] = {}

    def passes(self, reason: str, source: str, event: T) -> bool:
        """Whether to tell it at once; if not, the round's end will."""
        key: tuple[str, str | None] = (reason, source)
        if key not in self._kinds and len(self._kinds) >= MAX_KINDS:
            key = (reason, None)
        kind = self._kinds.setdefault(key, _Kind(event))
        kind.last, kind.quiet = event, False
        if kind.told < FIRST_FEW:
            kind.told += 1
            return True
        kind.untold += 1
        return False

    def next_round(self) -> list[tuple[T, int]]:
        """The last of each kind that was not told, and how many these were. Kinds of which none came are forgotten."""
        told = [(kind.last, kind.untold) for kind in self._kinds.values() if kind.untold]
        self._kinds = {key: kind for key, kind in self._kinds.items() if not kind.quiet}
        for kind in self._kinds.values():
            kind.untold, kind.quiet = 0, True
        return told


class QuietLog(Generic[T]):
    """`async with QuietLog(tell) as log`: `log.record` tells an event now, or in its round's sum.

    tell: must not wait, nor raise. It is given an event, and how many times: the last of so many.
    """

    def __init__(self, tell: Callable[[T, int], None]) -> None:
        self._tell = tell
        self._sieve: Sieve[T] = Sieve()
        self._rounds = GoingOn(self._each_round, "quiet-log")

    async def __aenter__(self) -> Self:
        await self._rounds.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._rounds.__aexit__(kind, error, trace)
        finally:
            self._tell_untold()

    def record(self, reason: str, source: str, event: T) -> None:
        if self._sieve.passes(reason, source, event):
            self._tell(event, 1)

    async def _each_round(self) -> None:
        while True:
            await asyncio.sleep(ROUND_S)
            self._tell_untold()

    def _tell_untold(self) -> None:
        for event, times in self._sieve.next_round():
            self._tell(event, times)


class QuietLines:
    """`async with QuietLines() as lines`: lines of the log of which a flood may cause any number.

    Their kind is what they say, and of whom; a line of a round's sum has `times`.
    """

    def __init__(self) -> None:
        self._log: QuietLog[tuple[str, str, dict[str, Any]]] = QuietLog(self._tell)

    async def __aenter__(self) -> Self:
        await self._log.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._log.__aexit__(kind, error, trace)

    def info(self, what: str, of: str, **facts: Any) -> None:
        self._log.record(what, of, ("info", what, facts))

    def warning(self, what: str, of: str, **facts: Any) -> None:
        self._log.record(what, of, ("warning", what, facts))

    @staticmethod
    def _tell(line: tuple[str, str, dict[str, Any]], times: int) -> None:
        level, what, facts = line
        more = {"times": times} if times > 1 else {}
        getattr(log, level)(what, **facts, **more)
