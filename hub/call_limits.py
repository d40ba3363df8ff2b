"""How many calls one caller and one address may make, over ten seconds, at all hub processes together.

A call costs no way to Redis: each process counts for itself, and settles with the others twice a second. So what may
come through beyond a limit is what comes in at the other processes within half a second. While Redis is away nobody is
refused.
"""

import asyncio
import functools
import ipaddress
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import structlog

from hub.store import Store, StoreUnreachable
from hub.tasks import GoingOn

WINDOW_S: Final = 10
SETTLE_EVERY_S: Final = 0.5
MOST_KEYS: Final = 100_000
"""Of one window; who comes beyond them is not counted."""
_IPV6_SITE_BITS: Final = 64
_LONGEST_NAME: Final = 64
_SHORTEST_WAIT_S: Final = 0.001

log = structlog.get_logger()


@dataclass(slots=True)
class _Count:
    """Calls of one key in one window. ours: let in here; settled: so many of them Redis knows.

    all, before: of every process, in this window and the one before, as Redis last said.
    """

    ours: int = 0
    settled: int = 0
    all: int = 0
    before: int = 0

    @property
    def now(self) -> int:
        return self.all + self.ours - self.settled


class SlidingCounts:
    """The rule, without a clock: of the window before counts what has not gone by yet. `now_s` is the time of day."""

    def __init__(self) -> None:
        self._window = 0
        self._counts: dict[str, _Count] = {}
        self._before: dict[str, _Count] = {}

    def admit(self, key: str, most: int, now_s: float) -> float:
        """0: let in, and counted. Otherwise how many seconds until there is room again."""
        share = self._at(now_s)[1]
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= MOST_KEYS:
                return 0
            before = self._before.get(key)
            count = self._counts[key] = _Count(before=0 if before is None else before.now)
        now = count.now
        if count.before * (1 - share) + now < most:
            count.ours += 1
            return 0
        if now < most:  # of the window before enough has gone by soon
            return max(_SHORTEST_WAIT_S, (1 - (most - now) / count.before - share) * WINDOW_S)
        return (1 - share + max(0.0, 1 - most / now)) * WINDOW_S

    def unsettled(self, now_s: float) -> list[tuple[int, str, int]]:
        """(window, key, calls) of which Redis does not know."""
        window, _ = self._at(now_s)
        return [
            (number, key, count.ours - count.settled)
            for number, counts in ((window, self._counts), (window - 1, self._before))
            for key, count in counts.items()
            if count.ours > count.settled
        ]

    def settle(self, window: int, key: str, calls: int, in_all: int, before: int) -> None:
        """Redis has taken these calls in; that is what it has now."""
        counts = {self._window: self._counts, self._window - 1: self._before}.get(window, {})
        if (count := counts.get(key)) is not None:
            count.settled += calls
            count.all = in_all
            count.before = max(count.before, before)
            if window == self._window - 1 and (newer := self._counts.get(key)) is not None:
                newer.before = max(newer.before, count.now)

    def _at(self, now_s: float) -> tuple[int, float]:
        """The window of that moment, which a new one begins if need be, and the share of it that has gone by."""
        window = int(now_s // WINDOW_S)
        if window == self._window - 1:  # the clock was put back a little
            return self._window, 0.0
        if window != self._window:
            self._before = self._counts if window == self._window + 1 else {}
            self._window, self._counts = window, {}
        return window, now_s / WINDOW_S - window


class CallLimits:
    """`async with CallLimits(store, of_caller, of_address) as limits`: calls per second, 0 is no limit."""

    def __init__(self, store: Store, of_caller: int, of_address: int) -> None:
        self._store = store
        self._most_of_caller = of_caller * WINDOW_S
        self._most_of_address = of_address * WINDOW_S
        self._counts = SlidingCounts()
        self._is_blind = False
        self._settling = GoingOn(self._settle_on, "call-limits")

    async def __aenter__(self) -> Self:
        await self._settling.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._settling.__aexit__(kind, error, trace)

    def admit_caller(self, caller_id: str, *, urgent: bool = False) -> int:
        """0, or in how many whole seconds to try again."""
        return self._admit(f"caller:{caller_id}", self._most_of_caller, urgent=urgent)

    def admit_address(self, address: str, *, urgent: bool = False) -> int:
        """The same for a network address; IPv6 by its /64, in which one client may take any."""
        return self._admit(network_of(address), self._most_of_address, urgent=urgent)

    def _admit(self, key: str, most: int, *, urgent: bool) -> int:
        # What is urgent has a limit of its own behind that of the rest: a script that has run wild stops no stop.
        wait_s = self._counts.admit(key, most * 2 if urgent else most, time.time()) if most else 0
        return 0 if self._is_blind else math.ceil(wait_s)

    async def _settle_on(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            if unsettled := self._counts.unsettled(time.time()):
                await self._settle(unsettled)

    async def _settle(self, unsettled: list[tuple[int, str, int]]) -> None:
        commands = [command for window, key, calls in unsettled for command in _commands(window, key, calls)]
        try:
            replies = await self._store.calls(*commands)
        except StoreUnreachable as error:
            if not self._is_blind:
                log.warning("calls are not limited while Redis is away", reason=str(error))
            self._is_blind = True
            return
        self._is_blind = False
        for (window, key, calls), (in_all, _, before) in zip(unsettled, _by_three(replies), strict=True):
            self._counts.settle(window, key, calls, int(in_all), int(before or 0))


def _commands(window: int, key: str, calls: int) -> Iterable[tuple[Any, ...]]:
    counted = f"fh:{{calls}}:{window}:{key}"
    yield "INCRBY", counted, calls
    yield "PEXPIRE", counted, 3 * WINDOW_S * 1000
    yield "GET", f"fh:{{calls}}:{window - 1}:{key}"


def _by_three(replies: list[Any]) -> Iterable[tuple[Any, Any, Any]]:
    each = iter(replies)
    return zip(each, each, each, strict=True)


@functools.lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """Who one address stands for, as a key."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"address:{address[:_LONGEST_NAME]}"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return f"address:{found.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((found, _IPV6_SITE_BITS), strict=False)}"
    return f"address:{found}"
